"""Shared fixtures: golden vectors, a small model, the real configuration composed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch starts: tests may share the machine, and results repeat bit for bit on one thread.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import pytest
import torch
from omegaconf import DictConfig, open_dict
from transformers import Qwen3Config, Qwen3ForCausalLM

from pipo.config.cli import register_resolvers
from pipo.config.single_benchmarks import register_single_benchmarks
from pipo.home import CONF
from pipo.lm.attention import ATTENTION_NAME
from pipo.lm.packing import PackedRows, pack
from pipo.lm.policy import Policy
from pipo.records.problems import E, Reward
from pipo.tasks.base import Task
from pipo.tasks.verdicts import verdicts_of
from tests.composing import composed
from tests.programs import end_server

ROOT = Path(__file__).parent.parent
torch.set_num_threads(1)
# The same examples in every run. To search for new ones: --hypothesis-profile=default.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")
register_resolvers()
register_single_benchmarks(CONF)


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """Inputs and expected outputs in float64, derived from the papers' formulas alone."""
    return json.loads((ROOT / "tests/data/losses.json").read_text())["cases"]


def make_policy(seed: int = 0, vocab: int = 48) -> Policy:
    """A random Qwen3 of a few thousand parameters, grouped-query attention and tied embeddings included."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        attn_implementation=ATTENTION_NAME,
        initializer_range=0.3,
    )
    return Policy(Qwen3ForCausalLM(config))


def verdict(task: Task[E], example: E, response: str) -> Reward:
    """The verdict on one response. Graded twice at a time, so that a grader that breaks on it raises here."""
    first, second = verdicts_of(task, [example] * 2, [response] * 2)
    assert first == second
    return first


def packed(ids: torch.Tensor, mask: torch.Tensor) -> PackedRows:
    """Right-padded sequences and the mask of their responses, for a forward pass."""
    starts = mask.int().argmax(dim=1).tolist()
    prompts = [tuple(row[:start].tolist()) for row, start in zip(ids, starts, strict=True)]
    responses = torch.zeros_like(ids)
    for i, start in enumerate(starts):
        responses[i, : ids.shape[1] - start] = ids[i, start:]
    lengths = mask.sum(dim=1)
    return pack(
        prompts, 1, responses, lengths, torch.arange(ids.shape[1]) < lengths[:, None], range(len(ids))
    )


@pytest.fixture
def policy() -> Policy:
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The dear ones first, in the order of their modules.

    Two workers take the first half and the second, and who is done takes from the end of what the other has
    left. So nobody waits for the other at the end, and what a module makes once is not made in both.
    """
    items.sort(key=lambda item: not {"integration", "simulated_cuda"} & set(item.path.parts))


def pytest_sessionfinish() -> None:
    """Wait for the process that programs are forked from, so that its time is counted as the tests'."""
    end_server()
