"""Links of the documentation to Python files: the file is there, and defines the name that the link shows."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+\.py)(#[^)]*)?\)")
SYMBOL = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)`")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def definitions(source: Path) -> frozenset[str]:
    """Functions, classes, constants and, with their class, methods and fields."""
    found: set[str] = set()

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    walk(ast.parse(source.read_text(encoding="utf-8")).body, "")
    return frozenset(found)


def wrong_links(page: Path) -> list[str]:
    """What is wrong with a page's links to Python files."""
    wrong = []
    for text, file, fragment in LINK.findall(page.read_text(encoding="utf-8")):
        source = (page.parent / file).resolve()
        symbol = SYMBOL.fullmatch(text)
        if "://" in file:
            continue
        if not source.is_file():
            wrong.append(f"{file}: there is no such file")
        elif fragment:
            wrong.append(f"{file}{fragment}: a line moves, name the symbol")
        elif symbol and symbol[1] not in definitions(source):
            wrong.append(f"{file}: {symbol[1]} is not defined there")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_python_file_leads_to_what_it_names(page):
    assert wrong_links(page) == []


def test_wrong_links_are_found(tmp_path):
    (tmp_path / "code.py").write_text("X = 1\nclass A:\n    y: int = 2\n    def f(self): ...\ndef f(): ...\n")
    page = tmp_path / "page.md"
    right = (
        "[`X`](code.py) [`A.y`](code.py) [`A.f`](code.py) [`f`](code.py) [words](code.py) [`a/b.py`](code.py)"
    )
    page.write_text(right + " [`g`](code.py) [`A.g`](code.py) [`f`](gone.py) [`f`](code.py#L5)")
    assert wrong_links(page) == [
        "code.py: g is not defined there",
        "code.py: A.g is not defined there",
        "gone.py: there is no such file",
        "code.py#L5: a line moves, name the symbol",
    ]
