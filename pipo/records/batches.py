"""Frozen records of tensors: annotations of sampled tokens by the models, and the batch of a policy update.

The axes B, G, N and R are those of :mod:`pipo.records.rollouts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipo.records.kept import KeptTokens
from pipo.records.movable import Movable
from pipo.records.rollouts import Completions, TokenIds
from pipo.records.shapes import check_masks, check_tensor


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Per-token quantities that some models computed for the rollouts, without gradient.

    All are 0 on tokens that the policy did not sample.
    """

    old_logprobs: Tensor
    """float32 [N, R], the trainer's log-probabilities of the policy that sampled, fixed at sampling time."""
    importance: Tensor | None
    """float32 [N, R], weight of each token in the policy loss; None for no correction of the sampler's
    distance from ``old_logprobs``.
    """
    ref_logprobs: Tensor | None
    """float32 [N, R], the frozen reference model's; None unless the objective asks."""
    values: Tensor | None
    """float32 [N, R], the critic's value before each sampled token; None unless the objective asks."""
    teacher: TeacherAnnotation | None
    """Prompts and log-probabilities of the self-teacher; None unless the objective asks."""
    kept: KeptTokens | None = None
    """The sampling mask that all log-probabilities here are over; None for the whole vocabulary."""
    recalled: Recalled | None = None
    """Earlier responses to the same prompts; None unless the objective asks."""


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """Earlier responses, one to each of the B prompts, and what the present policy says about them."""

    completions: Completions
    """B responses, with the log-probabilities of the policy that sampled them."""
    logprobs: Tensor
    """float32 [B, R], those of the present policy."""


@dataclass(frozen=True, kw_only=True)
class TeacherAnnotation:
    """The self-teacher: the policy on a prompt that also carries privileged information."""

    prompt_ids: tuple[TokenIds | None, ...]
    """N tokenised teacher prompts; None for a response without privileged information."""
    logprobs: Tensor
    """float32 [N, R], the teacher's log-probabilities of the sampled tokens; 0 where there is no prompt."""


@dataclass(frozen=True, kw_only=True)
class ValueTargets(Movable):
    """What the critic learns from; float32 [N, R] each, 0 on tokens that were not sampled."""

    old_values: Tensor
    """The critic's values when the batch was sampled."""
    returns: Tensor
    """The values it should have given."""

    def rows(self, index: Tensor, width: int) -> ValueTargets:
        """Some rows, cut to ``width`` tokens."""
        return ValueTargets(old_values=self.old_values[index, :width], returns=self.returns[index, :width])


@dataclass(frozen=True, kw_only=True)
class PolicyBatch:
    """Everything one policy update needs; produced by ``Objective.prepare``."""

    prompt_ids: tuple[TokenIds, ...]
    """B tokenised prompts, unpadded."""
    group_size: int
    """G, responses to each prompt."""
    response_ids: Tensor
    """int64 [N, R], right-padded."""
    response_mask: Tensor
    """bool [N, R], the tokens of the responses: what the models read."""
    sampled: Tensor
    """bool [N, R], those that the policy sampled: what is learnt from. The tensors below are 0 on all others.
    """
    old_logprobs: Tensor
    """float32 [N, R], log-probabilities under the policy that sampled the batch."""
    advantages: Tensor
    """float32 [N, R], weight of each token in the surrogate."""
    attribution: Tensor
    """float32 [N, R], the policy-improvement attribution s."""
    ref_logprobs: Tensor | None
    """float32 [N, R] or None when no term uses the reference model."""
    kl_coef: float
    """Weight of the k3 penalty against ``ref_logprobs`` in this update."""
    teacher_prompt_ids: tuple[TokenIds | None, ...] | None
    """N prompts of the self-teacher, None for a response without one; None for an update that does not
    distil.
    """
    value_targets: ValueTargets | None
    """What the critic learns from this batch; None without a critic."""
    importance: Tensor | None = None
    """float32 [N, R], factor on each token's distillation loss or corrected penalty for the sampler's
    distance; None for 1. A surrogate has it in its advantages.
    """
    kept: KeptTokens | None = None
    """The sampling mask, fixed when the batch was sampled, that all log-probabilities are over; None for the
    whole vocabulary.
    """
    plain_minimum: bool = False
    """Whether the surrogate is -min(nu, clip(nu)) A whatever the sign of A, as in the authors' code of PIPO.
    """

    def __post_init__(self) -> None:
        shape = (len(self.prompt_ids) * self.group_size, self.response_ids.shape[1])
        check_tensor("response_ids", self.response_ids, shape, torch.int64)
        check_tensor("response_mask", self.response_mask, shape, torch.bool)
        check_tensor("sampled", self.sampled, shape, torch.bool)
        check_masks(self.response_mask, self.sampled)
        for name in ("old_logprobs", "advantages", "attribution"):
            check_tensor(name, getattr(self, name), shape, torch.float32)
        if self.ref_logprobs is not None:
            check_tensor("ref_logprobs", self.ref_logprobs, shape, torch.float32)
        elif self.kl_coef != 0:
            raise ValueError(f"ref_logprobs: required because kl_coef is {self.kl_coef}, got None")
        if self.teacher_prompt_ids is not None and len(self.teacher_prompt_ids) != shape[0]:
            raise ValueError(f"teacher_prompt_ids: expected {shape[0]}, got {len(self.teacher_prompt_ids)}")
        if self.value_targets is not None:
            check_tensor("value_targets.old_values", self.value_targets.old_values, shape, torch.float32)
            check_tensor("value_targets.returns", self.value_targets.returns, shape, torch.float32)
        if self.importance is not None:
            check_tensor("importance", self.importance, shape, torch.float32)
        if self.kept is not None:
            check_tensor("kept.counts", self.kept.counts, shape, torch.int32)
            if ((self.kept.counts > 0) != self.sampled).any():
                raise ValueError("kept.counts: expected tokens where one was sampled, and nowhere else")

    def __len__(self) -> int:
        return self.response_ids.shape[0]

    def contributing_rows(self) -> Tensor:
        """Bool [N]: rows whose gradient can differ from zero, so the others need no forward pass."""
        if self.teacher_prompt_ids is not None:
            return self.loss_mask().any(dim=1)
        if self.kl_coef != 0:
            return self.sampled.any(dim=1)
        return (self.advantages != 0).any(dim=1)

    def loss_mask(self) -> Tensor:
        """Bool [N, R]: the sampled tokens; where the loss distils, those of rows with a teacher."""
        if self.teacher_prompt_ids is None:
            return self.sampled
        taught = torch.tensor([ids is not None for ids in self.teacher_prompt_ids])
        return self.sampled & taught[:, None]

    def reweighted(self, advantages: Tensor, kl_coef: float, *, plain_minimum: bool = False) -> PolicyBatch:
        """The same responses for a surrogate with other advantages; neither distils nor teaches a critic."""
        return replace(
            self,
            advantages=advantages,
            ref_logprobs=self.ref_logprobs if kl_coef else None,
            kl_coef=kl_coef,
            teacher_prompt_ids=None,
            value_targets=None,
            importance=self.importance if kl_coef else None,
            plain_minimum=plain_minimum,
        )

    def rows(self, index: Tensor) -> PolicyBatch:
        """Some of the responses in the given order, each with a prompt of its own."""
        chosen: list[int] = index.tolist()
        targets, teacher = self.value_targets, self.teacher_prompt_ids
        kept = None if self.kept is None else self.kept.rows(index)
        return replace(
            self,
            **{name: values[index] for name, values in _tensors(self).items()},
            prompt_ids=tuple(self.prompt_ids[i // self.group_size] for i in chosen),
            group_size=1,
            teacher_prompt_ids=None if teacher is None else tuple(teacher[i] for i in chosen),
            value_targets=None if targets is None else targets.rows(index, self.response_ids.shape[1]),
            kept=kept,
        )

    @staticmethod
    def join(parts: Sequence[PolicyBatch]) -> PolicyBatch:
        """The responses of several parts of one update, padded to the longest."""
        first, width = parts[0], max(part.response_ids.shape[1] for part in parts)

        def joined(records: Sequence[PolicyBatch] | Sequence[ValueTargets]) -> dict[str, Tensor]:
            tables = [_tensors(record) for record in records]
            return {
                name: torch.cat([F.pad(table[name], (0, width - table[name].shape[1])) for table in tables])
                for name in tables[0]
            }

        targets = [part.value_targets for part in parts if part.value_targets is not None]
        teacher = [part.teacher_prompt_ids for part in parts if part.teacher_prompt_ids is not None]
        kept = [part.kept for part in parts if part.kept is not None]
        return replace(
            first,
            **joined(parts),
            prompt_ids=tuple(ids for part in parts for ids in part.prompt_ids),
            teacher_prompt_ids=tuple(ids for each in teacher for ids in each) if teacher else None,
            value_targets=ValueTargets(**joined(targets)) if targets else None,
            kept=KeptTokens.join(kept) if kept else None,
        )

    def to_plain(self) -> dict[str, Any]:
        """Tensors, numbers and lists only, so that a file of it loads without running code."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.value_targets is not None:
            plain["value_targets"] = {
                f.name: getattr(self.value_targets, f.name) for f in fields(ValueTargets)
            }
        if self.kept is not None:
            plain["kept"] = {"ids": self.kept.ids, "counts": self.kept.counts}
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
        if (kept := plain["kept"]) is not None:
            values["kept"] = KeptTokens(**kept)
        return PolicyBatch(**values)


def _tensors(record: PolicyBatch | ValueTargets) -> dict[str, Tensor]:
    """The fields that are tensors."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _to_plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()  # a view would take all that it is a view of into the file
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    return value
