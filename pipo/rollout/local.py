"""Local engine: batched decoding with a KV cache, in the training process and on its weights.

Each prompt is read once for all of its responses, finished rows leave the batch, and the log-probability of
every sampled token is kept on the way. It is the reference that other engines are tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from pipo.lm.cache import PreallocatedCache
from pipo.lm.policy import Policy
from pipo.records.movable import sent
from pipo.records.options import Count, Options, Share
from pipo.records.rollouts import Completions, TokenIds, pad_rows
from pipo.rollout.engine import OnFinished
from pipo.rollout.options import SamplingParams
from pipo.rollout.sampling import sample_tokens


class LocalEngineConfig(Options):
    """Options of the local engine."""

    max_rows: Count
    """Responses decoded at a time; more prompts wait for the next wave."""
    compact_below: Share
    """Finished rows are dropped once at most this share of the rows still runs."""


def local_engines(config: LocalEngineConfig) -> Callable[[Policy], LocalEngine]:
    """What makes the engine once the policy is there."""
    return partial(LocalEngine, config=config)


class LocalEngine:
    """Batched decoding of a :class:`~pipo.lm.policy.Policy`."""

    shares_weights = True

    def __init__(self, policy: Policy, config: LocalEngineConfig) -> None:
        self.policy = policy
        self.config = config

    def sync_weights(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Nothing to do: the engine reads the trainer's own tensors."""

    def sleep(self) -> None:
        """Nothing to give back: what a call of ``generate`` took, it has freed."""

    def wake(self) -> None:
        """Always awake."""

    def close(self) -> None:
        """Nothing is held."""

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[TokenIds],
        group_size: int,
        sampling: SamplingParams,
        seed: int,
        on_finished: OnFinished | None = None,
    ) -> Completions:
        """Sample ``group_size`` responses per prompt; see :class:`~pipo.rollout.engine.RolloutEngine`."""
        training = self.policy.training
        self.policy.eval()
        generator = torch.Generator().manual_seed(seed)
        try:
            with self.policy.precision():
                waves = [
                    self._wave(
                        prompts[part], group_size, sampling, generator, _behind(on_finished, part, group_size)
                    )
                    for part in _waves(len(prompts), group_size, self.config.max_rows)
                ]
        finally:
            self.policy.train(training)
        return Completions.join(waves)

    def _prefill(
        self, prompts: Sequence[TokenIds], capacity: int
    ) -> tuple[PreallocatedCache, Tensor, Tensor]:
        """Read the prompts once; returns the cache, the next token's logits and the prompt lengths."""
        device = self.policy.device
        ids, mask = pad_rows(prompts)
        lengths = sent(mask.sum(dim=1), device)
        layers = self.policy.model.config.get_text_config().num_hidden_layers
        cache = PreallocatedCache(layers, ids.shape[1] + capacity)
        positions = torch.arange(ids.shape[1], device=device)[None].expand(len(prompts), -1)
        # Padding stands on the right, so causal attention alone keeps it away from real tokens.
        logits = self.policy.next_token_logits(sent(ids, device), positions, cache, None, last=lengths - 1)
        return cache, logits, lengths

    def _wave(
        self,
        prompts: Sequence[TokenIds],
        group_size: int,
        sampling: SamplingParams,
        generator: torch.Generator,
        tell: OnFinished,
    ) -> Completions:
        """Responses to prompts that are decoded side by side, one token of each running row per step.

        Example:
            Prompts (5, 6, 7) and (8), two responses each, at most 4 tokens; 1 is the stop token, and
            ``compact_below`` is 0.5. The prompts are read once, padded to ``width`` 3, and each is copied to
            two rows of the cache. A dash is a row that is finished but still in the cache: what it draws is
            thrown away. A blank is a row that has left it::

                row              0  1  2  3
                prompt           5  5  8  8
                                 6  6  .  .     padding, which ``visible`` hides
                                 7  7  .  .
                step 0 draws     9  1  4  4     row 1 is finished; 3 of 4 go on, more than half: all stay
                step 1 draws     3  -  1  2     row 2 is finished; 2 of 4 go on: rows 0 and 3 stay
                step 2 draws     1        5     row 0 is finished; 1 of 2 goes on: row 3 stays
                step 3 draws              6     the limit: row 3 is cut, not finished

            The token of row 3 at step 0 goes to column 3 of the cache, its fourth, but has position 1, its
            prompt's length. ``count`` ends as 3, 1, 2, 4.
        """
        device = self.policy.device
        limit = sampling.max_response_tokens
        cache, logits, lengths = self._prefill(prompts, limit)
        width = int(cache.get_seq_length())
        decode = self.policy.decoder(cache, width + limit)
        rows = len(prompts) * group_size
        alive = torch.arange(rows)  # which rows are in the batch; ``at`` says it on the device
        at = sent(alive, device)
        source = at // group_size
        cache.select(source)
        logits, lengths = logits[source], lengths[source]
        ragged = any(len(ids) != width for ids in prompts)
        visible = torch.ones(rows, 1, 1, width + limit, dtype=torch.bool, device=device)
        visible[:, 0, 0, :width] = torch.arange(width, device=device) < lengths[:, None]
        stops = torch.tensor(sorted(sampling.stop_token_ids))

        ids = torch.zeros(rows, limit, dtype=torch.int64)
        logprobs = torch.zeros(rows, limit, device=device)
        count = torch.zeros(rows, dtype=torch.int64)
        finished = torch.zeros(rows, dtype=torch.bool)
        for step in range(limit):
            # One number for every row of the wave, so that dropping rows does not change the others' draws.
            uniform = sent(torch.rand(rows, dtype=torch.float64, generator=generator), device)[at]
            tokens, chosen = sample_tokens(logits, uniform, sampling.temperature, sampling)
            logprobs[at, step] = chosen
            drawn = tokens.cpu()  # all of a step that the device is waited for
            ended = finished[alive]
            ids[alive, step] = drawn.masked_fill(ended, 0)
            count[alive] += ~ended
            over = torch.isin(drawn, stops) & ~ended
            ended |= over
            finished[alive] = ended
            last = step + 1 == limit
            for row in alive[over | ~ended if last else over].tolist():
                tell(row, tuple(ids[row, : step + 1].tolist()))
            live = (~ended).nonzero()[:, 0]
            if len(live) == 0 or last:
                break
            if len(live) <= self.config.compact_below * len(alive):
                alive, kept = alive[live], sent(live, device)
                at, tokens = at[kept], tokens[kept]
                cache.select(kept)
            keys = width + step + 1
            logits = decode(tokens, lengths[at] + step, visible[at, :, :, :keys] if ragged else None)
        longest = int(count.max())
        mask = torch.arange(longest) < count[:, None]
        return Completions(
            response_ids=ids[:, :longest],
            response_mask=mask,
            sampled=mask,
            logprobs=logprobs[:, :longest].cpu().masked_fill(~mask, 0.0),
            finished=finished,
        )


def _waves(prompts: int, group_size: int, max_rows: int) -> Iterator[slice]:
    """Split the prompts so that a wave has at most ``max_rows`` responses (but at least one prompt)."""
    size = max(1, max_rows // group_size)
    for start in range(0, prompts, size):
        yield slice(start, start + size)


def _behind(on_finished: OnFinished | None, part: slice, group_size: int) -> OnFinished:
    """What a wave tells, whose rows are counted from its first prompt."""

    def tell(row: int, ids: TokenIds) -> None:
        if on_finished is not None:
            on_finished(part.start * group_size + row, ids)

    return tell
