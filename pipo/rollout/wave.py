"""A wave of the local engine: responses to prompts that have been read, decoded side by side.

Responses to a prompt that have been the same so far are one text to the model, which reads it once: they have
one place in the cache, and draw from the same probabilities. Where they draw different tokens they part, and
never come together again. Tensors are the batch's, on the device. Which rows go on and what they said is kept
in plain Python, because a step of few rows costs what its small operations cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipo.lm.cache import PreallocatedCache
from pipo.lm.policy import Policy
from pipo.records.movable import sent
from pipo.records.rollouts import Completions, TokenIds, pad_rows
from pipo.rollout.held_rows import HeldRows
from pipo.rollout.options import SamplingParams
from pipo.rollout.places import Places
from pipo.rollout.sampling import sample_tokens


class ReadPrompts(NamedTuple):
    """Prompts that have been read."""

    cache: PreallocatedCache
    """Their keys and values, with room for the responses."""
    logits: Tensor
    """float32 [n, V], what follows each."""
    lengths: Tensor
    """int64 [n], tokens of each."""
    real: Tensor
    """bool [n, width], on the CPU: the columns that hold tokens."""


class _Batch:
    """The rows that are decoded side by side: every response at first, later those that are kept.

    Args:
        policy: draws, within its precision.
        read: the prompts; their cache becomes the batch's.
        group_size: responses per prompt.
        sampling: how a token is drawn.
        generator: of the draws.
    """

    def __init__(
        self,
        policy: Policy,
        read: ReadPrompts,
        group_size: int,
        sampling: SamplingParams,
        generator: torch.Generator,
    ) -> None:
        self._sampling, self._generator, self._device = sampling, generator, policy.device
        prompts = len(read.lengths)
        self._all = prompts * group_size
        self.rows = list(range(self._all))
        """Which of the wave's rows are in the batch; ``_at`` says it on the device."""
        self._at = sent(torch.arange(self._all), self._device)
        self._places = Places([row // group_size for row in self.rows], prompts)
        self.cache = read.cache
        width = self.cache.get_seq_length()
        columns = width + sampling.max_response_tokens
        self._step = policy.decoder(self.cache, columns)
        self.cache.select(sent(torch.arange(prompts), self._device), room=self._all)
        # By place, like the tokens that are read.
        self._logits, self._positions = read.logits, read.lengths
        self._visible: Tensor | None = None  # all keys
        if not bool(read.real.all()):
            self._visible = torch.ones(prompts, 1, 1, columns, dtype=torch.bool, device=self._device)
            self._visible[:, 0, 0, :width] = sent(read.real, self._device)
        self._of_rows: Tensor | None = None  # places, as they were when it was sent; None: row by row
        self._send_places()
        self._tokens = self._at  # replaced by the first draw
        self._drawn: list[Tensor] = []
        self._logprobs = torch.zeros(self._all, sampling.max_response_tokens, device=self._device)
        self._written = 0

    def draw(self) -> list[int]:
        """One token for each row of the batch; all of a step that the device is waited for."""
        # One number for every row of the wave, so that dropping rows does not change the others' draws.
        uniform = torch.rand(self._all, dtype=torch.float64, generator=self._generator)
        uniform = sent(uniform, self._device).index_select(0, self._at)
        logits = self._logits if self._of_rows is None else self._logits.index_select(0, self._of_rows)
        self._tokens, logprobs = sample_tokens(logits, uniform, self._sampling.temperature, self._sampling)
        self._drawn.append(logprobs)
        return self._tokens.tolist()

    def taken(self, chosen: Sequence[int]) -> PreallocatedCache:
        """A copy of what the cache holds of some rows of the batch."""
        return self.cache.taken(self._sent([self._places.of_rows[row] for row in chosen]))

    def sparse(self, running: Sequence[int], share: float) -> bool:
        """Whether so few rows go on that the others should be dropped, or so few places are in use."""
        if len(running) <= share * len(self.rows):
            return True
        return not self._places.apart and len(self._places.used(running)) <= share * self._places.count

    def keep(self, chosen: Sequence[int]) -> None:
        """Drop all rows but those at these places of the batch, and what nobody goes on from."""
        self._write()
        self.rows = [self.rows[row] for row in chosen]
        rows = self._sent(chosen)
        self._at, self._tokens = (each.index_select(0, rows) for each in (self._at, self._tokens))
        kept = self._sent(self._places.keep(chosen))
        self._follow(kept)
        self.cache.select(kept, room=len(self.rows))
        self._send_places()

    def decode(self, drawn: Sequence[int], running: Sequence[int]) -> None:
        """Read the tokens that were drawn.

        Args:
            drawn: the token of each row of the batch.
            running: rows of the batch that go on.
        """
        tokens = self._tokens
        if not self._places.apart:
            copies, readers = self._places.part(drawn, running)
            if copies:
                origins = list(range(self._places.count))
                for source, target in copies:
                    origins[target] = source
                self._follow(self._sent(origins))
                source, target = (self._sent(each) for each in zip(*copies, strict=True))
                self.cache.branch(source, target, self._places.count)
                self._send_places()
            tokens = tokens.index_select(0, self._sent(readers))
        keys = self.cache.get_seq_length() + 1
        visible = None if self._visible is None else self._visible[:, :, :, :keys]
        self._logits = self._step(tokens, self._positions, visible)
        self._positions = self._positions + 1

    def logprobs(self, mask: Tensor) -> Tensor:
        """Log-probabilities of the tokens in a mask [rows, longest] of the whole wave; 0 elsewhere."""
        self._write()
        return self._logprobs[:, : mask.shape[1]].cpu().masked_fill(~mask, 0.0)

    def _follow(self, origins: Tensor) -> None:
        """Positions and visible keys of places that go on from others."""
        self._positions = self._positions.index_select(0, origins)
        if self._visible is not None:
            self._visible = self._visible.index_select(0, origins)

    def _send_places(self) -> None:
        """Tell the device where the rows are."""
        self._of_rows = None if self._places.apart else self._sent(self._places.of_rows)

    def _sent(self, numbers: Sequence[int]) -> Tensor:
        return sent(torch.tensor(numbers, dtype=torch.int64), self._device)

    def _write(self) -> None:
        """Put the log-probabilities that were drawn with the rows as they are to the rows of the wave."""
        end = self._written + len(self._drawn)
        self._logprobs[self._at, self._written : end] = torch.stack(self._drawn, dim=1)
        self._written, self._drawn = end, []


def decode_wave(
    policy: Policy,
    read: ReadPrompts,
    group_size: int,
    sampling: SamplingParams,
    generator: torch.Generator,
    tell: Callable[[int, TokenIds], None],
    *,
    compact_below: float,
    held: HeldRows | None,
) -> Completions:
    """Responses to prompts that are decoded side by side, one token of each running row per step.

    Args:
        policy: draws, within its precision.
        read: the prompts; their cache is used up.
        group_size: responses per prompt.
        sampling: how a token is drawn, and when a response ends.
        generator: of the draws.
        tell: told of each response that is over.
        compact_below: finished rows are dropped once at most this share of the rows still runs.
        held: takes the rows' keys and values; None to forget them.

    Example:
        Prompts (5, 6, 7) and (8), two responses each, at most 4 tokens; 1 is the stop token, and
        ``compact_below`` is 0.5. The prompts were read once, padded to ``width`` 3, and have a place each in
        the cache. A dash is a row that is finished but still in the batch: what it draws is thrown away. A
        blank is a row that has left it::

            row              0  1  2  3
            prompt           5  5  8  8
                             6  6  .  .     padding, which is not visible
                             7  7  .  .
            step 0 draws     9  1  4  4     row 1 is finished; 3 of 4 go on, more than half: all stay
            step 1 draws     3  -  1  2     row 2 is finished; 2 of 4 go on: rows 0 and 3 stay
            step 2 draws     1        5     row 0 is finished; 1 of 2 goes on: row 3 stays
            step 3 draws              6     the limit: row 3 is cut, not finished

        After step 0 rows 2 and 3 are the same text, whose token 4 is read once: 9 and 4 are read. It goes to
        column 3 of the cache, its fourth, but has position 1, its prompt's length. The responses are of 3, 1,
        2 and 4 tokens.
    """
    batch = _Batch(policy, read, group_size, sampling, generator)
    stops, limit = sampling.stop_token_ids, sampling.max_response_tokens
    responses: list[list[int]] = [[] for _ in batch.rows]
    running = range(len(batch.rows))  # places in the batch whose rows go on
    for step in range(limit):
        drawn, last = batch.draw(), step + 1 == limit
        over = [place for place in running if last or drawn[place] in stops]
        for place in running:
            responses[batch.rows[place]].append(drawn[place])
        for place in over:
            tell(batch.rows[place], tuple(responses[batch.rows[place]]))
        if held is not None and over:
            held.take(batch.taken(over), [batch.rows[place] for place in over])
        running = [place for place in running if drawn[place] not in stops]
        if not running or last:
            break
        if batch.sparse(running, compact_below):
            drawn = [drawn[place] for place in running]
            batch.keep(running)
            running = range(len(running))
        batch.decode(drawn, running)
    if held is not None:
        held.finish([len(response) for response in responses])
    ids, mask = pad_rows(responses)
    return Completions(
        response_ids=ids,
        response_mask=mask,
        sampled=mask,
        logprobs=batch.logprobs(mask),
        finished=torch.tensor([response[-1] in stops for response in responses]),
    )
