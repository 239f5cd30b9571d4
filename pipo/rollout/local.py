"""Local engine: batched decoding with a KV cache, in the training process and on its weights.

Each prompt is read once for all of its responses, finished rows leave the batch, and the log-probability of
every sampled token is kept on the way. Between the turns of episodes the cache stays, and only what is new is
read. It is the reference that other engines are tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pipo.lm.cache import PreallocatedCache
from pipo.lm.policy import Policy
from pipo.records.movable import sent
from pipo.records.options import Count, Options, Share
from pipo.records.rollouts import Completions, TokenIds, pad_rows
from pipo.rollout.engine import OnFinished
from pipo.rollout.held_rows import HeldRows
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


@dataclass(frozen=True)
class KnownRows:
    """Rows of the call before that prompts go on from."""

    held: HeldRows
    """What is kept of that call."""
    rows: Sequence[int]
    """Its row for each prompt."""


class _Read(NamedTuple):
    """Prompts that have been read."""

    cache: PreallocatedCache
    """Their keys and values."""
    logits: Tensor
    """float32 [n, V], what follows each."""
    lengths: Tensor
    """int64 [n], tokens of each."""
    real: Tensor
    """bool [n, width], on the CPU: the columns that hold tokens."""


class LocalEngine:
    """Batched decoding of a :class:`~pipo.lm.policy.Policy`."""

    shares_weights = True

    def __init__(self, policy: Policy, config: LocalEngineConfig) -> None:
        self.policy = policy
        self.config = config
        self._held: HeldRows | None = None

    def sync_weights(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """The engine reads the trainer's own tensors; what was read with those before is forgotten."""
        self._held = None

    def sleep(self) -> None:
        """Forget what is held between two turns; anything else a call of ``generate`` has freed itself."""
        self._held = None

    def wake(self) -> None:
        """Always awake."""
        self._held = None

    def close(self) -> None:
        """Forget what is held."""
        self._held = None

    @torch.inference_mode()
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
        """Sample ``group_size`` responses per prompt; see :class:`~pipo.rollout.engine.RolloutEngine`.

        Rows are held as long as all of them are decoded side by side; with several waves, which are there
        because memory does not do for all, every turn is read anew.
        """
        held, self._held = self._held, None
        parts = list(_waves(len(prompts), group_size, self.config.max_rows))
        known = None
        if held is not None and continues is not None and len(parts) == 1:
            known = KnownRows(held, continues)
        keep = hold and len(parts) == 1
        training = self.policy.training
        self.policy.eval()
        generator = torch.Generator().manual_seed(seed)
        try:
            with self.policy.precision():
                waves = [
                    self._wave(
                        prompts[part],
                        group_size,
                        sampling,
                        generator,
                        _behind(on_finished, part, group_size),
                        known=known,
                        hold=keep,
                    )
                    for part in parts
                ]
        finally:
            self.policy.train(training)
        return Completions.join(waves)

    def _read(self, prompts: Sequence[TokenIds], capacity: int) -> _Read:
        """Read the prompts once, with room for so many further tokens."""
        device = self.policy.device
        ids, mask = pad_rows(prompts)
        lengths = sent(mask.sum(dim=1), device)
        layers = self.policy.model.config.get_text_config().num_hidden_layers
        cache = PreallocatedCache(layers, ids.shape[1] + capacity)
        positions = torch.arange(ids.shape[1], device=device)[None].expand(len(prompts), -1)
        # Padding stands on the right, so causal attention alone keeps it away from real tokens.
        logits = self.policy.next_token_logits(sent(ids, device), positions, cache, None, last=lengths - 1)
        return _Read(cache, logits, lengths, mask)

    def _read_on(self, prompts: Sequence[TokenIds], known: KnownRows, capacity: int) -> _Read:
        """Read what is new in prompts of which the beginnings are held."""
        device = self.policy.device
        lengths = known.held.lengths(known.rows)
        ids, mask = pad_rows([ids[length:] for ids, length in zip(prompts, lengths, strict=True)])
        (rows, new), old = ids.shape, max(lengths)
        cache = known.held.restored(known.rows, old + new + capacity, device)
        before, count = torch.tensor(lengths)[:, None], mask.sum(dim=1, keepdim=True)
        past = torch.arange(old) < before
        # The new tokens of a row see its old ones and each other, from left to right.
        causal = torch.ones(new, new, dtype=torch.bool).tril().expand(rows, -1, -1)
        visible = torch.cat([past[:, None].expand(-1, new, -1), causal], dim=2)[:, None]
        # Padding repeats the last position, as a model may know no further one.
        positions = before + torch.minimum(torch.arange(new), count - 1)
        logits = self.policy.next_token_logits(
            sent(ids, device),
            sent(positions, device),
            cache,
            sent(visible, device),
            last=sent(count[:, 0] - 1, device),
        )
        return _Read(cache, logits, sent((before + count)[:, 0], device), torch.cat([past, mask], dim=1))

    def _wave(
        self,
        prompts: Sequence[TokenIds],
        group_size: int,
        sampling: SamplingParams,
        generator: torch.Generator,
        tell: OnFinished,
        *,
        known: KnownRows | None,
        hold: bool,
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
        read = self._read(prompts, limit) if known is None else self._read_on(prompts, known, limit)
        cache, logits, lengths, real = read
        width = int(cache.get_seq_length())
        decode = self.policy.decoder(cache, width + limit)
        rows = len(prompts) * group_size
        alive = torch.arange(rows)  # which rows are in the batch; ``at`` says it on the device
        at = sent(alive, device)
        source = at // group_size
        cache.select(source)
        logits, lengths = logits[source], lengths[source]
        held = HeldRows(real[alive // group_size]) if hold else None
        ragged = not bool(real.all())
        visible = torch.ones(rows, 1, 1, width + limit, dtype=torch.bool, device=device)
        visible[:, 0, 0, :width] = sent(real, device)[source]
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
                if held is not None:
                    gone = ended.nonzero()[:, 0]
                    held.take(cache.taken(sent(gone, device)), alive[gone].tolist())
                alive, kept = alive[live], sent(live, device)
                at, tokens = at[kept], tokens[kept]
                cache.select(kept)
            keys = width + step + 1
            logits = decode(tokens, lengths[at] + step, visible[at, :, :, :keys] if ragged else None)
        if held is not None:
            held.take(cache, alive.tolist())
            held.finish(count.tolist())
            self._held = held
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
