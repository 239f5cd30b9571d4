"""Frozen records of an evaluation: what to measure, and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipo.evaluation.statistics import Estimate
from pipo.records.problems import Reward, Transcript

Summary = dict[str, Any]
"""Plain JSON form of an evaluation; the keys are described at :meth:`EvaluationResult.to_summary`."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One graded response."""

    response: str
    """Decoded text without special tokens."""
    score: float
    """Verifier reward in [0, 1], of which 1 counts as solved; any number where ``right`` is given."""
    answer: str | None
    """What the grader read as the final answer; None when it found none."""
    error: str | None
    """Why grading failed; None when it did not."""
    finished: bool
    """False when the response was cut at the length limit."""
    length: int
    """Response length in tokens, the stop token included."""
    infrastructure: bool = False
    """Whether the machine was at fault there and not the response."""
    right: bool | None = None
    """Whether it counts as solved; None: when it has the full score."""
    rewards: Mapping[str, float | None] | None = None
    """Name -> what a function of several gave; None for a single verdict."""
    noted: Mapping[str, Any] | None = None
    """Name -> what the grader wants to be kept; None for nothing."""
    messages: Transcript | None = None
    """The response turn by turn; None for a task without environments."""

    @classmethod
    def of(
        cls,
        response: str,
        verdict: Reward,
        *,
        finished: bool,
        length: int,
        messages: Transcript | None = None,
    ) -> Sample:
        """A response with its verdict."""
        return cls(
            response=response,
            score=verdict.score,
            answer=verdict.answer,
            error=verdict.error,
            finished=finished,
            length=length,
            infrastructure=verdict.infrastructure,
            right=verdict.right,
            rewards=verdict.rewards,
            noted=verdict.noted,
            messages=messages,
        )

    @property
    def solved(self) -> bool:
        """Whether it counts as right."""
        return self.score >= 1.0 if self.right is None else self.right


@dataclass(frozen=True, kw_only=True)
class ProblemResult:
    """One problem with its graded responses."""

    index: int
    """Position in the evaluated list."""
    uid: str
    """Name of the problem."""
    level: str
    """Level of the problem, empty when the data set has none."""
    prompt: str
    """The prompt as the model read it, decoded without special tokens."""
    answer: str
    """The reference answer."""
    samples: tuple[Sample, ...]
    """The graded responses."""
    majority: float | None
    """How often their majority answer is right, see :mod:`pipo.evaluation.voting`; None when there was no
    vote.
    """

    @property
    def solved(self) -> int:
        """c, the number of responses with the full score."""
        return sum(sample.solved for sample in self.samples)


@dataclass(frozen=True, kw_only=True)
class LevelResult:
    """One level of an evaluation."""

    accuracy: Estimate
    """pass@1 over the problems of this level."""
    problems: int
    """Number of problems of this level."""


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Everything measured in one evaluation. All numbers cover all ranks; ``problems`` covers one."""

    pass_at_k: Mapping[int, Estimate]
    """k -> unbiased pass@k; k = 1 is the share of responses that solve their problem."""
    majority: Mapping[int, Estimate]
    """n -> maj@n, the share of problems that the majority of all n responses solves; empty when there was no
    vote.
    """
    reward: Estimate
    """Mean verifier reward; differs from pass@1 only for graders that give partial scores."""
    rewards: Mapping[str, Estimate]
    """Name -> mean of one reward of several, over the problems to which it applies; those that apply nowhere
    are left out.
    """
    response_length: Estimate
    """Mean length of a response in tokens."""
    truncated: Estimate
    """Share of responses cut at the length limit."""
    levels: Mapping[str, LevelResult]
    """Level -> accuracy; problems without a level are in none."""
    grader_errors: int
    """Responses that the grader failed on (they score what the grader says, usually 0)."""
    infrastructure_errors: int
    """Responses that could not be graded for the machine's sake; they score 0, too."""
    problem_count: int
    """Number of problems."""
    sample_count: int
    """Number of responses, over all problems."""
    confidence: float
    """Confidence of all intervals."""
    problems: tuple[ProblemResult, ...]
    """The problems of this rank, in order; see :func:`pipo.evaluation.runner.gather_problems`."""

    def to_summary(self) -> Summary:
        """Flat, plain JSON types.

        Returns:
            ``pass@k`` (each k), ``maj@n`` (where there was a vote), ``reward``, ``rewards/<name>`` (where
            there are several), ``response_length``, ``truncated`` as numbers, each with
            ``<name>_interval: [low, high]`` beside it; ``levels:
            {level: {pass@1, pass@1_interval, problems}}``; the counts ``problems``, ``samples``,
            ``grader_errors``, ``infrastructure_errors``; and ``confidence``.
        """
        estimates = {f"pass@{k}": value for k, value in self.pass_at_k.items()}
        estimates |= {f"maj@{n}": value for n, value in self.majority.items()}
        estimates |= {
            "reward": self.reward,
            **{f"rewards/{name}": value for name, value in self.rewards.items()},
            "response_length": self.response_length,
            "truncated": self.truncated,
        }
        summary: Summary = {}
        for name, value in estimates.items():
            summary |= flat(name, value)
        summary["levels"] = {
            name: flat("pass@1", level.accuracy) | {"problems": level.problems}
            for name, level in self.levels.items()
        }
        summary["problems"] = self.problem_count
        summary["samples"] = self.sample_count
        summary["grader_errors"] = self.grader_errors
        summary["infrastructure_errors"] = self.infrastructure_errors
        summary["confidence"] = self.confidence
        return summary


def flat(name: str, estimate: Estimate) -> Summary:
    """A value with its interval beside it."""
    return {name: estimate.value, f"{name}_interval": [estimate.low, estimate.high]}
