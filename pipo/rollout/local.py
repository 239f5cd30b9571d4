"""Local engine: batched decoding with a KV cache, in the training process and on its weights.

Each prompt is read once for all of its responses, finished rows leave the batch, and the log-probability of
every sampled token is kept on the way. Between the turns of episodes the cache stays, and only what is new is
read. It is the reference that other engines are tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

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
from pipo.rollout.wave import ReadPrompts, decode_wave


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

    def _read(self, prompts: Sequence[TokenIds], capacity: int) -> ReadPrompts:
        """Read the prompts once, with room for so many further tokens."""
        device = self.policy.device
        ids, mask = pad_rows(prompts)
        lengths = sent(mask.sum(dim=1), device)
        layers = self.policy.model.config.get_text_config().num_hidden_layers
        cache = PreallocatedCache(layers, ids.shape[1] + capacity)
        positions = torch.arange(ids.shape[1], device=device)[None].expand(len(prompts), -1)
        # Padding stands on the right, so causal attention alone keeps it away from real tokens.
        logits = self.policy.next_token_logits(sent(ids, device), positions, cache, None, last=lengths - 1)
        return ReadPrompts(cache, logits, lengths, mask)

    def _read_on(self, prompts: Sequence[TokenIds], known: KnownRows, capacity: int) -> ReadPrompts:
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
        after = sent((before + count)[:, 0], device)
        return ReadPrompts(cache, logits, after, torch.cat([past, mask], dim=1))

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
        """Responses to prompts that are decoded side by side."""
        limit = sampling.max_response_tokens
        read = self._read(prompts, limit) if known is None else self._read_on(prompts, known, limit)
        held = HeldRows(read.real.repeat_interleave(group_size, dim=0)) if hold else None
        completions = decode_wave(
            self.policy,
            read,
            group_size,
            sampling,
            generator,
            tell,
            compact_below=self.config.compact_below,
            held=held,
        )
        self._held = held
        return completions


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
