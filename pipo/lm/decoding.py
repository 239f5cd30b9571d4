"""A decode step of Llama, Qwen2 and Qwen3 written out: the library's products and sums with less around them.

A step of one token per row is a few hundred small operations, and with few rows what surrounds them costs
more than they do: calls of modules, hooks, casts that change nothing, masks that nobody reads. Whatever is
not of this plain layout (adapters, shards, hooks, other architectures) is decoded by the library's own
forward pass, see :meth:`pipo.lm.policy.Policy.decoder`. On a CPU both give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipo.lm.cache import PreallocatedCache, PreallocatedLayer

DecodeStep = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Tokens int64 [n], positions int64 [n], visible keys bool [n, 1, 1, keys] (None: all) -> float32 [n, V]."""

# On a CPU a product first puts its matrix into another order, which takes as long as multiplying some thirty
# rows by it, and half of that where the matrix lies as it is multiplied. With fewer rows than these there is
# no difference, and with one the bits are others.
MANY_ROWS = 16
# Weights of a matrix that is copied for that, at most; those of large models take memory that may be short.
LARGEST_COPY = 2**20

_BACKBONES = {"LlamaModel", "Qwen2Model", "Qwen3Model"}
# Rotations that depend on the position alone, and not on the longest row beside.
_ROTATIONS = {"default", "linear", "llama3", "yarn"}


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """What a layer computes with, each as it comes in the step below."""

    before: Tensor
    """[width], of the norm before attention."""
    query: Callable[[Tensor], Tensor]
    """To heads * head_dim."""
    key: Callable[[Tensor], Tensor]
    """To kv_heads * head_dim."""
    value: Callable[[Tensor], Tensor]
    """To kv_heads * head_dim."""
    out: Callable[[Tensor], Tensor]
    """From heads * head_dim back to width."""
    head_norm: Tensor | None
    """[heads + kv_heads, head_dim], of the norms of queries and keys; None without them."""
    behind: Tensor
    """[width], of the norm before the MLP."""
    gate: Callable[[Tensor], Tensor]
    """To the MLP's width, with the activation behind it."""
    up: Callable[[Tensor], Tensor]
    """To the MLP's width."""
    down: Callable[[Tensor], Tensor]
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
    embedding, norm, product = model.embed_tokens.weight, model.norm.weight, _product(head)
    heads, kv_heads = (each.out_features // width for each in (attention.q_proj, attention.k_proj))
    # As tensors, because a number is made one at every use.
    size, head_size, epsilon = (
        torch.full((), number, dtype=torch.float32, device=embedding.device)
        for number in (len(norm), width, model.norm.variance_epsilon)
    )
    cosines, sines = _rotations(model, positions)

    def step(tokens: Tensor, at: Tensor, visible: Tensor | None) -> Tensor:
        rows = len(tokens)
        hidden = embedding.index_select(0, tokens)
        cosine, sine = cosines.index_select(0, at), sines.index_select(0, at)
        # The library's attention makes it of the mask anew in each layer.
        bias = None if visible is None else torch.where(visible, 0.0, -torch.inf).to(hidden.dtype)
        for layer, kept in zip(layers, cache.layers, strict=True):
            assert isinstance(kept, PreallocatedLayer)
            normed = _normed(hidden, layer.before, size, epsilon)
            turned = torch.cat((layer.query(normed), layer.key(normed)), dim=1)
            turned = turned.view(rows, heads + kv_heads, width)
            if layer.head_norm is not None:
                turned = _normed(turned, layer.head_norm, head_size, epsilon)
            halves = turned.view(rows, heads + kv_heads, 2, width // 2)
            turned = (halves * cosine).add_(halves.flip(2) * sine).view_as(turned)
            query, key = turned.split_with_sizes((heads, kv_heads), dim=1)
            keys, values = kept.append(key, layer.value(normed).view(rows, kv_heads, width))
            seen = F.scaled_dot_product_attention(
                query.reshape(rows, kv_heads, heads // kv_heads, width),
                keys,
                values,
                attn_mask=bias,
                scale=scaling,
            )
            hidden.add_(layer.out(seen.reshape(rows, heads * width)))
            normed = _normed(hidden, layer.behind, size, epsilon)
            hidden.add_(layer.down(layer.activation(layer.gate(normed)).mul_(layer.up(normed))))
        return product(_normed(hidden, norm, size, epsilon)).float()

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
        query=_product(attention.q_proj),
        key=_product(attention.k_proj),
        value=_product(attention.v_proj),
        out=_product(attention.o_proj),
        head_norm=head_norm,
        behind=block.post_attention_layernorm.weight,
        gate=_product(mlp.gate_proj),
        up=_product(mlp.up_proj),
        down=_product(mlp.down_proj),
        activation=mlp.act_fn.forward,
    )


def _rotations(model: Any, positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, [positions, 1, 2, head_dim / 2], to turn one half by the other."""
    embedding = model.embed_tokens.weight
    everywhere = torch.arange(positions, device=embedding.device)[None]
    cosines, sines = (
        each.view(positions, 1, 2, -1) for each in model.rotary_emb(embedding[:1, None], everywhere)
    )
    return cosines, torch.cat((-sines[:, :, :1], sines[:, :, 1:]), dim=2)


def _product(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    """What multiplies rows by the weights of a layer."""
    if torch.is_autocast_enabled(linear.weight.device.type):  # which keeps the weights that it has cast
        return partial(F.linear, weight=linear.weight, bias=linear.bias)
    weight, bias = linear.weight.t(), linear.bias
    for_many = _for_many_rows(weight)
    if bias is None:
        return lambda rows: torch.mm(rows, for_many if len(rows) >= MANY_ROWS else weight)
    return lambda rows: torch.addmm(bias, rows, for_many if len(rows) >= MANY_ROWS else weight)


def _for_many_rows(weight: Tensor) -> Tensor:
    """The same numbers, as they lie in memory when many rows are multiplied by them."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or weight.numel() > LARGEST_COPY:
        return weight
    return weight.contiguous()


def _normed(rows: Tensor, weight: Tensor, size: Tensor, epsilon: Tensor) -> Tensor:
    """RMS norm as the library has it: in float32, then back, then the weight."""
    wide = rows if rows.dtype is torch.float32 else rows.float()  # a cast that changes nothing is not free
    scale = torch.addcdiv(epsilon, (wide * wide).sum(-1, keepdim=True), size).rsqrt_()
    unit = wide * scale
    return unit.mul_(weight) if wide is rows else weight * unit.to(rows.dtype)
