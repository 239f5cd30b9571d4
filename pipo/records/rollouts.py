"""Problems put to the model and what it answered: the frozen records up to the reward.

A stage makes the next record and never changes one; that is what allows a callback to keep
the previous batch for a later update. Construction checks shapes and names the field that is wrong.

Axes, everywhere in this package:

====  ==========================================================================
B     prompts of this iteration on this rank
G     responses sampled for each prompt (``group_size``)
N     responses on this rank, N = B * G, group-major: row i answers prompt i // G
R     response positions, right-padded to the longest response on this rank
====  ==========================================================================

A response is what follows the prompt. In one turn the policy sampled all of it; in a conversation it also
holds what the environment inserted between the turns, its replies. Two boolean masks tell them apart:
``response_mask`` is True on every token of a response (a stop token is one), ``sampled`` on those that the
policy sampled. Inserted tokens are context: models read them, and nothing is learnt about them.

Log-probabilities are natural logarithms of the policy at the sampling temperature, lengths are in
tokens, verifier rewards lie in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipo.records.problems import Example, Reward, Transcript
from pipo.records.shapes import check_masks, check_tensor

TokenIds = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """The problems of one iteration on one rank; produced by the data module."""

    examples: tuple[Example, ...]
    """B problems."""
    prompt_ids: tuple[TokenIds, ...]
    """B tokenised prompts, unpadded."""

    def __post_init__(self) -> None:
        if len(self.examples) != len(self.prompt_ids):
            raise ValueError(f"prompt_ids: {len(self.prompt_ids)} prompts for {len(self.examples)} examples")
        for example, ids in zip(self.examples, self.prompt_ids, strict=True):
            if not ids:
                raise ValueError(f"prompt_ids: the prompt of {example.uid} has no tokens")

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True, kw_only=True)
class IterationPrompts:
    """The prompts that an iteration may use on one rank; produced by the data module."""

    first: PromptBatch
    """The prompts that the iteration begins with."""
    refill: Callable[[int], PromptBatch]
    """Round (1, 2, ...) -> as many further prompts, for a collector that drops some."""


@dataclass(frozen=True, kw_only=True)
class Completions:
    """Responses; of one turn as a rollout engine samples them, or of several with replies between them."""

    response_ids: Tensor
    """int64 [N, R], right-padded with 0 (the mask, not the value, marks padding)."""
    response_mask: Tensor
    """bool [N, R], True on the tokens of the response; right-padded."""
    sampled: Tensor
    """bool [N, R], True on the response tokens that the policy sampled; all of them in one turn."""
    logprobs: Tensor
    """float32 [N, R], log-probability of each sampled token, 0 on all others."""
    finished: Tensor
    """bool [N], True when the response ended with a stop token, False when it was cut."""

    def __post_init__(self) -> None:
        rows, width = self.response_ids.shape
        check_tensor("response_ids", self.response_ids, (rows, width), torch.int64)
        check_tensor("response_mask", self.response_mask, (rows, width), torch.bool)
        check_tensor("sampled", self.sampled, (rows, width), torch.bool)
        check_tensor("logprobs", self.logprobs, (rows, width), torch.float32)
        check_tensor("finished", self.finished, (rows,), torch.bool)
        check_masks(self.response_mask, self.sampled)
        given = ((self.logprobs != 0) & ~self.sampled).any(dim=1)
        if given.any():
            row = int(given.nonzero()[0, 0])
            raise ValueError(f"logprobs: row {row} has one for a token that was not sampled, expected 0")

    @property
    def lengths(self) -> Tensor:
        """int64 [N], tokens of each response, inserted ones included."""
        return self.response_mask.sum(dim=1)

    @property
    def sampled_lengths(self) -> Tensor:
        """int64 [N], tokens of each response that the policy sampled."""
        return self.sampled.sum(dim=1)

    def rows(self, index: Tensor) -> Completions:
        """Some of the responses, in the given order."""
        return Completions(
            response_ids=self.response_ids[index],
            response_mask=self.response_mask[index],
            sampled=self.sampled[index],
            logprobs=self.logprobs[index],
            finished=self.finished[index],
        )

    def cut(self, width: int) -> Completions:
        """Without what is beyond so many positions, in tensors of their own."""
        return Completions(
            response_ids=self.response_ids[:, :width].clone(),
            response_mask=self.response_mask[:, :width].clone(),
            sampled=self.sampled[:, :width].clone(),
            logprobs=self.logprobs[:, :width].clone(),
            finished=self.finished.clone(),
        )

    @staticmethod
    def join(parts: Sequence[Completions]) -> Completions:
        """Concatenate along the rows, padding each part to the longest response."""
        if not parts:
            return Completions(
                response_ids=torch.empty(0, 0, dtype=torch.int64),
                response_mask=torch.empty(0, 0, dtype=torch.bool),
                sampled=torch.empty(0, 0, dtype=torch.bool),
                logprobs=torch.empty(0, 0),
                finished=torch.empty(0, dtype=torch.bool),
            )
        width = max(part.response_ids.shape[1] for part in parts)

        def pad(name: str) -> Tensor:
            tensors: list[Tensor] = [getattr(part, name) for part in parts]
            return torch.cat([torch.nn.functional.pad(t, (0, width - t.shape[1])) for t in tensors])

        return Completions(
            response_ids=pad("response_ids"),
            response_mask=pad("response_mask"),
            sampled=pad("sampled"),
            logprobs=pad("logprobs"),
            finished=torch.cat([part.finished for part in parts]),
        )


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Sampled and graded responses of one iteration on one rank; produced by the collector."""

    prompts: PromptBatch
    """The B prompts that the responses answer."""
    completions: Completions
    """The N = B * G responses."""
    texts: tuple[str, ...]
    """N decoded responses without special tokens, replies of environments included."""
    verdicts: tuple[Reward, ...]
    """N verdicts of the task's grader."""
    rewards: Tensor
    """float32 [N], ``verdicts[i].score``."""
    shaping: Tensor
    """float32 [N], added to the reward for training only: the sum of the reward terms."""
    group_size: int
    """G, responses to each prompt."""
    reward_sum: float
    """Sum of the verifier rewards over *all* sampled responses on this rank, also of those that a filter
    dropped afterwards.
    """
    reward_count: int
    """How many responses that sum covers."""
    varied_groups: int
    """Sampled groups on this rank whose verifier rewards are not all equal; a filter may have had no room for
    some of them."""
    transcripts: tuple[Transcript, ...] | None = None
    """N conversations, what was said after each prompt; None for a task without environments."""

    def __post_init__(self) -> None:
        rows = len(self.prompts) * self.group_size
        check_tensor("rewards", self.rewards, (rows,), torch.float32)
        check_tensor("shaping", self.shaping, (rows,), torch.float32)
        for name, length in (
            ("completions", self.completions.response_ids.shape[0]),
            ("texts", len(self.texts)),
            ("verdicts", len(self.verdicts)),
            ("transcripts", rows if self.transcripts is None else len(self.transcripts)),
        ):
            if length != rows:
                raise ValueError(f"{name}: expected {rows} responses, got {length}")


def mixed_groups(rewards: Tensor, group_size: int) -> Tensor:
    """Indices of the groups whose rewards [N] are not all equal."""
    groups = rewards.view(-1, group_size)
    return (groups != groups[:, :1]).any(dim=1).nonzero()[:, 0]


def rows_of(groups: Tensor, group_size: int) -> Tensor:
    """Indices of the responses of these groups, group after group."""
    return (groups[:, None] * group_size + torch.arange(group_size)).view(-1)


def pad_rows(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Right-pad ragged token ids.

    Returns:
        ids int64 [len(rows), longest] padded with 0, and the boolean mask of real tokens.
    """
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max()) if len(rows) else 0
    mask = torch.arange(width)[None, :] < lengths[:, None]
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    ids[mask] = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
    return ids, mask
