"""Graders that begin while sampling goes on: the batch of grading at the end, bit for bit."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipo_sandbox import SandboxError

from pipo.distributed.metrics import IterationMetrics
from pipo.evaluation.options import EvaluationPlan
from pipo.evaluation.runner import evaluate
from pipo.graders import code
from pipo.graders.code import CodeGrader
from pipo.graders.code_tests import ProgramJob, StdinTests
from pipo.graders.worker_pool import WorkerStartError
from pipo.records.problems import Example, Prompt, Reward
from pipo.records.rollouts import IterationPrompts, PromptBatch
from pipo.rollout.collector import Collector
from pipo.rollout.graded import sample_and_grade
from pipo.rollout.local import LocalEngine
from pipo.tasks.base import Task
from pipo.tasks.boxed import BoxedTask
from pipo.tasks.code import CodeExample, CodeTask
from tests import toy
from tests.unit.test_code_grader import OPTIONS
from tests.unit.test_math_grader_workers import BAD_WORKER, ended

PROMPTS = [(3, 4, 5), (6, 7), (8,), (9, 10, 11)]
LIMIT = 12


class AtTheEnd(LocalEngine):
    """Hands nothing over before the end."""

    def generate(self, prompts, group_size, sampling, seed, on_finished=None, **_):
        return super().generate(prompts, group_size, sampling, seed)


class Programs(CodeTask):
    """A response's first token says what its program prints; the tests want 1."""

    name, version, template = "programs", "1", "programs/1"

    def __init__(self, grader: CodeGrader) -> None:
        self._grader = grader
        self.begun: list[str] = []

    def make_example(self, split, number, row) -> CodeExample:
        raise NotImplementedError

    def begin_grading(self, examples: Sequence[Any], responses: Sequence[str]) -> None:
        self.begun += responses
        super().begin_grading(examples, responses)

    @staticmethod
    def example(number: int) -> CodeExample:
        tests = StdinTests(inputs=("1\n", "2\n"), outputs=("1", "1"))
        return CodeExample(uid=f"programs/{number}", question="", answer="", tests=tests)

    @staticmethod
    def decode(ids: Sequence[int], prompt: Sequence[int] = ()) -> str:
        program = f"```python\nprint(1 if {ids[0]} % 3 else input())\n```"
        return "no program" if ids[0] % 5 == 0 else program


class Formulas(BoxedTask):
    """Answers that the worker program finds right, wrong, or dies of."""

    name, version, template = "formulas", "1", "formulas/1"

    def __init__(self, program: Path) -> None:
        super().__init__(grader_workers=2, grader_cpu_s=5.0, grader_wall_s=60.0)
        self._grader = type(self._grader)(workers=2, cpu_s=5.0, wall_s=60.0, program=program)
        self.begun: list[str] = []

    def examples(self, split):
        raise NotImplementedError

    def render(self, example: Example) -> Prompt:
        raise NotImplementedError

    def begin_grading(self, examples: Sequence[Example], responses: Sequence[str]) -> None:
        self.begun += responses
        super().begin_grading(examples, responses)

    @staticmethod
    def example(number: int) -> Example:
        return Example(uid=f"formulas/{number}", question="", answer=f"ref {number}")

    @staticmethod
    def decode(ids: Sequence[int], prompt: Sequence[int] = ()) -> str:
        return rf"\boxed{{{('same', 'other', 'crash', '7', 'killed')[ids[0] % 5]}}}"


@pytest.fixture(params=["code", "formulas"])
def task(request, tmp_path) -> Iterator[Any]:
    program = tmp_path / "worker.py"
    # Its process id, which the real one doesn't give, differs from run to run.
    program.write_text(BAD_WORKER.replace("str(os.getpid())", "None"))
    made = Programs(CodeGrader(**OPTIONS)) if request.param == "code" else Formulas(program)
    yield made
    made.close()


def states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[index]


def collected(task: Any, engine: type[LocalEngine], rounds: int) -> tuple[Any, dict[str, float], list[Any]]:
    """A batch in waves of eight rows, its metrics but for times, and the random numbers that come next."""
    collector = Collector(
        task=task,
        decode=task.decode,
        encode_reply=toy.encode_reply,
        group_size=4,
        sampling=toy.sampling(max_response_tokens=LIMIT),
        dynamic_sampling_rounds=rounds,
        terms={},
    )
    batches = [
        PromptBatch(
            examples=tuple(task.example(number) for number in range(4)),
            prompt_ids=tuple((*prompt, 2 + draw) for prompt in PROMPTS),
        )
        for draw in range(4)
    ]
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    metrics = IterationMetrics()
    found = collector.collect(
        engine(toy.make_policy(), toy.ENGINE.model_copy(update={"max_rows": 8})),
        IterationPrompts(first=batches[0], refill=batches.__getitem__),
        5,
        metrics,
        lambda lacking: lacking,
    )
    means = metrics.reduce(lambda total: total)
    return found, {name: value for name, value in means.items() if "time/" not in name}, states()


@pytest.mark.parametrize("rounds", [0, 3])
def test_the_batch_is_that_of_grading_at_the_end(task, rounds):
    expected, measured, after = collected(task, AtTheEnd, rounds)
    assert not task.begun
    found, again, then = collected(task, LocalEngine, rounds)
    assert len(task.begun) >= 16  # every response of at least one round
    for name in ("response_ids", "response_mask", "sampled", "logprobs", "finished"):
        assert torch.equal(getattr(found.completions, name), getattr(expected.completions, name)), name
    assert found.texts == expected.texts
    assert found.verdicts == expected.verdicts
    assert torch.equal(found.rewards, expected.rewards)
    assert 0 < expected.rewards.mean() < 1
    assert found.prompts.prompt_ids == expected.prompts.prompt_ids
    assert again == measured
    assert then == after


def test_held_out_problems_are_scored_the_same(task):
    plan = EvaluationPlan(
        samples=2, ks=(1,), prompts_per_batch=3, confidence=0.95, resamples=10, majority=False, seed=5
    )
    asked = [task.example(number) for number in range(4)]
    options = toy.sampling(max_response_tokens=LIMIT)
    first, second = (
        evaluate(
            engine(toy.make_policy(), toy.ENGINE),
            task,
            asked,
            PROMPTS,
            task.decode,
            toy.encode_reply,
            options,
            plan,
        ).problems
        for engine in (AtTheEnd, LocalEngine)
    )
    assert first == second
    assert len(task.begun) == 8


# ---------------------------------------------------------------- who is told what


def test_the_local_engine_hands_each_response_over_once_with_all_of_its_tokens():
    told: list[tuple[int, tuple[int, ...]]] = []
    engine = LocalEngine(toy.make_policy(), toy.ENGINE.model_copy(update={"max_rows": 8}))
    options = toy.sampling(max_response_tokens=LIMIT)
    got = engine.generate(PROMPTS, 4, options, 3, lambda row, ids: told.append((row, ids)))
    rows = [tuple(ids[mask].tolist()) for ids, mask in zip(got.response_ids, got.response_mask, strict=True)]
    assert sorted(told) == list(enumerate(rows))
    assert told != sorted(told)  # as they finish
    assert not got.finished.all()  # those that are cut too


def test_a_grade_of_its_own_needs_a_beginning_of_its_own():
    class Stricter(Formulas):
        def grade(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Reward]:
            return [Reward(score=0.0) for _ in responses]

    class ByTokens(Formulas):
        def grade_tokens(
            self, examples: Sequence[Example], responses: Sequence[str], tokens: Sequence[Sequence[int]]
        ) -> list[Reward]:
            return [Reward(score=0.0) for _ in responses]

    class Both(Stricter):
        def begin_grading(self, examples: Sequence[Example], responses: Sequence[str]) -> None: ...

    def early(kind: type[Task]) -> bool:
        return kind.begins_early(object.__new__(kind))

    assert early(Formulas)
    assert early(Both)
    assert not early(Stricter)
    assert not early(ByTokens)  # nobody would ask for what was begun
    assert not early(toy.ToyTask)


# ---------------------------------------------------------------- failures


class Breaking(LocalEngine):
    """Hands one response over, and then is interrupted."""

    def generate(self, prompts, group_size, sampling, seed, on_finished=None, **_):
        assert on_finished is not None
        on_finished(0, (1,))
        raise KeyboardInterrupt


def broken(task: Any, decode) -> None:
    with pytest.raises(KeyboardInterrupt):
        sample_and_grade(
            Breaking(toy.make_policy(), toy.ENGINE),
            task,
            [task.example(0)],
            PROMPTS[:1],
            group_size=2,
            sampling=toy.sampling(),
            seed=1,
            decode=decode,
            encode_reply=toy.encode_reply,
        )


def test_an_interrupt_while_sampling_ends_the_programs_that_were_begun():
    task = Programs(CodeGrader(**OPTIONS))
    seen: list[int] = []

    def decode(ids: Sequence[int], prompt: Sequence[int]) -> str:
        seen.append(task._grader._running_launcher()._process.pid)  # type: ignore[attr-defined]
        return "```python\nimport time\ntime.sleep(3600)\n```"

    broken(task, decode)
    assert ended(seen[0])
    assert task.grade([task.example(0)], [task.decode([1])])[0].score == 1.0  # and it begins anew
    task.close()


def test_an_interrupt_while_sampling_ends_the_workers_that_were_begun(tmp_path):
    program, mark = tmp_path / "worker.py", tmp_path / "pid"
    program.write_text(f"import os\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\n{BAD_WORKER}")
    task = Formulas(program)
    broken(task, lambda ids, prompt: r"\boxed{hang}")
    assert not mark.exists() or not mark.read_text() or ended(int(mark.read_text()))
    assert task.grade([task.example(0)], [r"\boxed{same}"])[0].score == 1.0
    pid = int(mark.read_text())
    assert os.path.exists(f"/proc/{pid}")
    task.close()
    assert ended(pid)


def test_a_worker_that_cannot_start_is_the_same_error_as_at_the_end(tmp_path):
    program = tmp_path / "worker.py"
    program.write_text("raise SystemExit(3)")
    task = Formulas(program)
    with pytest.raises(WorkerStartError, match=r"worker died \(exit code 3\)"):
        collected(task, LocalEngine, 0)


def test_what_was_begun_and_is_not_asked_for_is_dropped():
    grader = CodeGrader(**{**OPTIONS, "timeout_s": 0.5})  # one of them holds a thread until then
    tests = StdinTests(inputs=("",), outputs=("1",))
    grader.begin([job("import time; time.sleep(3600)", tests) for _ in range(3)])
    grader.begin([job("print(1)", tests)])
    assert grader.grade(job("print(1)", tests)).score == 1.0
    assert grader._call is None
    assert grader.grade(job("print(2)", tests)).score == 0.0
    grader.close()


def test_tests_that_are_made_anew_are_not_taken_for_those_before_them():
    """What was begun is known by the place of its tests in memory, which others must not get meanwhile."""
    grader = CodeGrader(**OPTIONS)
    grader.begin([job("print(1)", StdinTests(inputs=("",), outputs=("1",)))])
    assert grader._call is not None
    ((begun,),) = grader._call.begun.values()
    assert begun.result().score == 1.0
    others = [StdinTests(inputs=("",), outputs=("2",)) for _ in range(1000)]
    assert not {id(tests) for tests in others} & {place for _, place in grader._call.begun}
    grader.close()


def test_a_sandbox_that_cannot_be_started_is_tried_once_while_sampling_goes_on(monkeypatch):
    tries = []

    def refusing(**options: Any) -> None:
        tries.append(options)
        raise SandboxError("not here")

    monkeypatch.setattr(code, "Launcher", refusing)
    grader, tests = CodeGrader(**OPTIONS), StdinTests(inputs=("",), outputs=("1",))
    for _ in range(3):
        grader.begin([job("print(1)", tests)])
    assert len(tries) == 1
    with pytest.raises(SandboxError, match="not here"):
        grader.grade(job("print(1)", tests))


def job(program: str, tests: StdinTests) -> ProgramJob:
    return ProgramJob(program=program, tests=tests)
