"""What README.md and docs/ say: their links, their headings and their commands."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("bash", "console", "sh", "shell")
# What begins a command of ours; a block that says it is one for the shell may begin with the others, too.
OURS = re.compile(r"^(?:[A-Z_]+=\S+ +)*(?:python (?:-m )?[\w./<>-]+|make\b|sbatch\b|launch/\S+\.sh)")
OTHERS = ("pip", "docker", "eval", "pytest", "git", "cd", "export", "wandb", "pre-commit")
FENCE = re.compile(r"^\s*```(.*)$")
FILE_BLOCK = re.compile(r"^```\w+\n# (my/\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACEHOLDER = "./placeholder"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?: \"[^\"]*\")?\)")


@dataclass(frozen=True, kw_only=True)
class Written:
    """Something on a page.

    Attributes:
        page: the file, from the root of the repository.
        line: counted from 1.
        text: a link's target, or a command without its comment.
    """

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def _lines(page: Path) -> Iterator[tuple[int, str, str | None]]:
    """Number, text and, inside of a block of code, its language."""
    language: str | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line)
        if fence:
            language = None if language is not None else fence[1].strip()
        else:
            yield number, line, language


def links() -> list[Written]:
    """Targets of all links outside of code."""
    return [
        Written(page=str(page.relative_to(ROOT)), line=number, text=target)
        for page in PAGES
        for number, line, language in _lines(page)
        if language is None
        for target in LINK.findall(re.sub(r"`[^`]*`", "code", line))
    ]


def anchors(page: Path) -> set[str]:
    """Fragments that GitHub gives the headings of a page."""
    found: dict[str, int] = {}
    for _, line, language in _lines(page):
        heading = re.match(r"^#+ +(.*?)#*$", line) if language is None else None
        if heading:
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "").strip().lower()
            slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{n}" if n else slug for slug, count in found.items() for n in range(count + 1)}


def commands() -> list[Written]:
    """Commands in blocks of code, and in the text where they are commands of ours."""
    return [
        Written(page=str(page.relative_to(ROOT)), line=number, text=text)
        for page in PAGES
        for number, text in _commands(page)
    ]


def _commands(page: Path) -> Iterator[tuple[int, str]]:
    unfinished = ""
    for number, line, language in _lines(page):
        if language is None:
            yield from ((number, code) for code in re.findall(r"`([^`]+)`", line) if _in_text(code))
            continue
        if language not in (*SHELL, ""):
            continue
        text = line.strip()
        if language == "console":
            if not (unfinished or text.startswith("$ ")):
                continue  # what the command prints
            text = text.removeprefix("$ ")
        if not text or text.startswith("#"):
            continue
        if not (unfinished or language in SHELL or OURS.match(text) or text.startswith("pip ")):
            continue
        unfinished = f"{unfinished} {text}".strip()
        if unfinished.endswith("\\"):
            unfinished = unfinished[:-1].strip()
            continue
        yield number, unfinished
        unfinished = ""


def _in_text(code: str) -> bool:
    """Whether a piece of code in the running text is a command of ours."""
    return bool(re.match(r"python (?:\S+\.py\b|-m )|make [\w-]+$|sbatch launch/", code))


def words(command: str) -> list[str]:
    """The words of a command, without comment and assignments.

    What the reader fills in (``<...>``, three dots or capitals after ``=``) becomes :data:`PLACEHOLDER`.
    """
    plain = re.sub(r"<[^<>]+>", PLACEHOLDER, command)
    plain = re.sub(r"=(?:\.\.\.|[A-Z]+)(?=\s|$)", f"={PLACEHOLDER}", plain)
    found = [word for word in shlex.split(plain, comments=True) if word != "..."]
    while found and re.match(r"^[A-Z_]+=", found[0]):
        found.pop(0)
    return found


def write_extensions(folder: Path) -> Path:
    """Write the files that docs/extending.md shows, all of them below ``my/``."""
    for name, content in FILE_BLOCK.findall((ROOT / "docs/extending.md").read_text(encoding="utf-8")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def flags(source: Path) -> set[str]:
    """Options that a program's argument parser knows, ``--help`` among them."""
    files = sorted(source.glob("*.py")) if source.is_dir() else [source]
    return {"-h", "--help"} | {
        argument.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "add_argument"
        for argument in node.args
        if isinstance(argument, ast.Constant) and str(argument.value).startswith("-")
    }
