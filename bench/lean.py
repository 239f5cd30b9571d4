"""Qwen3 in plain PyTorch with fused projections, for the lower bound of an iteration's cost.

The parameters are those of a Hugging Face folder with the projections that share an input fused into one
matrix, in sampling and in training alike. AdamW and the gradient norm see the same numbers either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

from pipo.rollout.sampling import invert_cdf

# Finished rows leave the batch when at most this share still runs.
COMPACT_BELOW = 0.75
# Elements of a block of logits in training (32 MiB).
BLOCK_LOGITS = 8 * 1024 * 1024

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Weights of one decoder layer."""

    norm_attention: Tensor
    """[width], RMS norm before the attention."""
    qkv: Tensor
    """[(heads + 2 kv_heads) head_dim, width], query, key and value projections, fused."""
    norm_q: Tensor
    """[head_dim], RMS norm of each query head."""
    norm_k: Tensor
    """[head_dim], RMS norm of each key head."""
    out: Tensor
    """[width, heads head_dim], output projection of the attention."""
    norm_mlp: Tensor
    """[width], RMS norm before the MLP."""
    gate_up: Tensor
    """[2 intermediate, width], gate and up projections of the MLP, fused."""
    down: Tensor
    """[width, intermediate], down projection of the MLP."""


class LeanQwen3:
    """Weights and the two things done with them: sampling, and one gradient.

    Args:
        folder: a Qwen3 model in Hugging Face format.
    """

    def __init__(self, folder: str) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        config = model.config
        if config.model_type != "qwen3" or config.rope_parameters["rope_type"] != "default":
            raise SystemExit(f"{folder}: the floor knows Qwen3 models with plain rotary positions only")
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.eps = config.head_dim, config.rms_norm_eps
        self.embedding = _leaf(model.model.embed_tokens.weight)
        self.head = self.embedding if config.tie_word_embeddings else _leaf(model.lm_head.weight)
        self.norm = _leaf(model.model.norm.weight)
        self.layers = [_fuse(layer) for layer in model.model.layers]
        frequency = config.rope_parameters["rope_theta"] ** (
            -torch.arange(0, self.head_dim, 2).float() / self.head_dim
        )
        angles = torch.outer(torch.arange(config.max_position_embeddings).float(), frequency).repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()

    def parameters(self) -> list[Tensor]:
        """Every parameter once."""
        of_layers = [getattr(layer, field.name) for layer in self.layers for field in fields(Layer)]
        own = [self.embedding, self.norm] + ([] if self.head is self.embedding else [self.head])
        return own + of_layers

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.eps)

    def _layer(self, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor, attention: Attention) -> Tensor:
        """One layer on [n, T, width]; ``attention`` gets rotated queries and keys, and values."""
        rows, length, _ = x.shape
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        projected = F.linear(self._normed(x, layer.norm_attention), layer.qkv)
        q, k, v = projected.view(rows, length, sum(sizes), self.head_dim).split(sizes, dim=2)
        q = _rotated(self._normed(q, layer.norm_q).transpose(1, 2), cos, sin)
        k = _rotated(self._normed(k, layer.norm_k).transpose(1, 2), cos, sin)
        x = x + F.linear(attention(q, k, v.transpose(1, 2)).reshape(rows, length, -1), layer.out)
        gate, up = F.linear(self._normed(x, layer.norm_mlp), layer.gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, layer.down)

    # ------------------------------------------------------------------ training

    def hidden(self, ids: Tensor) -> Tensor:
        """Final hidden states of right-padded rows; causal attention keeps padding from real tokens."""

        def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)

        length = ids.shape[1]
        x = F.embedding(ids, self.embedding)
        for layer in self.layers:
            x = self._layer(layer, x, self.cos[:length], self.sin[:length], causal)
        return self._normed(x, self.norm)

    def accumulate(self, rows: Sequence[tuple[Sequence[int], Sequence[int], float]]) -> None:
        """Add the gradient of ``-sum(factor * log p(response | prompt))`` over the rows.

        Args:
            rows: prompt, response and factor of each. On the policy that sampled them, that is the gradient
                of the clipped surrogate, too: every ratio is 1.
        """
        width = max(len(prompt) + len(response) for prompt, response, _ in rows) - 1
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        targets = torch.full((len(rows), width), -1)
        for i, (prompt, response, _) in enumerate(rows):
            last = len(prompt) + len(response) - 1  # the last token is never an input
            ids[i, :last] = torch.tensor([*prompt, *response][:-1])
            targets[i, len(prompt) - 1 : last] = torch.tensor(response)
        scored = targets >= 0
        factors = torch.tensor([factor for *_, factor in rows])[:, None].expand(-1, width)[scored]
        hidden = self.hidden(ids)[scored]
        hidden.backward(self._head_gradient(hidden.detach(), targets[scored], factors))

    @torch.no_grad()
    def _head_gradient(self, hidden: Tensor, targets: Tensor, factors: Tensor) -> Tensor:
        """Gradient for the hidden states; the head's is added. The factors are known, so one pass does."""
        if self.head.grad is None:
            self.head.grad = torch.zeros_like(self.head)
        gradient = torch.empty_like(hidden)
        size = max(1, BLOCK_LOGITS // len(self.head))
        for start in range(0, len(hidden), size):
            block = slice(start, start + size)
            wide = F.linear(hidden[block], self.head).softmax(dim=1)
            wide[torch.arange(len(wide)), targets[block]] -= 1
            wide *= factors[block, None]
            torch.mm(wide, self.head, out=gradient[block])
            self.head.grad.addmm_(wide.t(), hidden[block])
        return gradient

    # ------------------------------------------------------------------ sampling

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        limit: int,
        stops: frozenset[int],
        generator: torch.Generator,
    ) -> list[list[int]]:
        """``group_size`` responses per prompt at temperature 1, the stop token included."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        width = int(lengths.max())
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        shape = (len(prompts), self.kv_heads, width + limit, self.head_dim)
        cache = [(torch.empty(shape), torch.empty(shape)) for _ in self.layers]
        states = self._prefill(ids, cache)[torch.arange(len(prompts)), lengths - 1]

        # Prompts are read once; from here on each response has a row of its own.
        alive = torch.arange(len(prompts) * group_size)
        source = alive // group_size
        cache = [(k[source], v[source]) for k, v in cache]
        states, lengths = states[source], lengths[source]
        visible = torch.arange(width + limit) < lengths[:, None]
        visible[:, width:] = True
        ragged = not visible.all()
        stop_ids = torch.tensor(sorted(stops))
        drawn = torch.full((len(alive), limit), -1)
        finished = torch.zeros(len(alive), dtype=torch.bool)
        for step in range(limit):
            probabilities = F.linear(states, self.head).softmax(dim=1)
            tokens = invert_cdf(
                probabilities, torch.rand(len(alive), dtype=torch.float64, generator=generator)
            )
            running = ~finished[alive]
            drawn[alive[running], step] = tokens[running]
            finished[alive] |= torch.isin(tokens, stop_ids)
            live = (~finished[alive]).nonzero()[:, 0]
            if len(live) == 0 or step + 1 == limit:
                break
            if len(live) <= COMPACT_BELOW * len(alive):
                alive, tokens, lengths, visible = alive[live], tokens[live], lengths[live], visible[live]
                cache = [(k[live], v[live]) for k, v in cache]
            mask = visible[:, None, None, : width + step + 1] if ragged else None
            states = self._decode(tokens, lengths + step, width + step, cache, mask)
        return [[token for token in row if token >= 0] for row in drawn.tolist()]

    def _prefill(self, ids: Tensor, cache: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Final hidden states of the prompts; fills the first columns of the cache."""
        length = ids.shape[1]
        x = self.embedding[ids]
        for layer, (keys, values) in zip(self.layers, cache, strict=True):

            def causal(
                q: Tensor, k: Tensor, v: Tensor, keys: Tensor = keys, values: Tensor = values
            ) -> Tensor:
                keys[:, :, :length], values[:, :, :length] = k, v
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(
                    1, 2
                )

            x = self._layer(layer, x, self.cos[:length], self.sin[:length], causal)
        return self._normed(x, self.norm)

    def _decode(
        self,
        tokens: Tensor,
        positions: Tensor,
        column: int,
        cache: list[tuple[Tensor, Tensor]],
        mask: Tensor | None,
    ) -> Tensor:
        """Final hidden states after one more token per row, [n, width]."""
        cos, sin = self.cos[positions][:, None, None], self.sin[positions][:, None, None]
        grouped = (len(tokens), self.kv_heads, self.heads // self.kv_heads, self.head_dim)
        x = self.embedding[tokens][:, None]
        for layer, (keys, values) in zip(self.layers, cache, strict=True):

            def cached(
                q: Tensor, k: Tensor, v: Tensor, keys: Tensor = keys, values: Tensor = values
            ) -> Tensor:
                keys[:, :, column], values[:, :, column] = k[:, :, 0], v[:, :, 0]
                # Queries that share keys stand where the length would, so no key is repeated.
                keys, values = keys[:, :, : column + 1], values[:, :, : column + 1]
                return F.scaled_dot_product_attention(q.reshape(grouped), keys, values, attn_mask=mask)

            x = self._layer(layer, x, cos, sin, cached)
        return self._normed(x[:, 0], self.norm)


def _leaf(weight: Tensor) -> Tensor:
    return weight.detach().clone().requires_grad_()


def _fuse(layer: torch.nn.Module) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return Layer(
        norm_attention=_leaf(layer.input_layernorm.weight),
        qkv=_leaf(torch.cat([each.weight for each in projections])),
        norm_q=_leaf(attention.q_norm.weight),
        norm_k=_leaf(attention.k_norm.weight),
        out=_leaf(attention.o_proj.weight),
        norm_mlp=_leaf(layer.post_attention_layernorm.weight),
        gate_up=_leaf(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])),
        down=_leaf(mlp.down_proj.weight),
    )


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin
