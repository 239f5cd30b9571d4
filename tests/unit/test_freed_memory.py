"""Memory that is freed stays with the process, so that its pages need not be handed out and cleared anew."""

import ctypes
import os
import resource

import pytest
import torch

from pipo.distributed import freed_memory
from pipo.distributed.freed_memory import LARGEST_KEPT, keep_freed_memory

PAGE = os.sysconf("SC_PAGE_SIZE")
# Three blocks are more than glibc keeps by itself at most, which is twice its largest.
BLOCK, BLOCKS = LARGEST_KEPT - 2**20, 3

needs_glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another allocator")


def _faults_of_a_pass() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.empty(BLOCK, dtype=torch.uint8).fill_(1) for _ in range(BLOCKS)]
    assert len(held) == BLOCKS
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@needs_glibc
def test_a_later_pass_gets_the_pages_of_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handed out anew they would be 93 MiB of pages, 23,808 of 4 KiB, one fault each, in every pass."""
    for name in freed_memory._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    keep_freed_memory()
    assert min(_faults_of_a_pass() for _ in range(6)) < BLOCKS * BLOCK // PAGE // 100


@needs_glibc
@pytest.mark.parametrize("name", freed_memory._VARIABLES)
def test_who_has_said_something_about_it_is_not_overruled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda _: type("Libc", (), {"mallopt": asked.append}))
    monkeypatch.setenv(name, "65536")
    keep_freed_memory()
    assert asked == []
