"""Attention for training and sampling, registered with transformers as ``pipo``: GQA decode, packed rows.

Transformers' own SDPA path copies the key-value cache once per query head group at every decode step
as soon as a mask is given. Here a single query folds its head groups into the query axis instead, and
a forward pass without mask uses the fused causal kernel. Masks are None (causal) or boolean
``[rows, 1, queries, keys]``; nothing else builds one.

:func:`packed_hidden` runs a model on tokens without padding, whose rows exist in attention only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from pipo.errors import ModelError
from pipo.lm.model_files import foreign
from pipo.lm.packing import Gather, PackedRows, RowLayout, pack

ATTENTION_NAME = "pipo"
# Largest relative difference of hidden states from those of rows alone. Rounding is 1e-6 in float32 and a few
# hundredths in bfloat16; what mixes rows or loses a token differs by a half and more.
TOLERANCE = 0.05
# What models are tried on.
PROMPTS = ((1, 2, 3), (4,))


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    packed: PackedAttention | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Grouped-query attention.

    Args:
        module: the attention layer that calls (unused, part of the interface).
        query: [n, heads, queries, head_dim].
        key: [n, kv_heads, keys, head_dim].
        value: [n, kv_heads, keys, value_dim]; of another width than keys in latent attention.
        attention_mask: bool [n, 1, queries, keys] or None for causal attention.
        dropout: attention dropout probability.
        scaling: factor on the scores; None for 1 / sqrt(head_dim).
        sliding_window: must be None; refused rather than ignored, like the next two.
        softcap: must be None.
        s_aux: must be None.
        packed: where the rows are, when n is 1 and the queries are packed tokens of several.

    Returns:
        [n, queries, heads, value_dim] and None for the weights.
    """
    if sliding_window is not None or softcap is not None or s_aux is not None:
        raise NotImplementedError("attention with a sliding window, soft-capping or sinks is not supported")
    rows, heads, queries, width = query.shape
    kv_heads = key.shape[1]
    if packed is not None:
        return packed(query, key, value, dropout, scaling), None
    if queries == 1:
        folded = query.reshape(rows, kv_heads, heads // kv_heads, width)
        out = F.scaled_dot_product_attention(
            folded, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
        )
        return out.reshape(rows, 1, heads, value.shape[-1]), None
    return _many_queries(query, key, value, attention_mask, dropout, scaling), None


def _many_queries(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float | None
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    # On a GPU only the flash kernel shares keys among heads, and it takes neither masks nor float32: without
    # copies torch would fall back to plain products, which hold all scores.
    if groups > 1 and query.device.type == "cuda" and (mask is not None or query.dtype is torch.float32):
        key, value, groups = *(each.repeat_interleave(groups, dim=1) for each in (key, value)), 1
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=groups > 1,
    )
    return out.transpose(1, 2)


class PackedAttention:
    """Causal attention within the rows of packed tokens; counts how many layers asked for it.

    Args:
        layout: where the rows are.
    """

    def __init__(self, layout: RowLayout) -> None:
        self.layout = layout
        self.calls = 0

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None
    ) -> Tensor:
        """[1, heads, tokens, width] each -> [1, tokens, heads, width of the values]."""
        self.calls += 1
        outs = [
            _many_queries(
                _rows(query, block), _rows(key, block), _rows(value, block), None, dropout, scaling
            ).flatten(0, 1)
            for block in self.layout.blocks
        ]
        # Each token comes back from one place, so the library's gradient has nothing to add up.
        return torch.cat(outs).index_select(0, self.layout.back)[None]


def _rows(packed: Tensor, block: Gather) -> Tensor:
    """[1, heads, tokens, head_dim] -> [n, heads, T, head_dim], the rows of a block."""
    _, heads, _, width = packed.shape
    tokens = packed[0].transpose(0, 1).flatten(1)
    return block(tokens).view(*block.index.shape, heads, width).transpose(1, 2)


def packed_hidden(backbone: PreTrainedModel, rows: PackedRows) -> Tensor:
    """Final hidden states that predict the sampled tokens, [M, width].

    Args:
        backbone: a decoder without its head, with the attention of this module.
        rows: what to read.

    Raises:
        ModelError: when the model's layers do not all use that attention: they would mix the rows.
    """
    packed = PackedAttention(rows.layout)
    hidden = backbone(
        input_ids=rows.input_ids[None], position_ids=rows.position_ids[None], use_cache=False, packed=packed
    ).last_hidden_state
    layers = backbone.config.get_text_config().num_hidden_layers
    if packed.calls < layers:
        raise ModelError(
            f"{type(backbone).__name__}: {packed.calls} of its {layers} layers use the attention that keeps "
            f"responses apart. Either the model's layers are of another kind, which is not supported, or its "
            f"configuration no longer says attn_implementation={ATTENTION_NAME}"
        )
    return rows.predecessors(hidden[0])


@torch.no_grad()
def rows_alone(backbone: PreTrainedModel) -> list[Tensor]:
    """Four rows, read one by one by the model itself: what packing and decoding are checked against.

    Args:
        backbone: a decoder without its head.

    Returns:
        Final hidden states [tokens, width] of each of two rows per prompt of :data:`PROMPTS`: the prompt with
        three of :func:`some_tokens`. Nothing that follows a token changes its own.

    Raises:
        ModelError: when it cannot read them.
    """
    more = some_tokens(backbone).tolist()
    rows = [[*PROMPTS[row // 2], *tokens[:3]] for row, tokens in enumerate(more)]
    with foreign(f"{named(backbone)}: models of this kind are not supported, they do not read a plain row"):
        return [
            backbone(
                input_ids=torch.tensor([row], device=backbone.device), use_cache=False
            ).last_hidden_state[0]
            for row in rows
        ]


@torch.no_grad()
def check_packing(backbone: PreTrainedModel, alone: Sequence[Tensor]) -> None:
    """Compare a few packed rows with each row alone, as the model reads it without any of this.

    Args:
        backbone: a decoder without its head.
        alone: from :func:`rows_alone`.

    Raises:
        ModelError: when they differ: the model mixes tokens outside attention, or counts positions itself; or
            when it cannot read packed rows at all.
    """
    name, lengths = named(backbone), torch.tensor([4, 2, 3, 4])
    responses = some_tokens(backbone)
    with foreign(f"{name}: models of this kind cannot be trained, they do not read packed rows"):
        every = torch.arange(4) < lengths[:, None]
        rows = pack(PROMPTS, 2, responses, lengths, every, range(4))
        packed = packed_hidden(backbone, rows.to(backbone.device))
    each = []
    for i, length in enumerate(lengths.tolist()):
        last = len(PROMPTS[i // 2]) - 1
        each.append(alone[i][last : last + length])
    difference = relative_difference(packed, torch.cat(each))
    if not difference < TOLERANCE:
        raise ModelError(
            f"{name}: responses in one forward pass change each other's hidden states (by {difference:.0%}); "
            "models that mix tokens outside attention, or that number positions themselves, are not supported"
        )


def named(backbone: PreTrainedModel) -> str:
    """A model in a message: its class and what its ``config.json`` calls it."""
    return f"{type(backbone).__name__} (model_type {backbone.config.model_type})"


def some_tokens(backbone: PreTrainedModel) -> Tensor:
    """Four tokens for each of four rows, [4, 4], that the model knows."""
    return torch.arange(5, 21).view(4, 4) % backbone.config.get_text_config().vocab_size


def relative_difference(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference over that of what is expected; nan where a value is."""
    got, expected = got.float().cpu(), expected.float().cpu()
    return ((got - expected).norm() / expected.norm()).item()


AttentionInterface.register(ATTENTION_NAME, attention)
# On recent GPUs torch would take cuDNN's attention first, which makes a plan for every shape that it has not
# met. Here shapes differ from pass to pass, and plans would take longer than attention does.
torch.backends.cuda.enable_cudnn_sdp(False)
