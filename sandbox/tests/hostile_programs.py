"""Programs that try to fool whoever runs them or to harm the machine, each with what may become of it.

Every program is given the input ``7`` and would have to print 14 and come to an end. None of them may pass
in a way that printing 14 would not.
"""

from __future__ import annotations

ANSWER = "print(int(input()) * 2)\n"

# name -> (program, whether it is right). None: the protections decide, but nothing may be left running.
STDIN: dict[str, tuple[str, bool | None]] = {
    "infinite loop": ("while True: pass", False),
    "loop that ignores signals": (
        "import signal\n"
        "for s in (signal.SIGTERM, signal.SIGALRM, signal.SIGXCPU, signal.SIGINT, signal.SIGHUP):\n"
        "    signal.signal(s, signal.SIG_IGN)\n"
        "while True: pass",
        False,
    ),
    "sleeps": ("import time\ntime.sleep(1000)", False),
    "fork bomb": ("import os\nwhile True: os.fork()", False),
    "patient fork bomb": (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        False,
    ),
    "thread bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1000,)).start()",
        False,
    ),
    "memory hog": ("x = []\nwhile True: x.append(bytearray(1 << 24))", False),
    "swallows memory errors": (
        "x = []\nwhile True:\n    try:\n        x.append(bytearray(1 << 24))\n    except MemoryError:\n        pass",  # noqa: E501
        False,
    ),
    "huge output": ("while True: print('x' * 100000)", False),
    "huge error output": (
        "import sys\ntry:\n    while True: sys.stderr.write('x' * 100000)\nexcept OSError:\n    pass\n"
        + ANSWER,
        True,
    ),
    "huge file": ("with open('f', 'wb') as f:\n    while True: f.write(bytes(1 << 20))", False),
    "many files": ("i = 0\nwhile True:\n    open(str(i), 'w').write('x' * 4096)\n    i += 1", False),
    "_exit(0) before the answer": ("import os\nos._exit(0)\n" + ANSWER, False),
    "_exit(0) after the answer": (ANSWER + "import sys, os\nsys.stdout.flush()\nos._exit(0)", True),
    "sys.exit before the answer": ("import sys\nsys.exit(0)\n" + ANSWER, False),
    "sys.exit after the answer": (ANSWER + "import sys\nsys.exit()", True),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", False),
    "BaseException": ("class E(BaseException): pass\nraise E", False),
    "exception that cannot be shown": (
        "class E(Exception):\n    def __str__(self): raise E\n    __repr__ = __str__\nraise E",
        False,
    ),
    "kills its parent": (ANSWER + "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", None),
    "kills everything": ("import os\nos.kill(-1, 9)\nos.kill(1, 9)\nos.killpg(0, 9)", False),
    "kills its group": ("import os\nos.killpg(os.getpgrp(), 9)", False),
    "stops everything": ("import os, signal\nos.kill(-1, signal.SIGSTOP)", False),
    "daemon left behind": (
        "import os, time\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(1000)\n    os._exit(0)\n"  # noqa: E501
        + ANSWER,
        None,
    ),
    "thread left behind": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
        + ANSWER,
        True,
    ),
    "thread waited for": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()\n" + ANSWER,
        False,
    ),
    "closes all descriptors": ("import os\nos.closerange(0, 1000)\nprint(14)", False),
    "reopens standard input": ("import os\nprint(int(open('/dev/stdin').read()) * 2)", True),
    "replaces sys.stdin": ("import io, sys\nsys.stdin = io.StringIO('1')\n" + ANSWER, False),
    "writes to standard input": ("import os\nos.write(0, b'14')", False),
    "reads all descriptors": (
        "import os\nfor n in range(3, 4096):\n    try:\n        os.write(n, b'14')\n    except OSError:\n        pass",  # noqa: E501
        False,
    ),
    "dup2 over every descriptor": (
        "import os\nfor n in range(3, 100):\n    os.dup2(1, n)\nprint('passed')",
        False,
    ),
    "prints passed": ("print('passed')\nprint('OK 1.0')\nprint('[true, \"\", true]')", False),
    "patches builtins": (
        "import builtins, operator\nbuiltins.isinstance = lambda *a: True\nbuiltins.all = lambda *a: True\n"
        "operator.eq = lambda *a: True\nbuiltins.str.__eq__ if True else 0\nprint(0)",
        False,
    ),
    "frames and garbage": (
        "import sys, gc\n"
        "f, found = sys._getframe(), set()\n"
        "while f:\n    found.update(map(repr, f.f_locals.values())); f = f.f_back\n"
        "for o in gc.get_objects():\n"
        "    if isinstance(o, dict) and ('expected' in o or 'outputs' in o): print(o)\n"
        "print([t for t in found if '14' == t.strip()])",
        False,
    ),
    "syntax error": ("def f(:", False),
    "empty program": ("", False),
    "NUL byte in the source": ("print(14)\0", False),
    "lone surrogate in the source": ("print('\ud800')", False),
    "deeply nested source": ("(" * 100_000, False),
    "missing module": ("import no_such_module", False),
    "recursion": ("def f(): f()\nf()", False),
    "recursion without a limit": (
        "import sys\nsys.setrecursionlimit(10**9)\nrepr_ = lambda: max([0], key=lambda _: repr_())\nrepr_()",
        False,
    ),
    "invalid UTF-8": ("import sys\nsys.stdout.buffer.write(b'\\xff\\xfe14')", False),
    "NUL bytes": ("print('14\\0')", False),
    "surrogates": ("print('\\ud800')", False),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", False),
    "abort": ("import os\nos.abort()", False),
    "exec": ("import os\nos.execv('/bin/echo', ['echo', '14'])", False),
    "shell": ("import os\nos.system('echo 14')", False),
    "late exit handler": ("import atexit, time\natexit.register(time.sleep, 1000)\n" + ANSWER, False),
    "answer in an exit handler": ("import atexit\natexit.register(lambda: print(14))", True),
}

# Programs that try to reach something and print the answer only if they do.
REACH: dict[str, str] = {
    "network": "import socket\ns = socket.create_connection(('127.0.0.1', {port}), 1)\ns.close()",
    "datagram": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",  # noqa: E501
    "unix socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0pipo-test-{port}')",
    "write to the home": "import os\nopen(os.path.join({home!r}, 'touched'), 'w').write('x')",
    "write to a folder that all may write": "open({shared!r} + '/touched', 'w').write('x')",
    "write beside the interpreter": "import os\nopen(os.path.dirname(os.__file__) + '/touched', 'w').write('x')",  # noqa: E501
    "read the tests": "assert open({secret!r}).read()",
    "read by a symbolic link": "import os\nos.symlink({secret!r}, 'link')\nassert open('link').read()",
    "read the parent's memory": "open('/proc/{pid}/mem', 'rb').read(1)",
    "read the parent's environment": "assert open('/proc/{pid}/environ', 'rb').read()",
    "see the parent": "import os\nassert os.path.exists('/proc/{pid}/fd') and os.listdir('/proc/{pid}/fd')",
    "signal the parent": "import os\nos.kill({pid}, 0)",
    "read the sandbox's memory": "import os\nopen(f'/proc/{{os.getppid()}}/mem', 'rb').read(1)",
    "descriptors of the sandbox": (
        "import os\nfolder = f'/proc/{{os.getppid()}}/fd/'\n"
        "for n in range(64):\n    try:\n        os.readlink(folder + str(n))\n"
        "    except OSError:\n        continue\n    break\nelse:\n    raise OSError('none')"
    ),
    "trace the sandbox": ("import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0"),
    "mount": "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, 0) == 0",
    "unmount": "import ctypes\nassert ctypes.CDLL(None).umount2(b'/tmp', 2) == 0 or ctypes.CDLL(None).umount2(b'/proc', 2) == 0",  # noqa: E501
    "new user namespace": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "become root": "import os\nos.setresuid(0, 0, 0)\nos.chown('.', 0, 0)\nassert os.getuid() == 0 and {uid} != 0",  # noqa: E501
    "environment": "import os\nassert 'PIPO_SECRET' in os.environ or b'PIPO_SECRET' in open('/proc/self/environ', 'rb').read()",  # noqa: E501
    "raise the memory limit": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)"
    ),
}
