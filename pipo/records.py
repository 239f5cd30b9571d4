"""Frozen records that pass between the stages of one iteration.

A stage makes the next record and never changes one; that is what allows a callback to keep
the previous batch for a later update. Construction checks shapes and names the field that is wrong.

Axes, everywhere in this package:

====  ==========================================================================
B     prompts of this iteration on this rank
G     responses sampled for each prompt (``group_size``)
N     responses on this rank, N = B * G, group-major: row i answers prompt i // G
R     response positions, right-padded to the longest response on this rank
====  ==========================================================================

Log-probabilities are natural logarithms of the policy at the sampling temperature, lengths are in
tokens, verifier rewards lie in [0, 1], masks are boolean and True on response tokens (the stop
token is a response token).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from pipo.movable import Movable
from pipo.tasks.base import Example, Reward

TokenIds = tuple[int, ...]


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    if tensor.dtype != dtype:
        raise ValueError(f"{name}: expected {dtype}, got {tensor.dtype}")


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """The problems of one iteration on one rank; produced by the data module.

    Attributes:
        examples: B problems.
        prompt_ids: B tokenised prompts, unpadded.
    """

    examples: tuple[Example, ...]
    prompt_ids: tuple[TokenIds, ...]

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
    """The prompts that an iteration may use on one rank; produced by the data module.

    Attributes:
        first: those it begins with.
        refill: round (1, 2, ...) -> as many further prompts, for a collector that drops some.
    """

    first: PromptBatch
    refill: Callable[[int], PromptBatch]


@dataclass(frozen=True, kw_only=True)
class Completions:
    """What the engine sampled; produced by a rollout engine.

    Attributes:
        response_ids: int64 [N, R], right-padded with 0 (the mask, not the value, marks padding).
        response_mask: bool [N, R], True on sampled tokens.
        logprobs: float32 [N, R], log-probability of each sampled token, 0 on padding.
        finished: bool [N], True when the response ended with a stop token, False when it was cut.
    """

    response_ids: Tensor
    response_mask: Tensor
    logprobs: Tensor
    finished: Tensor

    def __post_init__(self) -> None:
        rows, width = self.response_ids.shape
        _check("response_ids", self.response_ids, (rows, width), torch.int64)
        _check("response_mask", self.response_mask, (rows, width), torch.bool)
        _check("logprobs", self.logprobs, (rows, width), torch.float32)
        _check("finished", self.finished, (rows,), torch.bool)

    @property
    def lengths(self) -> Tensor:
        """int64 [N], response length in tokens."""
        return self.response_mask.sum(dim=1)

    def rows(self, index: Tensor) -> Completions:
        """Some of the responses, in the given order."""
        return Completions(
            response_ids=self.response_ids[index],
            response_mask=self.response_mask[index],
            logprobs=self.logprobs[index],
            finished=self.finished[index],
        )

    @staticmethod
    def join(parts: Sequence[Completions]) -> Completions:
        """Concatenate along the rows, padding each part to the longest response."""
        if not parts:
            return Completions(
                response_ids=torch.empty(0, 0, dtype=torch.int64),
                response_mask=torch.empty(0, 0, dtype=torch.bool),
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
            logprobs=pad("logprobs"),
            finished=torch.cat([part.finished for part in parts]),
        )


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Sampled and graded responses of one iteration on one rank; produced by the collector.

    Attributes:
        prompts: the B prompts that the responses answer.
        completions: the N = B * G responses.
        texts: N decoded responses without special tokens.
        verdicts: N verdicts of the task's grader.
        rewards: float32 [N], ``verdicts[i].score``.
        shaping: float32 [N], added to the reward for training only (over-long penalty).
        group_size: G.
        reward_sum: sum of the verifier rewards over *all* sampled responses on this rank, also of
            those that a filter dropped afterwards.
        reward_count: how many responses that sum covers.
    """

    prompts: PromptBatch
    completions: Completions
    texts: tuple[str, ...]
    verdicts: tuple[Reward, ...]
    rewards: Tensor
    shaping: Tensor
    group_size: int
    reward_sum: float
    reward_count: int

    def __post_init__(self) -> None:
        rows = len(self.prompts) * self.group_size
        _check("rewards", self.rewards, (rows,), torch.float32)
        _check("shaping", self.shaping, (rows,), torch.float32)
        for name, length in (
            ("completions", self.completions.response_ids.shape[0]),
            ("texts", len(self.texts)),
            ("verdicts", len(self.verdicts)),
        ):
            if length != rows:
                raise ValueError(f"{name}: expected {rows} responses, got {length}")


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Per-token quantities that some models computed for the rollouts, without gradient.

    Attributes:
        old_logprobs: float32 [N, R], the trainer's log-probabilities of the policy that sampled, fixed at
            sampling time.
        importance: float32 [N, R], weight of each token in the policy loss, 0 on padding; None for no
            correction of the sampler's distance from ``old_logprobs``.
        ref_logprobs: float32 [N, R], the frozen reference model's; None unless the objective asks.
        values: float32 [N, R], the critic's value before each token; None unless the objective asks.
        teacher: prompts and log-probabilities of the self-teacher; None unless the objective asks.
    """

    old_logprobs: Tensor
    importance: Tensor | None
    ref_logprobs: Tensor | None
    values: Tensor | None
    teacher: TeacherAnnotation | None


@dataclass(frozen=True, kw_only=True)
class TeacherAnnotation:
    """The self-teacher: the policy on a prompt that also carries privileged information.

    Attributes:
        prompt_ids: N tokenised teacher prompts; None for a response without privileged information.
        logprobs: float32 [N, R], the teacher's log-probabilities of the sampled tokens; 0 where there is
            no prompt.
    """

    prompt_ids: tuple[TokenIds | None, ...]
    logprobs: Tensor


@dataclass(frozen=True, kw_only=True)
class ValueTargets(Movable):
    """What the critic learns from; float32 [N, R] each, 0 on padding.

    Attributes:
        old_values: the critic's values when the batch was sampled.
        returns: the values it should have given.
    """

    old_values: Tensor
    returns: Tensor

    def rows(self, index: Tensor, width: int) -> ValueTargets:
        """Some rows, cut to ``width`` tokens."""
        return ValueTargets(old_values=self.old_values[index, :width], returns=self.returns[index, :width])


@dataclass(frozen=True, kw_only=True)
class PolicyBatch:
    """Everything one policy update needs; produced by ``Objective.prepare``.

    Attributes:
        prompt_ids: B tokenised prompts, unpadded.
        group_size: G.
        response_ids: int64 [N, R], right-padded.
        response_mask: bool [N, R].
        old_logprobs: float32 [N, R], log-probabilities under the policy that sampled the batch.
        advantages: float32 [N, R], weight of each token in the surrogate, 0 on padding.
        attribution: float32 [N, R], the policy-improvement attribution s, 0 on padding.
        ref_logprobs: float32 [N, R] or None when no term uses the reference model.
        kl_coef: weight of the k3 penalty against ``ref_logprobs`` in this update.
        teacher_prompt_ids: N prompts of the self-teacher, None for a response without one; None for an
            update that does not distil.
        value_targets: what the critic learns from this batch; None without a critic.
        importance: float32 [N, R], factor on each token's distillation loss for the sampler's distance; None
            for 1. A surrogate has it in its advantages.
    """

    prompt_ids: tuple[TokenIds, ...]
    group_size: int
    response_ids: Tensor
    response_mask: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    attribution: Tensor
    ref_logprobs: Tensor | None
    kl_coef: float
    teacher_prompt_ids: tuple[TokenIds | None, ...] | None
    value_targets: ValueTargets | None
    importance: Tensor | None = None

    def __post_init__(self) -> None:
        shape = (len(self.prompt_ids) * self.group_size, self.response_ids.shape[1])
        _check("response_ids", self.response_ids, shape, torch.int64)
        _check("response_mask", self.response_mask, shape, torch.bool)
        for name in ("old_logprobs", "advantages", "attribution"):
            _check(name, getattr(self, name), shape, torch.float32)
        if self.ref_logprobs is not None:
            _check("ref_logprobs", self.ref_logprobs, shape, torch.float32)
        elif self.kl_coef != 0:
            raise ValueError(f"ref_logprobs: required because kl_coef is {self.kl_coef}, got None")
        if self.teacher_prompt_ids is not None and len(self.teacher_prompt_ids) != shape[0]:
            raise ValueError(f"teacher_prompt_ids: expected {shape[0]}, got {len(self.teacher_prompt_ids)}")
        if self.value_targets is not None:
            _check("value_targets.old_values", self.value_targets.old_values, shape, torch.float32)
            _check("value_targets.returns", self.value_targets.returns, shape, torch.float32)
        if self.importance is not None:
            _check("importance", self.importance, shape, torch.float32)

    def __len__(self) -> int:
        return self.response_ids.shape[0]

    def contributing_rows(self) -> Tensor:
        """Bool [N]: rows whose gradient can differ from zero, so the others need no forward pass."""
        if self.teacher_prompt_ids is not None:
            return self.loss_mask().any(dim=1)
        if self.kl_coef != 0:
            return self.response_mask.any(dim=1)
        return (self.advantages != 0).any(dim=1)

    def loss_mask(self) -> Tensor:
        """Bool [N, R]: tokens that the loss is defined on; distillation masks out rows without a teacher."""
        if self.teacher_prompt_ids is None:
            return self.response_mask
        taught = torch.tensor([ids is not None for ids in self.teacher_prompt_ids])
        return self.response_mask & taught[:, None]

    def reweighted(self, advantages: Tensor, kl_coef: float) -> PolicyBatch:
        """The same responses for a surrogate with other advantages; neither distils nor teaches a critic."""
        return replace(
            self,
            advantages=advantages,
            ref_logprobs=self.ref_logprobs if kl_coef else None,
            kl_coef=kl_coef,
            teacher_prompt_ids=None,
            value_targets=None,
            importance=None,
        )

    def to_plain(self) -> dict[str, Any]:
        """Tensors, numbers and lists only, so that a file of it loads without running code."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.value_targets is not None:
            plain["value_targets"] = {
                f.name: getattr(self.value_targets, f.name) for f in fields(ValueTargets)
            }
        return _to_plain(plain)

    @staticmethod
    def from_plain(plain: dict[str, Any]) -> PolicyBatch:
        """The batch that :meth:`to_plain` described."""
        values = dict(plain)
        values["prompt_ids"] = tuple(tuple(ids) for ids in plain["prompt_ids"])
        if (teacher := plain["teacher_prompt_ids"]) is not None:
            values["teacher_prompt_ids"] = tuple(None if ids is None else tuple(ids) for ids in teacher)
        if (targets := plain["value_targets"]) is not None:
            values["value_targets"] = ValueTargets(**targets)
        return PolicyBatch(**values)


def _to_plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()  # a view would take all that it is a view of into the file
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    return value


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
