"""The seam between training and whatever samples the responses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pipo.errors import RunFailed
from pipo.records.rollouts import Completions, TokenIds


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn.

    Attributes:
        temperature: divides the logits; 0 means greedy.
        top_p: smallest set of tokens whose probability reaches this is kept, in (0, 1].
        top_k: number of most likely tokens kept; 0 keeps all.
        max_response_tokens: a response is cut after this many tokens.
        stop_token_ids: a response ends with (and includes) the first of these.
    """

    temperature: float
    top_p: float
    top_k: int
    max_response_tokens: int
    stop_token_ids: frozenset[int]

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be >= 0 and finite, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0 (0 keeps all tokens), got {self.top_k}")
        if self.max_response_tokens < 1:
            raise ValueError(f"max_response_tokens must be >= 1, got {self.max_response_tokens}")


class EngineFailed(RunFailed):
    """The engine broke while it was at work; nothing about the configuration is known to be wrong."""


class RolloutEngine(Protocol):
    """Token ids in, token ids and their log-probabilities out; never text.

    With several processes ``wake``, ``sync_weights``, ``sleep`` and ``close`` are collective: all call them
    in the same order, because weights may be spread over the processes.

    Attributes:
        shares_weights: True when the engine samples from the trainer's own weights at the trainer's
            precision, so that in float32 its log-probabilities are the behaviour policy's and need no second
            forward pass.
    """

    shares_weights: bool

    def generate(
        self, prompts: Sequence[TokenIds], group_size: int, sampling: SamplingParams, seed: int
    ) -> Completions:
        """Sample ``group_size`` responses for each prompt, group-major; all of their tokens are sampled.

        The returned log-probabilities are those of the full distribution at ``sampling.temperature``
        (at 1 when greedy), before top-p and top-k cut it; an engine whose weights are a copy may give those
        of the distribution after the cut. The same seed gives the same tokens.

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
