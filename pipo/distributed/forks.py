"""Further processes of a run on CPUs, forked from the first one when all is imported, so that both share it.

A program that is started for each imports everything once more: seconds of processor time, and most of its
memory. Forked ones wait until the first has made sure that the run can begin, and then take part as programs
do that Lightning starts. Not on GPUs, whose driver does not survive a fork.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
from dataclasses import dataclass

from pipo.distributed.hardware import Hardware
from pipo.distributed.processes import OF_THIS_PROCESS
from pipo.errors import RunFailed


@dataclass
class Further:
    """A process that was forked, with what Lightning's observer uses of a ``subprocess.Popen``."""

    pid: int
    """Of the process."""
    told: int
    """Pipe through which it hears that it is to start."""
    returncode: int | None = None
    """Its status once it has ended; negative for a signal."""

    def poll(self) -> int | None:
        """The status, if it has ended."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To the process, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


_waiting: list[Further] = []
_forked = False


def can_fork(hardware: Hardware) -> bool:
    """Whether processes of this run may be forked here: its own, on one machine, with CPUs alone.

    Args:
        hardware: of the run.
    """
    alone = not OF_THIS_PROCESS & set(os.environ) and "SLURM_NTASKS" not in os.environ
    several = hardware.strategy != "single" and hardware.num_nodes == 1 and hardware.per_node > 1
    return sys.platform == "linux" and alone and several and hardware.device == "cpu" and _single_threaded()


def _single_threaded() -> bool:
    """Whether no thread is there that a fork would lose, beside those of NumPy, which outlive one."""
    import torch

    return threading.active_count() == 1 and len(os.listdir("/proc/self/task")) <= torch.get_num_threads()


def fork_others(processes: int) -> None:
    """Make all processes of a run but the first; returns in that one, and in each other once it is started.

    Args:
        processes: of the run.
    """
    global _forked
    sys.stdout.flush()
    sys.stderr.flush()
    first = os.getpid()
    for _ in range(1, processes):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first one hears a Ctrl-C, too
            for pipe in (writing, *(other.told for other in _waiting)):
                os.close(pipe)
            _waiting.clear()
            _forked = True
            with os.fdopen(reading, "rb") as told:
                environment = told.read()
            from pipo_sandbox.kernel import die_with_parent  # of Linux alone

            die_with_parent(signal.SIGTERM)  # else it might wait for hours for a word of the first
            if not environment or os.getppid() != first:  # it has ended: the run cannot begin
                os._exit(0)
            signal.signal(signal.SIGINT, interrupted)
            os.environ.update(json.loads(environment))
            return
        os.close(reading)
        _waiting.append(Further(pid, writing))


def start_others() -> None:
    """Let those that wait take part, if there are any; when one breaks, the others end, as with Lightning.

    Raises:
        RunFailed: one has ended while it waited.
    """
    if not _waiting:
        return
    from lightning.fabric.plugins.environments.lightning import find_free_network_port
    from lightning.fabric.strategies.launchers.subprocess_script import _launch_process_observer
    from lightning.fabric.utilities.distributed import _set_num_threads_if_needed

    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_network_port()),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(len(_waiting) + 1),
    }
    os.environ.update(shared, LOCAL_RANK="0")
    for rank, other in enumerate(_waiting, start=1):
        try:
            with os.fdopen(other.told, "wb") as told:
                told.write(json.dumps({**shared, "LOCAL_RANK": str(rank)}).encode())
        except BrokenPipeError:
            raise RunFailed(
                f"process {rank + 1} of {len(_waiting) + 1} of this run was killed before it began; unless"
                " you did that, the system did, for want of memory (dmesg tells): take fewer trainer.devices="
            ) from None
    _launch_process_observer([*_waiting])  # type: ignore[arg-type]
    _set_num_threads_if_needed(num_processes=len(_waiting) + 1)
    _waiting.clear()


def end_if_forked(status: int) -> None:
    """End this process if it was forked, with all that is done when a program ends but one thing.

    That is to take every object apart, which writes to all the memory that is shared, and so copies it.

    Args:
        status: of the process.
    """
    if not _forked:
        return
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
