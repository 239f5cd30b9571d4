"""One attention for training and sampling, registered with transformers under the name ``pipo``.

Transformers' own SDPA path copies the key-value cache once per query head group at every decode step
as soon as a mask is given. Here a single query folds its head groups into the query axis instead, and
a forward pass without mask uses the fused causal kernel. Masks are None (causal) or boolean
``[rows, 1, queries, keys]``; nothing else builds one.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

ATTENTION_NAME = "pipo"


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
    **_: Any,
) -> tuple[Tensor, None]:
    """Grouped-query attention.

    Args:
        module: the attention layer that calls (unused, part of the interface).
        query: [n, heads, queries, head_dim].
        key: [n, kv_heads, keys, head_dim].
        value: [n, kv_heads, keys, head_dim].
        attention_mask: bool [n, 1, queries, keys] or None for causal attention.
        dropout: attention dropout probability.
        scaling: factor on the scores; None for 1 / sqrt(head_dim).
        sliding_window: must be None; refused rather than ignored, like the next two.
        softcap: must be None.
        s_aux: must be None.

    Returns:
        [n, queries, heads, head_dim] and None for the weights.
    """
    if sliding_window is not None or softcap is not None or s_aux is not None:
        raise NotImplementedError("attention with a sliding window, soft-capping or sinks is not supported")
    rows, heads, queries, width = query.shape
    kv_heads = key.shape[1]
    if queries == 1:
        folded = query.reshape(rows, kv_heads, heads // kv_heads, width)
        out = F.scaled_dot_product_attention(
            folded, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
        )
        return out.reshape(rows, 1, heads, width), None
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        is_causal=attention_mask is None,
        scale=scaling,
        enable_gqa=heads != kv_heads,
    )
    return out.transpose(1, 2), None


AttentionInterface.register(ATTENTION_NAME, attention)
