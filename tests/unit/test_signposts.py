"""Signposts in the source: first lines of modules, references between docstrings, and examples that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = {"pipo": ROOT / "pipo", "pipo_sandbox": ROOT / "sandbox/pipo_sandbox", "bench": ROOT / "bench"}
PROGRAMS = [ROOT / "train.py", ROOT / "eval.py", *sorted((ROOT / "hydra_plugins").rglob("*.py"))]
FILES = [*(file for folder in PACKAGES.values() for file in sorted(folder.rglob("*.py"))), *PROGRAMS]
# An empty __init__.py only makes a folder a package; it says nothing and needs no first line.
MODULES = [file for file in FILES if file.read_text(encoding="utf-8").strip()]

RIDDLE = re.compile(r"(?:What|How|Which|Whether)\b")
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc|obj):`~?([^`]+)`")
# A dotted name of ours in double backquotes; ``pipo/x.py`` is a path, and a file name is no module.
DOTTED = re.compile(r"``((?:pipo|pipo_sandbox|bench)(?:\.\w+)+)``")
PATHS = re.compile(r"(?<![\w./-])((?:pipo|sandbox|bench|tests|conf|docs)/[\w./-]+\.(?:py|yaml|md))\b")
# Keys of the configuration and metrics begin with the name of the package, too.
SETTINGS = {"row_fraction", "kl_coef", "max_progress", "mini_batch", "window", "rows_follow_coefficient"}


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of every docstring (of fields, too) and comment."""
    source = file.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text
    for number, line in enumerate(source.splitlines(), start=1):
        if line.lstrip().startswith("#"):
            yield number, line


@cache
def file_of(module: str) -> Path | None:
    """The file of a module of ours."""
    package, *rest = module.split(".")
    if package not in PACKAGES:
        return None
    path = PACKAGES[package].joinpath(*rest)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def names_in(file: Path) -> dict[str, ast.ClassDef | None]:
    """Everything that stands at the top of a module, or is imported there: a class with its body."""
    found: dict[str, ast.ClassDef | None] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = None
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                found.update({n.id: None for n in ast.walk(target) if isinstance(n, ast.Name)})
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update({alias.asname or alias.name: None for alias in node.names})
    return found


def members(body: ast.ClassDef) -> set[str]:
    """Methods and fields of a class, and what its methods set on ``self``."""
    found = {n.name for n in body.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in ast.walk(body):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                found.add(name)
    return found


def resolves(name: str, here: Path) -> bool:
    """Whether a name is a module of ours, or something in one; or in the file at hand, or a class there."""
    parts = name.removesuffix("()").split(".")
    for cut in range(len(parts), 0, -1):
        file = file_of(".".join(parts[:cut]))
        if file is not None:
            return found_in(file, parts[cut:])
    if parts[0] in PACKAGES:
        return False
    own = [body for body in names_in(here).values() if body is not None]
    return found_in(here, parts) or (len(parts) == 1 and any(parts[0] in members(body) for body in own))


def found_in(file: Path, parts: list[str]) -> bool:
    """Whether a module has a name at its top, or a member of a class there."""
    if not parts:
        return True
    names = names_in(file)
    body = names.get(parts[0])
    return parts[0] in names and (len(parts) == 1 or (body is not None and parts[1] in members(body)))


@pytest.mark.parametrize("file", MODULES, ids=named)
def test_the_first_line_of_a_module_says_what_it_does(file):
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert docstring, f"{named(file)} begins without a docstring"
    first = docstring.splitlines()[0]
    assert not RIDDLE.match(first), f"{named(file)} begins with a question: {first}"
    assert first.rstrip().endswith((".", "?", ":", "!")), f"the first line is no whole sentence: {first}"


def test_references_in_docstrings_and_comments_lead_somewhere():
    stale, seen = [], 0
    for file in FILES:
        for line, text in texts(file):
            wanted = ROLE.findall(text)
            wanted += [n for n in DOTTED.findall(text) if n.split(".")[1] not in SETTINGS]
            seen += len(wanted)
            stale += [f"{named(file)}:{line}: {name}" for name in wanted if not resolves(name, file)]
    assert not stale, "\n".join(["nothing has these names:", *stale])
    assert seen > 50, "the test reads fewer references than the source has"


def test_paths_in_docstrings_and_comments_are_there():
    found = [(f, n, path) for f in FILES for n, text in texts(f) for path in PATHS.findall(text)]
    stale = [f"{named(f)}:{n}: {path}" for f, n, path in found if not (ROOT / path).is_file()]
    assert not stale, "\n".join(["there are no such files:", *stale])
    assert len(found) > 10, "the test reads fewer paths than the source has"


@pytest.mark.parametrize(
    "module",
    [
        f"{package}.{'.'.join(file.relative_to(folder).with_suffix('').parts)}"
        for package, folder in PACKAGES.items()
        for file in sorted(folder.rglob("*.py"))
        if "    >>> " in file.read_text(encoding="utf-8")
    ],
)
def test_examples_in_docstrings_give_what_they_show(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0, "see the report of doctest above"
