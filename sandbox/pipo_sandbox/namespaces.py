"""Linux namespaces, entered in two steps: one for the launcher, then a set for each sandbox.

Example:
    A user without rights starts a trainer. Every process, outermost first, with its number on the host and
    what it sees::

        trainer        100  everything that the user may see
        launcher       101  enter_outer: a user and a mount namespace. Files: the interpreter's folders,
                            read-only, on a root in memory. Still the host's processes and network
        first process  102, number 1 in there.  kernel.fork: one more namespace of each kind, and so no
                            network. mount_private: empty /sandbox and /tmp of its own, and a /proc that
                            shows itself alone. All rights are dropped here
        program        103, number 2 in there.  What the first process sees, which it can neither signal nor
                            trace; the system call filter refuses the rest

    The launcher's step is the slow one and is taken once; every sandbox is a copy of its state. It stays
    outside of all sandboxes, where nobody in one can reach it, and ends the first process with the
    sandbox's term. Then the kernel ends all of that PID namespace, and mounts and network go with the last
    of them. Root needs no user namespace for any of this; there the first process becomes a user of its own.
"""

from __future__ import annotations

import os

from . import filesystem, kernel
from .settings import Settings

OF_A_SANDBOX = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
OF_A_SANDBOX |= kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_NOBODY = 65534


def enter_outer(own: int, settings: Settings) -> None:
    """The launcher's step: leave the file system.

    Args:
        own: the flag of a user namespace where one is needed for that, else 0.
        settings: name what stays in sight.

    Raises:
        OSError: the system does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    kernel.unshare(kernel.CLONE_NEWNS | own)
    if own:
        map_user(user, group)
    filesystem.enter_small_root(settings.paths, settings.hidden)


def map_user(user: int, group: int) -> None:
    """Give this process a number in the user namespace that it has just entered.

    Args:
        user: its number in the namespace around.
        group: that of its group.

    Raises:
        OSError: the system does not allow it.
    """
    # Never 0 inside: what the kernel keeps from other users, it shows to a namespace's root.
    lines = {
        "setgroups": "deny",
        "uid_map": f"{user or _NOBODY} {user} 1",
        "gid_map": f"{group or _NOBODY} {group} 1",
    }
    for name, line in lines.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
