"""The README's example prints what the README says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pipo_sandbox

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_prints_what_is_printed_below_it() -> None:
    match = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
    assert match is not None
    printed = io.StringIO()

    with contextlib.redirect_stdout(printed):
        exec(compile(match[1], "README.md", "exec"), {})

    assert printed.getvalue() == match[2]


def test_every_public_name_of_the_table_is_exported() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", README, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)", row)}

    assert {"Launcher", "equal", "SandboxError"} <= named
    assert named <= set(pipo_sandbox.__all__)
