"""Reward terms: added to the verifier's reward for training, and never counted in accuracy or mu."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pipo.errors import ConfigError
from pipo.functional.shaping import overlong_penalty
from pipo.records.problems import Example, Reward


@dataclass(frozen=True, kw_only=True)
class GradedResponses:
    """What a reward term sees: N responses that one rank has sampled and graded together, group by group."""

    examples: tuple[Example, ...]
    """N problems, one for each response."""
    texts: tuple[str, ...]
    """N decoded responses without special tokens, replies of environments included."""
    verdicts: tuple[Reward, ...]
    """N verdicts of the task's grader."""
    rewards: Tensor
    """float32 [N], ``verdicts[i].score``."""
    lengths: Tensor
    """int64 [N], tokens that the policy sampled for each response, stop tokens included and replies not."""
    finished: Tensor
    """bool [N], False where a response was cut at the limit."""
    group_size: int
    """G; responses i * G to i * G + G - 1 answer the same prompt."""


@runtime_checkable
class RewardTerm(Protocol):
    """A node of ``algo.reward_terms``. It has no memory: none of it would be in a checkpoint."""

    def __call__(self, graded: GradedResponses) -> Tensor:
        """What is added to each reward, float32 [N], finite."""
        ...


class OverlongPenalty:
    """DAPO's soft over-long punishment, see :func:`pipo.functional.shaping.overlong_penalty`.

    Args:
        buffer: the last so many tokens before the limit are penalised, linearly down to -1 at the limit.
        max_response_tokens: the limit, in tokens.

    Raises:
        ValueError: ``buffer`` does not lie in [1, max_response_tokens].
    """

    def __init__(self, *, buffer: int, max_response_tokens: int) -> None:
        if not 0 < buffer <= max_response_tokens:
            raise ValueError(
                f"buffer must lie in [1, max_response_tokens = {max_response_tokens}], got {buffer}"
            )
        self.buffer, self.max_response_tokens = buffer, max_response_tokens

    def __call__(self, graded: GradedResponses) -> Tensor:
        """float32 [N] in [-1, 0]."""
        return overlong_penalty(graded.lengths, self.max_response_tokens, self.buffer).float()


def reward_terms(terms: Mapping[str, RewardTerm], graded: GradedResponses) -> dict[str, Tensor]:
    """What each term adds to the rewards, float32 [N] by name.

    Raises:
        ConfigError: a term returned something else, or a number that is not finite; it is named.
    """
    return {name: _checked(name, term(graded), graded) for name, term in terms.items()}


def _checked(name: str, added: object, graded: GradedResponses) -> Tensor:
    rows = len(graded.rewards)
    if not isinstance(added, Tensor):
        got = type(added).__name__
    elif added.shape != (rows,) or added.dtype != torch.float32:
        got = f"{str(added.dtype).removeprefix('torch.')} {list(added.shape)}"
    elif not (finite := added.isfinite()).all():
        place = int((~finite).nonzero()[0, 0])
        got = f"{added[place].item()} for response {place} ({graded.examples[place].uid})"
    else:
        return added
    raise ConfigError(f"algo.reward_terms.{name}: must return finite float32 [{rows}], got {got}")
