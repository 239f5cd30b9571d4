"""Read and write integers of more than 4,300 digits, Python's limit, in JSON and text.

That limit keeps a hostile text from costing seconds; it holds for a whole process, so that it is left as it
is here. What tests of programs need is what programs may use, see ``pipo_sandbox.INT_DIGITS``.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from pipo_sandbox import INT_DIGITS


def read_json(text: str) -> Any:
    """What a JSON text says, with integers of up to ``INT_DIGITS`` digits.

    Raises:
        ValueError: it is not JSON, or an integer has more digits.
        RecursionError: it is nested too deeply.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # from int(): reading every integer by a function of our own takes longer
        return json.loads(text, parse_int=_read)


def int_text(value: int) -> str:
    """An integer of any length in base 10."""
    return str(Decimal(value))


def _read(digits: str) -> int:
    if (length := len(digits.lstrip("-"))) > INT_DIGITS:
        raise ValueError(f"an integer of {length} digits; up to {INT_DIGITS} are read")
    return int(Decimal(digits))
