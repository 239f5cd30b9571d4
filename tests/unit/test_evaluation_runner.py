"""The runner on a scripted engine and grader, with every number derived by hand, and on two processes."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from pipo.evaluation.metric import PassAtK
from pipo.evaluation.options import EvaluationPlan
from pipo.evaluation.results import EvaluationResult
from pipo.evaluation.runner import batch_size, evaluate, gather_problems
from pipo.records.problems import Example, Prompt, Reward, Split
from pipo.records.rollouts import Completions, TokenIds, pad_rows
from pipo.rollout.engine import OnFinished
from pipo.rollout.options import SamplingParams
from pipo.tasks.base import Task
from tests import toy

SAMPLING = SamplingParams(
    temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, max_response_tokens=3, stop_token_ids=frozenset({9})
)
PLAN = EvaluationPlan(
    samples=4, ks=(1, 2), prompts_per_batch=2, confidence=0.95, resamples=200, majority=True, seed=11
)

# Prompt token -> its four responses; 9 is the stop token, a response without it was cut. The grader gives
# the first token in tenths, 8 makes it fail, at 7 the machine fails.
#               problem  solved  reward               length       cut
SCRIPT = {
    1: [[10, 9], [10, 9], [0, 9], [0, 5, 9]],  # 2 of 4, 2/4, (2+2+2+3)/4 = 9/4, 0
    2: [[0, 1, 2], [5, 9], [0, 9], [10, 9]],  # 1 of 4, 1.5/4, (3+2+2+2)/4 = 9/4, 1/4
    3: [[8, 9], [7, 9], [0, 1, 2], [0, 1, 2]],  # 0 of 4, 0, 10/4, 2/4, and an error of either kind
}
EXAMPLES = [
    Example(uid="p1", question="one", answer="a", level="10"),
    Example(uid="p2", question="two", answer="b", level="2"),
    Example(uid="p3", question="three", answer="c", level="2"),
]
PROMPTS: list[TokenIds] = [(1,), (2,), (3,)]


class ScriptedEngine:
    shares_weights = True

    def __init__(self) -> None:
        self.calls: list[tuple[list[TokenIds], int]] = []

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
        self.calls.append((list(prompts), seed))
        rows = [row for prompt in prompts for row in SCRIPT[prompt[0]][:group_size]]
        ids, mask = pad_rows(rows)
        ends = [row[-1] in sampling.stop_token_ids for row in rows]
        finished = torch.tensor(ends, dtype=torch.bool)
        zeros = torch.zeros(ids.shape)
        return Completions(
            response_ids=ids, response_mask=mask, sampled=mask, logprobs=zeros, finished=finished
        )

    def sync_weights(self, parameters: Iterable[tuple[str, Tensor]]) -> None: ...

    def sleep(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


class FirstTokenTask(Task[Example]):
    name = "first-token"
    version = "1"
    template = "first-token/1"

    def examples(self, split: Split) -> Sequence[Example]:
        return EXAMPLES

    def render(self, example: Example) -> Prompt:
        return Prompt(messages=(), text=example.question)

    def grade(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Reward]:
        return [self.verdict(e, r) for e, r in zip(examples, responses, strict=True)]

    def verdict(self, example: Example, response: str) -> Reward:
        first = int(response.split()[0])
        if first == 8:
            return Reward(score=0.0, error="time-out")
        if first == 7:
            return Reward(score=0.0, error="worker killed", infrastructure=True)
        return Reward(score=first / 10, answer=f"{example.answer}{first}")


def decode(ids: Sequence[int], prompt: Sequence[int] = ()) -> str:
    return " ".join(str(token) for token in ids if token != 9)


def run(plan: EvaluationPlan = PLAN, engine: ScriptedEngine | None = None, **share: Any) -> EvaluationResult:
    engine = engine or ScriptedEngine()
    return evaluate(
        engine, FirstTokenTask(), EXAMPLES, PROMPTS, decode, toy.encode_reply, SAMPLING, plan, **share
    )


def test_values_by_hand() -> None:
    result = run()
    assert result.pass_at_k[1].value == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    # 1 - C(n-c, 2) / C(4, 2): 1 - 1/6, 1 - 3/6, 0
    assert result.pass_at_k[2].value == pytest.approx((5 / 6 + 3 / 6 + 0) / 3)
    assert result.reward.value == pytest.approx((2 / 4 + 1.5 / 4 + 0) / 3)
    assert result.response_length.value == pytest.approx((9 + 9 + 10) / 12)
    assert result.truncated.value == pytest.approx(3 / 12)
    assert (result.grader_errors, result.infrastructure_errors) == (1, 1)
    assert (result.problem_count, result.sample_count) == (3, 12)
    assert list(result.levels) == ["2", "10"]  # by value, not by alphabet
    assert result.levels["2"].accuracy.value == pytest.approx((1 / 4 + 0) / 2)
    assert result.levels["2"].problems == 2
    # One problem: nothing to resample.
    level = result.levels["10"].accuracy
    assert level.value == level.low == level.high == pytest.approx(2 / 4)


def test_samples_keep_text_and_verdict() -> None:
    first, second, third = run().problems
    assert (first.uid, first.level, first.prompt, first.answer) == ("p1", "10", "1", "a")
    assert [sample.response for sample in second.samples] == ["0 1 2", "5", "0", "10"]
    assert [sample.finished for sample in second.samples] == [False, True, True, True]
    assert [sample.length for sample in second.samples] == [3, 2, 2, 2]
    assert [sample.score for sample in second.samples] == [0.0, 0.5, 0.0, 1.0]
    assert second.samples[3].answer == "b10"
    assert third.samples[0].error == "time-out"
    assert third.samples[0].answer is None
    assert [sample.infrastructure for sample in third.samples] == [False, True, False, False]


def test_what_the_machine_could_not_grade_is_said(caplog: pytest.LogCaptureFixture) -> None:
    run()
    assert caplog.messages == [
        "first-token: 1 of 4 responses could not be graded, which is the machine's fault and not theirs, and "
        "score 0 (the first: worker killed)"
    ]


def test_batches_have_seeds_of_their_own() -> None:
    first, again, other = ScriptedEngine(), ScriptedEngine(), ScriptedEngine()
    assert run(engine=first) == run(engine=again)
    assert first.calls == again.calls
    assert [prompts for prompts, _ in first.calls] == [[(1,), (2,)], [(3,)]]
    run(PLAN.model_copy(update={"seed": 12}), engine=other)
    seeds = [seed for engine in (first, other) for _, seed in engine.calls]
    assert len(set(seeds)) == 4


def test_summary_is_flat_json() -> None:
    summary = run().to_summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["pass@1"] == pytest.approx(1 / 4)
    assert summary["pass@1_interval"][0] <= summary["pass@1"] <= summary["pass@1_interval"][1]
    assert set(summary) == {
        *(f"{name}{suffix}" for name in ("pass@1", "pass@2") for suffix in ("", "_interval")),
        *(f"{name}{suffix}" for name in ("reward", "response_length") for suffix in ("", "_interval")),
        *("truncated", "truncated_interval", "levels"),
        *("problems", "samples", "grader_errors", "infrastructure_errors", "confidence"),
    }
    assert summary["levels"]["2"]["pass@1"] == pytest.approx(1 / 8)


class TaskOfFunctions(FirstTokenTask):
    """The tenth, unless it is 0; what applies to nothing."""

    reward_names = ("tenth", "nothing")

    def verdict(self, example: Example, response: str) -> Reward:
        found = super().verdict(example, response)
        return dataclasses.replace(found, rewards={"tenth": found.score or None, "nothing": None})


def test_the_mean_of_each_of_several_rewards_by_hand() -> None:
    result = evaluate(
        ScriptedEngine(), TaskOfFunctions(), EXAMPLES, PROMPTS, decode, toy.encode_reply, SAMPLING, PLAN
    )
    # p1: 1 and 1, twice none; p2: 0.5 and 1, twice none; p3: none at all, so two problems are left.
    assert list(result.rewards) == ["tenth"]
    assert result.rewards["tenth"].value == pytest.approx((1 + 0.75) / 2)
    summary = result.to_summary()
    assert summary["rewards/tenth"] == pytest.approx(0.875)
    assert summary["rewards/tenth_interval"] == [0.75, 1.0]
    assert not {name for name in run().to_summary() if name.startswith("rewards/")}


class VotingTask(FirstTokenTask):
    votes = True


def test_majority_by_hand() -> None:
    result = evaluate(
        ScriptedEngine(), VotingTask(), EXAMPLES, PROMPTS, decode, toy.encode_reply, SAMPLING, PLAN
    )
    # p1: 10 10 0 0, a tie of two; p2: 0 5 0 10, lost; p3: two errors and two zeros, lost.
    assert [problem.majority for problem in result.problems] == [0.5, 0.0, 0.0]
    assert result.majority[4].value == pytest.approx(0.5 / 3)
    summary = result.to_summary()
    assert summary["maj@4"] == pytest.approx(0.5 / 3)
    assert len(summary["maj@4_interval"]) == 2
    # Only where the task votes, and only when it is asked to.
    assert run().majority == {}
    assert {problem.majority for problem in run().problems} == {None}
    quiet = PLAN.model_copy(update={"majority": False})
    assert not evaluate(
        ScriptedEngine(), VotingTask(), EXAMPLES, PROMPTS, decode, toy.encode_reply, SAMPLING, quiet
    ).majority


def test_what_is_done_is_not_sampled_again_and_each_new_batch_is_told() -> None:
    told: list[list[str]] = []
    whole = run(on_batch=lambda problems: told.append([problem.uid for problem in problems]))
    assert told == [["p1", "p2"], ["p3"]]
    engine = ScriptedEngine()
    told.clear()
    again = run(
        engine=engine,
        done=whole.problems[:2],
        on_batch=lambda problems: told.append([p.uid for p in problems]),
    )
    assert again == whole
    assert told == [["p3"]]
    assert [prompts for prompts, _ in engine.calls] == [[(3,)]]


def test_problems_without_level_make_no_level() -> None:
    plain = [dataclasses.replace(example, level="") for example in EXAMPLES]
    result = evaluate(
        ScriptedEngine(), FirstTokenTask(), plain, PROMPTS, decode, toy.encode_reply, SAMPLING, PLAN
    )
    assert result.levels == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ks": (1, 8)}, "pass@8 needs that many samples, but samples=4"),
        ({"ks": (2,)}, "start with 1"),
        ({"ks": (1, 4, 2)}, "rise"),
        ({"prompts_per_batch": 0}, "prompts_per_batch"),
        ({"confidence": 95.0}, "confidence"),
    ],
)
def test_plan_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationPlan(**{**PLAN.model_dump(), **change})


def test_evaluate_refuses_missing_prompts_and_missing_shares() -> None:
    task = FirstTokenTask()
    with pytest.raises(ValueError, match="2 prompts for 3 examples"):
        evaluate(ScriptedEngine(), task, EXAMPLES, PROMPTS[:2], decode, toy.encode_reply, SAMPLING, PLAN)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(ScriptedEngine(), task, [], [], decode, toy.encode_reply, SAMPLING, PLAN)
    # Half of the problems must not pass for all of them when there is nobody to gather from.
    with pytest.raises(RuntimeError, match="2 of 3 problems"):
        run(rank=0, world_size=2)


@pytest.mark.parametrize(
    ("problems", "most", "ranks"), [(256, 64, 8), (3, 64, 8), (520, 64, 8), (500, 64, 7), (1, 1, 2)]
)
def test_no_rank_idles_while_another_scores_several_problems(problems: int, most: int, ranks: int) -> None:
    """Whole batches of at most 64 would leave half of eight ranks without any of 256 problems."""
    size = batch_size(problems, most, ranks)
    starts = list(range(0, problems, size))
    shares = [sum(min(size, problems - start) for start in starts[rank::ranks]) for rank in range(ranks)]
    rounds = -(-len(starts) // ranks)
    assert size <= most
    assert sum(shares) == problems
    assert max(shares) <= -(-problems // ranks) + rounds - 1  # no more than even shares, up to rounding


def test_metric_sorts_and_drops_repeated_problems() -> None:
    metric = PassAtK((1,), ("reward",))
    for index in ([5, 2], [2, 0]):
        rows = torch.tensor(index)
        metric.update(rows, torch.full((2,), 10), rows, rows[:, None].double())
    table = metric.compute()
    assert table["index"].tolist() == [0, 2, 5]
    assert table["pass@1"].tolist() == pytest.approx([0.0, 0.2, 0.5])
    assert table["reward"].tolist() == [0.0, 2.0, 5.0]


# In one process the second plan is one batch. Two ranks make two of it, as they do of the first.
SHARED_PLANS = (PLAN, PLAN.model_copy(update={"prompts_per_batch": 3}))


def _evaluate_on_a_rank(rank: int, world_size: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    try:
        found = []
        for plan in SHARED_PLANS:
            engine = ScriptedEngine()
            result = run(plan, engine, rank=rank, world_size=world_size)
            everything = dataclasses.replace(result, problems=gather_problems(result.problems))
            found.append((engine.calls, everything))
        torch.save(found, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(_evaluate_on_a_rank, args=(2, port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    for plan, *found in zip(SHARED_PLANS, *ranks, strict=True):
        alone = ScriptedEngine()
        expected = run(plan.model_copy(update={"prompts_per_batch": 2}), alone)
        assert [result for _, result in found] == [expected, expected]
        # The same prompts under the same seeds, dealt to the ranks in turn.
        assert [call for calls, _ in found for call in calls if call[0]] == alone.calls
        assert len(found[0][0]) == len(found[1][0])  # ranks may need each other to sample


def test_a_response_is_decoded_with_the_prompt_that_it_answers() -> None:
    def decode(ids: Sequence[int], prompt: Sequence[int] = ()) -> str:
        return f"{len(ids)} tokens for {list(prompt)}"

    result = evaluate(
        ScriptedEngine(), FirstTokenTask(), EXAMPLES, PROMPTS, decode, toy.encode_reply, SAMPLING, PLAN
    )
    for problem, prompt in zip(result.problems, PROMPTS, strict=True):
        assert problem.prompt == "1 tokens for []"
        assert [s.response for s in problem.samples] == [
            f"{s.length} tokens for {list(prompt)}" for s in problem.samples
        ]
