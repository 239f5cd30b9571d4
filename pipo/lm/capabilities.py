"""Check at loading that a model decodes token by token from the KV cache as it reads a text at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipo.errors import ModelError
from pipo.lm.attention import PROMPTS, TOLERANCE, named, relative_difference, some_tokens
from pipo.lm.cache import PreallocatedCache
from pipo.lm.library_names import cache_argument
from pipo.lm.model_files import foreign


@torch.no_grad()
def check_decoding(backbone: PreTrainedModel, alone: Sequence[Tensor]) -> None:
    """Compare a few tokens read one by one from the cache, as the engine does, with each row read at once.

    Args:
        backbone: a decoder without its head.
        alone: from :func:`~pipo.lm.attention.rows_alone`.

    Raises:
        ModelError: when they differ, or when the model does not work with the engine's cache.
    """
    name, device = named(backbone), backbone.device
    width, more = max(map(len, PROMPTS)), some_tokens(backbone)
    lengths = torch.tensor([len(prompt) for prompt in PROMPTS])
    padded = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in PROMPTS])
    with foreign(f"{name}: a model of this kind cannot be sampled from: it does not work with the cache"):
        cache = PreallocatedCache(backbone.config.get_text_config().num_hidden_layers, width + 3)
        positions = torch.arange(width)[None].expand(len(PROMPTS), -1)
        hidden = _cached(backbone, padded, positions, cache, None)
        got = [hidden[torch.arange(len(PROMPTS)), lengths - 1]]
        expected = [torch.stack([alone[2 * i][len(prompt) - 1] for i, prompt in enumerate(PROMPTS)])]
        rows = torch.arange(4)
        cache.select((rows // 2).to(device))
        for step in range(3):
            if step == 2:  # a row is finished
                rows = torch.tensor([0, 2, 3])
                cache.select(rows.to(device))
            before = lengths[rows // 2]
            visible = torch.ones(len(rows), 1, 1, width + step + 1, dtype=torch.bool)
            visible[:, 0, 0, :width] = torch.arange(width) < before[:, None]
            at = before + step
            got.append(_cached(backbone, more[rows, step, None], at[:, None], cache, visible)[:, 0])
            ends = zip(rows.tolist(), at.tolist(), strict=True)
            expected.append(torch.stack([alone[row][last] for row, last in ends]))
    difference = relative_difference(torch.cat(got), torch.cat(expected))
    if not difference < TOLERANCE:
        raise ModelError(
            f"{name}: read token by token, a text gets other hidden states than read at once (by "
            f"{difference:.0%}); models whose layers keep more than keys and values are not supported"
        )


def _cached(
    backbone: PreTrainedModel, ids: Tensor, positions: Tensor, cache: PreallocatedCache, mask: Tensor | None
) -> Tensor:
    """[rows, tokens, width], as :meth:`~pipo.lm.policy.Policy.next_token_logits` reads them."""
    device = backbone.device
    return backbone(
        input_ids=ids.to(device),
        position_ids=positions.to(device),
        attention_mask=None if mask is None else mask.to(device),
        use_cache=True,
        **{cache_argument(type(backbone)): cache},
    ).last_hidden_state
