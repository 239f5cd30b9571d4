"""Frozen records of an evaluation: what to measure, and what was found."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipo.evaluation.statistics import Estimate
from pipo.records.problems import Reward

Summary = dict[str, Any]
"""Plain JSON form of an evaluation; the keys are described at :meth:`EvaluationResult.to_summary`."""


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """How a set of problems is measured.

    Attributes:
        samples: n, responses per problem.
        ks: the k of pass@k, rising, starting with 1 and at most ``samples``.
        prompts_per_batch: problems generated and graded at a time; also the unit dealt to ranks.
        confidence: of the intervals, in (0, 1).
        resamples: bootstrap resamples behind each interval.
        majority: whether to put the responses to the vote too (maj@n), where the task can compare answers.
        seed: of sampling and of the bootstrap.
    """

    samples: int
    ks: tuple[int, ...]
    prompts_per_batch: int
    confidence: float
    resamples: int
    majority: bool
    seed: int

    def __post_init__(self) -> None:
        # Hydra hands over a list.
        object.__setattr__(self, "ks", tuple(self.ks))
        if not self.ks or self.ks[0] != 1 or any(a >= b for a, b in itertools.pairwise(self.ks)):
            raise ValueError(f"ks must rise and start with 1, got {list(self.ks)}")
        if self.ks[-1] > self.samples:
            raise ValueError(f"ks: pass@{self.ks[-1]} needs that many samples, but samples={self.samples}")
        for name in ("prompts_per_batch", "resamples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie in (0, 1), got {self.confidence}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One graded response.

    Attributes:
        response: decoded text without special tokens.
        score: verifier reward in [0, 1]; 1 counts as solved.
        answer: what the grader read as the final answer; None when it found none.
        error: why grading failed; None when it did not.
        infrastructure: whether the machine was at fault there and not the response.
        finished: False when the response was cut at the length limit.
        length: response length in tokens, the stop token included.
    """

    response: str
    score: float
    answer: str | None
    error: str | None
    finished: bool
    length: int
    infrastructure: bool = False

    @classmethod
    def of(cls, response: str, verdict: Reward, *, finished: bool, length: int) -> Sample:
        """A response with its verdict."""
        return cls(
            response=response,
            score=verdict.score,
            answer=verdict.answer,
            error=verdict.error,
            finished=finished,
            length=length,
            infrastructure=verdict.infrastructure,
        )

    @property
    def solved(self) -> bool:
        """Whether it got the full score."""
        return self.score >= 1.0


@dataclass(frozen=True, kw_only=True)
class ProblemResult:
    """One problem with its graded responses.

    Attributes:
        index: position in the evaluated list.
        uid: name of the problem.
        level: its level, empty when the data set has none.
        prompt: the prompt as the model read it, decoded without special tokens.
        answer: the reference answer.
        samples: the graded responses.
        majority: how often their majority answer is right, see :mod:`pipo.evaluation.voting`; None when
            there was no vote.
    """

    index: int
    uid: str
    level: str
    prompt: str
    answer: str
    samples: tuple[Sample, ...]
    majority: float | None

    @property
    def solved(self) -> int:
        """c, the number of responses with the full score."""
        return sum(sample.solved for sample in self.samples)


@dataclass(frozen=True, kw_only=True)
class LevelResult:
    """One level of an evaluation.

    Attributes:
        accuracy: pass@1 over the problems of this level.
        problems: how many there are.
    """

    accuracy: Estimate
    problems: int


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Everything measured in one evaluation. All numbers cover all ranks; ``problems`` covers one.

    Attributes:
        pass_at_k: k -> unbiased pass@k; k = 1 is the share of responses that solve their problem.
        majority: n -> maj@n, the share of problems that the majority of all n responses solves; empty when
            there was no vote.
        reward: mean verifier reward; differs from pass@1 only for graders that give partial scores.
        response_length: in tokens.
        truncated: share of responses cut at the length limit.
        levels: level -> accuracy; problems without a level are in none.
        grader_errors: responses that the grader failed on (they score what the grader says, usually 0).
        infrastructure_errors: responses that could not be graded for the machine's sake; they score 0, too.
        problem_count: problems evaluated.
        sample_count: responses evaluated, over all problems.
        confidence: of all intervals.
        problems: the problems of this rank, in order; see :func:`pipo.evaluation.runner.gather_problems`.
    """

    pass_at_k: Mapping[int, Estimate]
    majority: Mapping[int, Estimate]
    reward: Estimate
    response_length: Estimate
    truncated: Estimate
    levels: Mapping[str, LevelResult]
    grader_errors: int
    infrastructure_errors: int
    problem_count: int
    sample_count: int
    confidence: float
    problems: tuple[ProblemResult, ...]

    def to_summary(self) -> Summary:
        """Flat, plain JSON types.

        Returns:
            ``pass@k`` (each k), ``maj@n`` (where there was a vote), ``reward``, ``response_length``,
            ``truncated`` as numbers, each with ``<name>_interval: [low, high]`` beside it; ``levels:
            {level: {pass@1, pass@1_interval, problems}}``; the counts ``problems``, ``samples``,
            ``grader_errors``, ``infrastructure_errors``; and ``confidence``.
        """
        estimates = {f"pass@{k}": value for k, value in self.pass_at_k.items()}
        estimates |= {f"maj@{n}": value for n, value in self.majority.items()}
        estimates |= {
            "reward": self.reward,
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
