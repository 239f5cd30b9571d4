"""A model of a few thousand parameters, and sequences packed for a forward pass of it."""

from __future__ import annotations

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from pipo.lm.attention import ATTENTION_NAME
from pipo.lm.packing import PackedRows, pack
from pipo.lm.policy import Policy


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
