"""Undo vLLM's changes to the process it runs in: environment, random states, threads, process group.

An engine inside the training process sets environment variables that child processes would inherit, seeds
every random number generator, replaces ``torch.set_num_threads`` by nothing, and keeps or makes the default
process group. The trainer shares all of these.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist

from pipo.distributed.collectives import world

_VARIABLES = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in this process and reads the weights here
    "VLLM_CONFIGURE_LOGGING": "0",  # what it says goes where everything else goes
    "VLLM_NO_USAGE_STATS": "1",
}


@contextmanager
def untouched_process(device: torch.device) -> Iterator[None]:
    """Run a call of vLLM with the environment that it needs, and put everything back.

    Restored are the environment, the random numbers of Python, numpy and torch, the number of threads and the
    function that sets it, and the precision of matrix products. What vLLM replaces in ``torch.cuda`` and
    ``torch.accelerator`` on a machine without one stays: it needs that, and the originals only fail.

    Args:
        device: the trainer's device, whose accelerator's random numbers are kept too.
    """
    environment, set_num_threads = dict(os.environ), torch.set_num_threads
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    generators = random.getstate(), np.random.get_state()
    os.environ.update(_VARIABLES, RANK=str(world()[0]), LOCAL_RANK=str(_local_rank(device)))
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        gc.unfreeze()  # vLLM freezes every object there is, the trainer's included


def join_process_group() -> bool:
    """Make sure that there is a default process group before vLLM looks for one.

    The engine uses the trainer's. With one process the trainer has none, and vLLM would make one by a
    network address; a group in memory does as well.

    Returns:
        Whether the group was made here, and so ends with the engine.

    Raises:
        RuntimeError: when the trainer's group is still to come: it would be taken for this one, and the
            processes would train apart without a word.
    """
    if dist.is_initialized():
        return False
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError("a rollout engine must be built after the trainer's process group")
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    return True


def quiet_vllm() -> None:
    """Nothing, unless the user asks for more: its warnings are of no concern here, its errors raise."""
    logging.getLogger("vllm").setLevel(os.environ.get("VLLM_LOGGING_LEVEL", "CRITICAL"))
    warnings.filterwarnings("ignore", message=".*torch.distributed.reduce_op.*", category=FutureWarning)


def _local_rank(device: torch.device) -> int:
    """Which of the machine's devices: the trainer's own when it has one."""
    if device.type == "cuda" and device.index is not None:
        return device.index
    return int(os.environ.get("LOCAL_RANK", "0"))
