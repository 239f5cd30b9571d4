"""Programming tasks on local rows, with a grader that answers by script, or the real one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipo.graders.code_tests import ProgramJob
from pipo.records.problems import Reward
from pipo.tasks.code import CodeTask
from pipo.tasks.humaneval import HumanEvalTask
from pipo.tasks.livecodebench import LiveCodeBenchTask
from pipo.tasks.mbpp import MbppTask
from pipo.tasks.rows import Source
from pipo.tasks.taco import TacoTask

DATA = Path(__file__).parent / "data"


class ScriptedGrader:
    """Remembers the jobs and answers each as it is told."""

    def __init__(self, verdict: Callable[[ProgramJob], Reward] = lambda job: Reward(score=0.5)) -> None:
        self.jobs: list[ProgramJob] = []
        self.closed = False
        self._verdict = verdict

    def begin(self, jobs: Sequence[ProgramJob]) -> None:
        """It is told again at the end."""

    def grade_batch(self, jobs: Sequence[ProgramJob]) -> list[Reward]:
        self.jobs += jobs
        return [self._verdict(job) for job in jobs]

    def close(self) -> None:
        self.closed = True


def source(path: str | Path) -> Source:
    return Source(path=str(path), hub_id="own/rows", configs=("default",), split="test", revision="main")


def make_task(kind: str, path: str | Path, grader: Any = None, **options: Any) -> CodeTask:
    """A task whose test split, and training split if it has one, is a file."""
    grader = grader or ScriptedGrader()
    test = source(path)
    match kind:
        case "taco":
            return TacoTask(train=test, test=test, template="code", grader=grader)
        case "mbpp":
            return MbppTask(train=test, test=test, template="mbpp", grader=grader)
        case "humaneval":
            return HumanEvalTask(test=test, template="humaneval", grader=grader)
    since = options.get("since", "2025-01-04")
    return LiveCodeBenchTask(test=test, template="code", grader=grader, since=since)
