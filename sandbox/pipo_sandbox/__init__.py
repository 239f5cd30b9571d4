"""A sandbox for Python programs that nobody has read: standard library only, Linux first.

What is imported here is all that a user needs; ``README.md`` beside this package explains it, and
``python -m pipo_sandbox`` prints what the system at hand allows.

This process is the trusted side (``client``, ``sessions``). It starts one ``launcher``, a small process that
has given up its view of the file system. For each program the launcher forks the first process (``inside``)
into namespaces of its own, which drops what rights are left and runs one of four services. Where there are no
namespaces a ``keeper`` stands between the two and clears away what a program leaves behind.

* ``stdin_service``: the program once per input, each time in a forked child;
* ``call_service``: the program once, then calls of what it defines;
* ``judge_service``: test code of a data set against a program in another sandbox;
* ``repl_service``: one piece of code after another, which share what they define.

The modules use relative imports only, and the launcher loads those that it needs without this one.
"""

from .client import Launcher, SandboxError
from .protections import PROTECTIONS, weakness
from .sessions import (
    Allowance,
    CallProgram,
    Ended,
    Interpreter,
    JudgedProgram,
    Output,
    StdinProgram,
    Verdict,
    call_program,
    interpreter,
    judged_program,
    stdin_program,
)
from .settings import INT_DIGITS, Limits
from .values import Node, decode, dump, encode, equal
from .wire import Closed, Late, WireError

__all__ = [
    "INT_DIGITS",
    "PROTECTIONS",
    "Allowance",
    "CallProgram",
    "Closed",
    "Ended",
    "Interpreter",
    "JudgedProgram",
    "Late",
    "Launcher",
    "Limits",
    "Node",
    "Output",
    "SandboxError",
    "StdinProgram",
    "Verdict",
    "WireError",
    "call_program",
    "decode",
    "dump",
    "encode",
    "equal",
    "interpreter",
    "judged_program",
    "stdin_program",
    "weakness",
]
