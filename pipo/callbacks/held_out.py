"""Held-out problems scored by callbacks with the rollout engine of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipo.distributed.collectives import world
from pipo.evaluation.options import EvaluationPlan
from pipo.evaluation.results import EvaluationResult
from pipo.evaluation.runner import evaluate
from pipo.modules.hooks import Learner
from pipo.records.problems import Example
from pipo.records.rollouts import TokenIds
from pipo.rollout.options import SamplingParams
from pipo.tasks.base import Task
from pipo.tasks.prompts import Decode, EncodeReply


@dataclass(frozen=True, kw_only=True)
class HeldOutProblems:
    """Problems, and all that scoring them takes."""

    task: Task
    """Grades the responses."""
    examples: Sequence[Example]
    """The held-out problems."""
    prompt_ids: Sequence[TokenIds]
    """Tokenised prompt of each problem."""
    decode: Decode
    """Token ids to text."""
    encode_reply: EncodeReply
    """What an environment said to token ids."""
    sampling: SamplingParams
    """How tokens are drawn."""

    def evaluate(self, module: Learner, plan: EvaluationPlan) -> EvaluationResult:
        """Score the weights as they are; every rank must call this."""
        rank, ranks = world()
        module.engine.wake()  # all ranks together, before some of them find nothing to evaluate
        with module.sampling():
            return evaluate(
                module.engine,
                self.task,
                self.examples,
                self.prompt_ids,
                self.decode,
                self.encode_reply,
                self.sampling,
                plan,
                rank=rank,
                world_size=ranks,
                device=module.device,
            )
