"""Worker program that checks one answer against one reference by algebra; see ``worker_pool``.

Run as a file, it imports nothing of the project but the modules beside it that do the same, so it starts fast
and cannot load torch.
A request is the JSON list ``[answers, references]``: each side in every way it may be meant. A reply is
``{"equal": bool, "readable": bool, "error": str | null}``.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Numbers such as 10^{10^{10}} would otherwise fill the machine before their time is up.
_MEMORY_BYTES = 2 << 30
# Behind everything else on the path: a module here may be named like one of the standard library.
sys.path.append(str(Path(__file__).parent))


def compare(answers: list[str], references: list[str]) -> dict[str, Any]:
    """Whether one of the answers means one of the references; what cannot be read is compared as text."""
    from answer_equality import equal, readable

    if not references[0].strip():
        error = f"the reference cannot be parsed: {references[0]!r}"
        return {"equal": False, "readable": False, "error": error}
    if answers == references:
        return {"equal": True, "readable": any(map(readable, references)), "error": None}
    same = any(equal(answer, reference) for reference in references for answer in answers)
    return {"equal": same, "readable": True, "error": None}


def main() -> None:
    """Answer requests until the other end closes the socket."""
    connection, cpu_s = Connection(int(sys.argv[1])), float(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends us, in the middle of native code too
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    sys.set_int_max_str_digits(0)  # an answer may have as many digits as it has characters
    sys.setrecursionlimit(5000)
    try:
        compare(["x+1"], ["1+x"])  # loads what it takes, at no answer's expense
        if find_spec("latex2sympy2_extended") is None:  # loaded with the first sum or integral
            raise ImportError("No module named latex2sympy2_extended")
    except ImportError as error:
        connection.send_bytes(f"{error}; install mpmath, sympy and math-verify".encode())
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
