"""Where the programs and the configuration lie: beside the package in a clone, in it once it is installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parent
_IN_WHEEL = _PACKAGE / "programs"
#: Whether this is an installed wheel; a clone, installed as editable too, has the files at its top.
INSTALLED = _IN_WHEEL.is_dir()
HOME = _IN_WHEEL if INSTALLED else _PACKAGE.parent
CONF = HOME / "conf"


def typed(program: str) -> list[str]:
    """The words that start a program here.

    Args:
        program: ``train.py`` or ``eval.py``, or the name of another one that ``python -m pipo`` lists.
    """
    if INSTALLED:
        return ["pipo", program.removesuffix(".py")]
    return ["python", program] if program.endswith(".py") else ["python", "-m", "pipo", program]


def look_in_this_folder() -> None:
    """Let a class of the user's own, named by ``_target_``, lie in the current folder, wherever we lie."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
