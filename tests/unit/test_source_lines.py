"""The script that keeps links to lines right notices what is wrong, and corrects what can be corrected."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from tests.conftest import ROOT

SOURCE = """X = 1


class A:
    y: int = 2

    @staticmethod
    def f():
        pass


def f():
    pass
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("source_lines", ROOT / "docs/source_lines.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def page(tmp_path):
    (tmp_path / "code.py").write_text(SOURCE)
    return tmp_path / "page.md"


def test_names_are_found_where_they_are_defined(script, page):
    # Counted by hand in SOURCE; a decorated function is where its def is.
    assert script.definitions(page.parent / "code.py") == {"X": 1, "A": 4, "A.y": 5, "A.f": 8, "f": 12}


def test_a_right_link_is_left_alone(script, page):
    page.write_text("[`A.f`](code.py#L8), [`X`](code.py#L1)")
    assert list(script.wrong_links(page)) == []
    assert script.fix(page) == 0


def test_wrong_lines_are_corrected_and_unknown_names_are_not(script, page):
    page.write_text(
        "[`f`](code.py#L8) [`A.f`](code.py#L100) [`g`](code.py#L3) [`f`](gone.py#L12) [`f`](code.py#L12)"
    )
    assert [(match["text"], line) for match, line in script.wrong_links(page)] == [
        ("`f`", 12),
        ("`A.f`", 8),
        ("`g`", None),
        ("`f`", None),
    ]
    assert script.fix(page) == 2
    assert page.read_text() == (
        "[`f`](code.py#L12) [`A.f`](code.py#L8) [`g`](code.py#L3) [`f`](gone.py#L12) [`f`](code.py#L12)"
    )
