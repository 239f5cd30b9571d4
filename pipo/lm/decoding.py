"""A decode step of Llama, Qwen2 and Qwen3 written out: the library's products and sums with less around them.

A step of one token per row is a few hundred small operations, and with few rows what surrounds them costs
more than they do: calls of modules, hooks, casts that change nothing, masks that nobody reads. Whatever is
not of this plain layout (adapters, shards, hooks, other architectures) is decoded by the library's own
forward pass, see :meth:`pipo.lm.policy.Policy.decoder`. On a CPU both give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipo.lm.cache import PreallocatedCache, PreallocatedLayer

DecodeStep = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Tokens int64 [n], positions int64 [n], visible keys bool [n, 1, 1, keys] (None: all) -> float32 [n, V]."""

_BACKBONES = {"LlamaModel", "Qwen2Model", "Qwen3Model"}
# Rotations that depend on the position alone, and not on the longest row beside.
_ROTATIONS = {"default", "linear", "llama3", "yarn"}


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """What a layer computes with, each as it comes in the step below."""

    before: Tensor
    """[width], of the norm before attention."""
    query: nn.Linear
    """To heads * head_dim."""
    key: nn.Linear
    """To kv_heads * head_dim."""
    value: nn.Linear
    """To kv_heads * head_dim."""
    out: nn.Linear
    """From heads * head_dim back to width."""
    head_norm: Tensor | None
    """[heads + kv_heads, head_dim], of the norms of queries and keys; None without them."""
    behind: Tensor
    """[width], of the norm before the MLP."""
    gate: nn.Linear
    """To the MLP's width, with the activation behind it."""
    up: nn.Linear
    """To the MLP's width."""
    down: nn.Linear
    """From the MLP's width."""
    activation: Callable[[Tensor], Tensor]
    """Of the gate."""


def plain_decoder(
    backbone: PreTrainedModel, head: nn.Linear, cache: PreallocatedCache, positions: int
) -> DecodeStep | None:
    """The decode step of a model of the plain layout; None for any other.

    Args:
        backbone: the model without its head.
        head: its output head.
        cache: holds the prompts' keys and values; extended in place at every step.
        positions: positions that occur are below.
    """
    if not _is_plain(backbone, head):
        return None
    model: Any = backbone
    layers = [_layer(block) for block in model.layers]
    attention: Any = model.layers[0].self_attn
    width, scaling = attention.head_dim, attention.scaling
    embedding, norm, epsilon = model.embed_tokens.weight, model.norm.weight, model.norm.variance_epsilon
    heads = layers[0].query.out_features // width
    kv_heads = layers[0].key.out_features // width
    everywhere = torch.arange(positions, device=embedding.device)[None]
    cosines, sines = (each[0] for each in model.rotary_emb(embedding[:1, None], everywhere))
    sines = torch.cat((-sines[:, : width // 2], sines[:, width // 2 :]), dim=1)

    def step(tokens: Tensor, at: Tensor, visible: Tensor | None) -> Tensor:
        rows = len(tokens)
        hidden = F.embedding(tokens, embedding)
        cosine, sine = cosines.index_select(0, at)[:, None], sines.index_select(0, at)[:, None]
        for layer, kept in zip(layers, cache.layers, strict=True):
            assert isinstance(kept, PreallocatedLayer)
            normed = _normed(hidden, layer.before, epsilon)
            turned = torch.cat((_product(layer.query, normed), _product(layer.key, normed)), dim=1)
            turned = turned.view(rows, heads + kv_heads, width)
            if layer.head_norm is not None:
                turned = _normed(turned, layer.head_norm, epsilon)
            turned = turned * cosine + torch.roll(turned, width // 2, -1) * sine
            query, key = turned.split((heads, kv_heads), dim=1)
            value = _product(layer.value, normed).view(rows, kv_heads, 1, width)
            keys, values = kept.update(key[:, :, None], value)
            seen = F.scaled_dot_product_attention(
                query.reshape(rows, kv_heads, heads // kv_heads, width),
                keys,
                values,
                attn_mask=visible,
                scale=scaling,
            )
            hidden = hidden + _product(layer.out, seen.reshape(rows, heads * width))
            normed = _normed(hidden, layer.behind, epsilon)
            gated = layer.activation(_product(layer.gate, normed)) * _product(layer.up, normed)
            hidden = hidden + _product(layer.down, gated)
        return _product(head, _normed(hidden, norm, epsilon)).float()

    return step


def _is_plain(backbone: PreTrainedModel, head: nn.Linear) -> bool:
    """Whether the model is what :func:`plain_decoder` writes out, without anything put in or around."""
    if type(backbone).__name__ not in _BACKBONES:  # what shards a model gives it another class
        return False
    rope = getattr(backbone.config, "rope_parameters", None) or {}
    if rope.get("rope_type") not in _ROTATIONS:
        return False
    return all(map(_is_untouched, backbone.modules())) and _is_untouched(head)


def _is_untouched(module: nn.Module) -> bool:
    """Without hooks, of a class of torch or transformers, and with plain tensors as weights."""
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if type(module).__module__.partition(".")[0] not in ("torch", "transformers"):
        return False
    return all(
        type(weight) in (nn.Parameter, Tensor) for weight in module._parameters.values() if weight is not None
    )


def _layer(block: Any) -> _Layer:
    attention, mlp = block.self_attn, block.mlp
    head_norm = None
    if hasattr(attention, "q_norm"):
        norms = ((attention.q_proj, attention.q_norm), (attention.k_proj, attention.k_norm))
        head_norm = torch.cat(
            [norm.weight.expand(product.out_features // attention.head_dim, -1) for product, norm in norms]
        )
    return _Layer(
        before=block.input_layernorm.weight,
        query=attention.q_proj,
        key=attention.k_proj,
        value=attention.v_proj,
        out=attention.o_proj,
        head_norm=head_norm,
        behind=block.post_attention_layernorm.weight,
        gate=mlp.gate_proj,
        up=mlp.up_proj,
        down=mlp.down_proj,
        activation=mlp.act_fn.forward,
    )


def _product(linear: nn.Linear, rows: Tensor) -> Tensor:
    return F.linear(rows, linear.weight, linear.bias)


def _normed(rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMS norm as the library has it: in float32, then back, then the weight."""
    wide = rows.float()
    scale = (wide * wide).mean(-1, keepdim=True).add_(epsilon).rsqrt_()
    return weight * (wide * scale).to(rows.dtype)
