"""Versioned prompt templates (Jinja), for chat models and plain text, with worked examples (few-shot)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import pydantic
import yaml

from pipo.errors import TaskError
from pipo.records.problems import Message, Prompt

TEMPLATES = Path(__file__).parent / "templates"

# Blocks leave no blank lines behind; a value that is not given is an error, never an empty string.
_ENVIRONMENT = jinja2.Environment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
)
# Compiling takes a hundred times as long as filling in, and a data set fills in the same text for each row.
_compiled = lru_cache(maxsize=64)(_ENVIRONMENT.from_string)


@dataclass(frozen=True, kw_only=True)
class Worked:
    """A problem with its solution, shown before the real one."""

    values: Mapping[str, str]
    """Values that fill the template."""
    response: str
    """The solution, in the form that is asked for."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """The prompt of a task."""

    name: str
    """Name of the file, without suffix."""
    version: int
    """Version number, raised whenever a text changes."""
    user: str
    """The user turn of a conversation, a Jinja template."""
    plain: str
    """The problem for a model without chat template; it ends where the answer begins."""
    system: str | None = None
    """The system turn, a Jinja template; None for none."""
    plain_head: str = ""
    """Text that stands once before the problems in the plain form; empty for nothing."""
    worked: Sequence[Worked] = field(default_factory=tuple)
    """Problems with solutions, of which a task may show the first few."""

    @property
    def label(self) -> str:
        """Name and version, for reports."""
        return f"{self.name}/{self.version}"

    def render(self, values: Mapping[str, Any], *, worked: int = 0) -> Prompt:
        """Fill in a problem, after the first ``worked`` solved ones.

        Args:
            values: what the template refers to; it is filled in as it is, never read as a template.
            worked: how many solved problems come first.

        Raises:
            TaskError: the template refers to something that is not given, or has fewer solved problems.
        """
        if not 0 <= worked <= len(self.worked):
            raise TaskError(
                f"template {self.name}: {worked} worked problems were asked for, it has {len(self.worked)}"
            )
        messages: list[Message] = []
        if self.system is not None:
            messages.append(Message(role="system", content=self._fill(self.system, values)))
        blocks = [self._fill(self.plain_head, values)] if self.plain_head else []
        for shown in self.worked[:worked]:
            messages.append(Message(role="user", content=self._fill(self.user, shown.values)))
            messages.append(Message(role="assistant", content=shown.response))
            blocks.append(f"{self._fill(self.plain, shown.values)} {shown.response}")
        messages.append(Message(role="user", content=self._fill(self.user, values)))
        blocks.append(self._fill(self.plain, values))
        return Prompt(messages=tuple(messages), text="\n\n".join(blocks))

    def _fill(self, text: str, values: Mapping[str, Any]) -> str:
        try:
            return _compiled(text).render(values).strip()
        except jinja2.TemplateError as error:
            raise TaskError(f"template {self.name}: {error}; it may use {sorted(values)}") from error


def load_template(name: str) -> Template:
    """A template that ships with the package (``math``), or a YAML file of one's own (``./mine.yaml``).

    Raises:
        TaskError: there is none, or it does not hold the fields of :class:`Template`.
    """
    path = Path(name).expanduser() if name.endswith(".yaml") else TEMPLATES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in TEMPLATES.glob("*.yaml")))
        raise TaskError(f"template {name!r}: there is no such file; {known} come with the package")
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise TaskError(f"{path}: must hold the fields of a template")
        adapter = pydantic.TypeAdapter(Template, config=None)
        return adapter.validate_python({"name": path.stem, **fields})
    except (yaml.YAMLError, pydantic.ValidationError) as error:
        first = str(error).replace("\n", " ")[:300]
        raise TaskError(f"{path}: not a template ({first})") from error
