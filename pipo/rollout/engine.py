"""Interface of rollout engines: weight sync, sampling of responses, sleep and wake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from torch import Tensor

from pipo.errors import RunFailed
from pipo.records.rollouts import Completions, TokenIds
from pipo.rollout.options import SamplingParams

OnFinished = Callable[[int, TokenIds], None]
"""Told of a response as soon as its last token is drawn: its row, group-major, and its tokens."""


class EngineFailed(RunFailed):
    """The engine broke while it was at work; nothing about the configuration is known to be wrong."""


class RolloutEngine(Protocol):
    """Token ids in, token ids and their log-probabilities out; never text.

    With several processes ``wake``, ``sync_weights``, ``sleep`` and ``close`` are collective: all call them
    in the same order, because weights may be spread over the processes.
    """

    shares_weights: bool
    """True when the engine samples from the trainer's own weights at the trainer's precision, so that in
    float32 its log-probabilities are the behaviour policy's and need no second forward pass.
    """

    def generate(
        self,
        prompts: Sequence[TokenIds],
        group_size: int,
        sampling: SamplingParams,
        seed: int,
        on_finished: OnFinished | None = None,
        *,
        hold: bool = False,
        continues: Sequence[int] | None = None,
    ) -> Completions:
        """Sample ``group_size`` responses for each prompt, group-major; all of their tokens are sampled.

        The returned log-probabilities are those of the distribution that was drawn from: at
        ``sampling.temperature`` (at 1 when greedy), among the tokens that top-p, top-k and min-p keep. The
        same seed gives the same tokens.

        ``on_finished`` may be told of each response, once, while others are still being sampled, so that
        grading can begin; an engine that tells nothing early does as well without.

        With ``hold`` the next call goes on from rows of this one: its prompts begin with a prompt and its
        whole response, and ``continues`` says for each of them which row of this call that was. An engine may
        keep what it has read until then, or find it again, or read anew: the draws are the same up to
        rounding. What is kept lasts until the next call of any method.

        Ranks that sample together need each other: all call this equally often, if need be without prompts.

        Raises:
            EngineFailed: when the engine broke.
        """
        ...

    def sync_weights(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the trainer's weights (streamed by name); called before the next ``generate``."""
        ...

    def sleep(self) -> None:
        """Give memory back until the next ``wake``; the weights may be lost."""
        ...

    def wake(self) -> None:
        """Get ready to sample; harmless when awake. An engine that is not built yet is built now."""
        ...

    def close(self) -> None:
        """Free everything; the engine is not used again."""
        ...
