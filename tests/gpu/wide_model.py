"""A model of Qwen3's shape with random weights and the embedded tokenizer; and rewards to train it by."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from pipo.lm.spec import embedded_model
from pipo.rollout.reward_terms import GradedResponses

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
# Random weights solve nothing, and rows with equal rewards have no gradient.
SOME_REWARD = "+algo.reward_terms.second._target_=tests.gpu.wide_model.EverySecond"


class EverySecond:
    """A reward term: 1 for every second response of a group."""

    def __call__(self, graded: GradedResponses) -> Tensor:
        """Whatever they say."""
        return (torch.arange(len(graded.texts)) % 2).float()


def half_a_billion() -> Qwen3Config:
    """Qwen3-0.6B."""
    return Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    )


def write_model(config: Qwen3Config, folder: Path) -> Path:
    """Random weights of a seed of its own, so that every call writes the same."""
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(Path(embedded_model("tiny")) / name, folder / name)
    return folder
