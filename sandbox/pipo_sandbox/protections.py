"""Names of the protections, and the weakness that a missing one leaves."""

from __future__ import annotations

from collections.abc import Mapping

# In the order in which they are shown; each does without the others. Names are used as keys.
PROTECTIONS: dict[str, str] = {
    "namespaces": "other processes, the network and files are hidden only by what else is active",
    "own user": "programs run as the user who trains",
    "system call filter": "sockets, new processes and signals are refused only by what else is active",
    "file rules": "files of this user can be read and written",
    "no new privileges": "set-uid programs keep their effect",
    "resource limits": "memory, CPU time, file size and open files are unlimited",
    "process limit": "without the system call filter a fork bomb is ended by the wall clock only",
}
NOT_NEEDED = "not needed beside namespaces"  # said of file rules


def weakness(report: Mapping[str, str]) -> str | None:
    """One line about what programs can reach on this system and should not; None if nothing.

    Args:
        report: of a launcher.
    """
    if not report["namespaces"]:
        return None
    reach = []
    if report["system call filter"]:
        reach.append("use the network, start processes and signal those of this user")
    if report["file rules"]:
        own = "its own user's rights" if not report["own user"] else "your rights"
        reach.append(f"read and write files with {own}")
    if not reach:
        return None
    return f"programs under test can {' and '.join(reach)} here; see python -m pipo_sandbox"
