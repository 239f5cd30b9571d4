"""Sampling parameters: temperature, top-p, top-k, stop tokens, importance-sampling correction."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from pipo.records.correction import ImportanceCorrection, Rejection
from pipo.records.cut import Cut
from pipo.records.options import Cap, CorrectionLevel, Count, NotNegative, Share


class Sampling(Cut):
    """The distribution that tokens are drawn from."""

    temperature: NotNegative
    """Divisor of the logits; 0 means greedy."""


class SamplingParams(Sampling):
    """How a response is drawn."""

    max_response_tokens: Count
    """A response is cut after this many tokens."""
    stop_token_ids: frozenset[int]
    """A response ends with (and includes) the first of these."""


class SamplingWithCorrection(Sampling):
    """Sampling for training: what it draws may differ from what the trainer computes."""

    replay_sampling_mask: bool
    """With top-p, top-k or min-p, train the distribution that was drawn from: every log-probability is over
    the tokens that were kept. Otherwise the whole distribution is trained, as if nothing had been cut."""
    importance_correction: CorrectionLevel
    """Importance weights for the sampler's distance: per token, or per response by the product or by the
    geometric mean of its tokens' ratios, or none."""
    importance_cap: Cap | None
    """Largest weight, at which it is truncated; None for no bound, which needs ``rejection.high``."""
    importance_floor: Share | None
    """Smallest weight, to which it is raised; None for no bound."""
    rejection: Rejection | None
    """Tokens or responses that are left out because the sampler is too far away; None for none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.importance_correction == "none" and self.importance_floor is not None:
            raise ValueError(
                f"rollout.importance_floor={self.importance_floor:g} needs rollout.importance_correction: "
                "token, sequence or geometric"
            )
        high = None if self.rejection is None else self.rejection.high
        if self.importance_correction != "none" and self.importance_cap is None and high is None:
            raise ValueError(
                "rollout.importance_cap=null needs rollout.rejection.high: without either, one weight could "
                "be the whole step"
            )
        return self

    @property
    def correction(self) -> ImportanceCorrection:
        """How weights are made."""
        return ImportanceCorrection(
            level=self.importance_correction,
            cap=self.importance_cap,
            floor=self.importance_floor,
            rejection=self.rejection,
        )
