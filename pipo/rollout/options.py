"""Sampling parameters: temperature, top-p, top-k, stop tokens, importance-sampling correction."""

from __future__ import annotations

from pipo.records.options import Cap, CorrectionLevel, Count, CountOrNone, NotNegative, Options, Share


class Sampling(Options):
    """The distribution that tokens are drawn from."""

    temperature: NotNegative
    """Divisor of the logits; 0 means greedy."""
    top_p: Share
    """Nucleus: the smallest set of tokens whose probability reaches this is kept."""
    top_k: CountOrNone
    """Number of most likely tokens kept; 0 keeps all."""


class SamplingParams(Sampling):
    """How a response is drawn."""

    max_response_tokens: Count
    """A response is cut after this many tokens."""
    stop_token_ids: frozenset[int]
    """A response ends with (and includes) the first of these."""


class SamplingWithCorrection(Sampling):
    """Sampling for training: what it draws may differ from what the trainer computes."""

    importance_correction: CorrectionLevel
    """Truncated importance sampling of the sampler's distance: a weight per token, per response, or none."""
    importance_cap: Cap
    """Largest weight of the importance correction, at which it is truncated."""
