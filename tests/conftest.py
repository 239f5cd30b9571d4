"""Shared fixtures: golden vectors, a small model, the real configuration composed."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch starts: tests may share the machine, and results repeat bit for bit on one thread.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import pytest
from omegaconf import DictConfig, open_dict

from pipo.config.cli import register_resolvers
from pipo.config.single_benchmarks import register_single_benchmarks
from pipo.home import CONF
from tests.composing import composed
from tests.programs import end_server

if TYPE_CHECKING:
    from pipo.lm.policy import Policy

ROOT = Path(__file__).parent.parent
# What is compiled is kept, also where a shell says otherwise: to compile tests and package anew costs each
# worker a third of its collection, and each program a tenth of its start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# The same examples in every run. To search for new ones: --hypothesis-profile=default.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")
register_resolvers()
register_single_benchmarks(CONF)


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """Inputs and expected outputs in float64, derived from the papers' formulas alone."""
    return json.loads((ROOT / "tests/data/losses.json").read_text())["cases"]


@pytest.fixture
def policy() -> Policy:
    # Here, because the process that hands out tests to workers reads this file, too, and needs no torch.
    from tests.policies import make_policy

    return make_policy()


@pytest.fixture(scope="session")
def compose_config() -> Callable[..., DictConfig]:
    """Compose the real configuration with overrides, as the command line would."""

    def make(*overrides: str, name: str = "train") -> DictConfig:
        cfg = composed(name, overrides)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg

    return make


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what the collection makes out of garbage collection.

    Modules and tests stay to the end: a million objects, which took half a second to look through, time and
    again. What tests make is looked through as ever.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The dear ones first, in the order of their modules.

    Two workers take the first half and the second, and who is done takes from the end of what the other has
    left. So nobody waits for the other at the end, and what a module makes once is not made in both.
    """
    items.sort(key=lambda item: not {"integration", "simulated_cuda"} & set(item.path.parts))


def pytest_sessionfinish() -> None:
    """Wait for the process that programs are forked from, so that its time is counted as the tests'."""
    end_server()
