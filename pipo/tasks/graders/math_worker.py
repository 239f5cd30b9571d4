"""The program that compares one answer with one reference by math-verify; see ``worker_pool``.

Run as a file, it imports nothing of the project, so it starts fast and cannot load torch.
A request is the JSON list ``[answers, references]``: each side in every way it may be meant. A reply is
``{"equal": bool, "readable": bool, "error": str | null}``.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

# Numbers such as 10^{10^{10}} would otherwise fill the machine before their time is up.
_MEMORY_BYTES = 2 << 30
# Expressions are equal if they agree to so many digits; at the library's 15, 10^{-20} is zero.
_DIGITS = 50


def _parse(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse
    from sympy import nan, zoo

    # No time-out of its own: that is one of wall-clock time, and running out of it is not an error there.
    config = LatexExtractionConfig(boxed_match_priority=0)
    found = parse(f"\\boxed{{{text}}}", [config], parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    # "3:00" is read as 3/0, which is equal to 4/0: there only the written form counts.
    return [x for x in found if not (hasattr(x, "has") and x.has(zoo, nan))]


def compare(answers: list[str], references: list[str]) -> dict[str, Any]:
    """Whether one of the answers means one of the references; what cannot be read is compared as text."""
    from math_verify import verify

    gold = [x for reference in references for x in _parse(reference)]
    if not gold:
        error = f"the reference cannot be parsed: {references[0]!r}"
        return {"equal": False, "readable": False, "error": error}
    readable = any(not isinstance(x, str) for x in gold)
    if answers == references:
        return {"equal": True, "readable": readable, "error": None}
    found = [x for answer in answers for x in _parse(answer)]
    # The texts hold no decimals any more, so there is nothing to round.
    equal = verify(
        gold,
        found,
        numeric_precision=_DIGITS,
        allow_set_relation_comp=True,
        timeout_seconds=None,
    )
    return {"equal": bool(equal), "readable": readable, "error": None}


def main() -> None:
    """Answer requests until the other end closes the socket."""
    connection, cpu_s = Connection(int(sys.argv[1])), float(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends us, in the middle of native code too
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time-outs are off
    try:
        compare(["x+1"], ["1+x"])  # loads the grammar too, at no answer's expense
    except ImportError as error:
        connection.send_bytes(f"{error}; install math-verify".encode())
        return
    connection.send_bytes(b"ready")
    while True:
        try:
            answers, references = json.loads(connection.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        try:
            reply = compare(answers, references)
        except Exception as error:  # whatever sympy raises costs this answer, not the worker
            reply = {"equal": False, "readable": False, "error": f"{type(error).__name__}: {error}"[:300]}
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send_bytes(json.dumps(reply).encode())


if __name__ == "__main__":
    main()
