"""Links of the documentation to a line of the source.

``[`name`](file.py#L12)`` must lead to the line where a function, a class, a method (``GRPO.advantages``) or a
constant of that name is defined. ``python docs/source_lines.py`` lists the links that do not, and ``--fix``
corrects their line numbers.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<file>[^)#\s]+\.py)#L(?P<line>\d+)\)")


def pages() -> list[Path]:
    """Everything that documents the repository."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def definitions(source: Path) -> dict[str, int]:
    """Qualified name -> line of its definition."""
    found: dict[str, int] = {}

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[prefix + node.name] = node.lineno
                if isinstance(node, ast.ClassDef):
                    walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                found.update((prefix + name, node.lineno) for name in names)

    walk(ast.parse(source.read_text(encoding="utf-8")).body, "")
    return found


def wrong_links(page: Path) -> Iterator[tuple[re.Match[str], int | None]]:
    """Links of a page to the wrong line, each with the right one; None when the name is not defined there."""
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        source = (page.parent / match["file"]).resolve()
        known = definitions(source) if source.is_file() else {}
        line = known.get(match["text"].strip("`"))
        if line != int(match["line"]):
            yield match, line


def fix(page: Path) -> int:
    """Correct the lines of a page; returns how many were wrong."""
    wrong = [(match, line) for match, line in wrong_links(page) if line is not None]
    text = page.read_text(encoding="utf-8")
    for match, line in reversed(wrong):
        text = f"{text[: match.start('line')]}{line}{text[match.end('line') :]}"
    if wrong:
        page.write_text(text, encoding="utf-8")
    return len(wrong)


def main() -> int:
    """Check, or correct with ``--fix``; exit status 1 when a wrong link is left."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fix", action="store_true", help="write the right line numbers")
    if parser.parse_args().fix:
        print(f"{sum(fix(page) for page in pages())} line numbers corrected")
    left = [(page, match, line) for page in pages() for match, line in wrong_links(page)]
    for page, match, line in left:
        where = "is not defined there" if line is None else f"is in line {line}"
        print(f"{page.relative_to(ROOT)}: {match[0]}: {match['text']} {where}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
