"""Dynamic sampling on a toy: which groups are trained on, when more are drawn, and what the filter leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.functional.advantages import group_relative_advantages
from pipo.modules.hooks import RolloutCallback
from pipo.rollout.reward_terms import OverlongPenalty
from pipo.runs.checkpoints import finished_checkpoints
from tests import toy

# Groups of four: all wrong, all right, one right, three right.
NONE, ALL, ONE, THREE = (0, 0, 0, 0), (1, 1, 1, 1), (1, 0, 0, 0), (1, 1, 1, 0)
Group = tuple[float, ...]


class Scripted(toy.ToyTask):
    """Rewards by rule instead of by response; notes what was graded.

    Args:
        rewards: (round, counted over the whole run; position of the group in it; uid number) -> its rewards.
    """

    def __init__(self, rewards) -> None:
        self.rewards = rewards
        self.rounds: list[list[tuple[int, Group]]] = []

    def grade(self, examples, responses):
        numbers = [int(example.uid.rpartition("/")[2]) for example in examples[::4]]
        groups = [self.rewards(len(self.rounds), place, number) for place, number in enumerate(numbers)]
        self.rounds.append(list(zip(numbers, groups, strict=True)))
        return [toy.Reward(score=float(reward)) for group in groups for reward in group]


class Kept(RolloutCallback):
    """What reached the update."""

    def __init__(self) -> None:
        self.rollouts: list[Any] = []

    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        self.rollouts.append(rollouts)

    def numbers(self, iteration: int) -> list[int]:
        """Uid numbers of the prompts that were trained on, in order."""
        return [int(e.uid.rpartition("/")[2]) for e in self.rollouts[iteration].prompts.examples]


# At most 5 tokens, buffer 4: length 1 costs nothing, 2 to 5 cost 1/4, 2/4, 3/4 and 1.
OVERLONG = {"overlong": OverlongPenalty(buffer=4, max_response_tokens=5)}


def run(task, iterations: int, rounds: int, **options: Any):
    module, kept, record = (
        toy.module(toy.grpo(clip_high=0.28), rounds=rounds, **options),
        Kept(),
        toy.Record(),
    )
    if task is not None:
        module.collector.task = task
    toy.fit(module, [kept, record], iterations)
    return kept, record


def scripted(*rounds: tuple[Group, ...]) -> Scripted:
    return Scripted(lambda number, place, uid: rounds[number][place])


FIRST, SECOND, THIRD = (ONE, NONE, ALL, NONE), (ALL, THREE, ONE, ALL), (ONE, NONE, THREE, THREE)


def test_draws_until_the_batch_is_full_and_cuts_the_surplus():
    """1, 2 and 3 groups of the rounds are mixed: 1, 3, then 6 in all, of which the first 4 are taken."""
    task = scripted(FIRST, SECOND, THIRD)
    kept, record = run(task, 1, rounds=10)
    metrics = record.metrics[0]
    assert len(task.rounds) == 3
    assert metrics["rollout/rounds"] == 3
    assert metrics["rollout/batch_filled"] == 1
    (rollouts,) = kept.rollouts
    expected = torch.tensor([ONE, THREE, ONE, ONE]).view(-1).float()
    assert torch.equal(rollouts.rewards, expected)
    numbers = [task.rounds[0][0][0], task.rounds[1][1][0], task.rounds[1][2][0], task.rounds[2][0][0]]
    assert kept.numbers(0) == numbers
    # The rows of everything else belong to these groups too: prompts of the toy begin with 2 + uid number.
    batch = record.batches[0]
    assert [ids[0] - 2 for ids in batch.prompt_ids] == numbers
    assert [verdict.score for verdict in rollouts.verdicts] == expected.tolist()
    decoded = [
        toy.decode(row[m].tolist()) for row, m in zip(batch.response_ids, batch.response_mask, strict=True)
    ]
    assert list(rollouts.texts) == decoded
    # One right of four has mean 1/4 and sample std sqrt((9 + 1 + 1 + 1) / 16 / 3) = 1/2: 1.5 and -0.5.
    by_hand = torch.tensor([1.5, -0.5, -0.5, -0.5, 0.5, 0.5, 0.5, -1.5] + 2 * [1.5, -0.5, -0.5, -0.5])
    torch.testing.assert_close(batch.advantages[:, 0], by_hand, rtol=1e-5, atol=0)
    assert metrics["policy/trained_rows"] == 1


def test_mu_covers_every_sampled_response():
    """Rewarded: 1 + 0 + 4 + 0, 4 + 3 + 1 + 4 and 1 + 0 + 3 + 3, so 24 of 48; of the kept ones 6 of 16."""
    _, record = run(scripted(FIRST, SECOND, THIRD), 1, rounds=10)
    assert record.stats[0].mean_reward == 0.5
    metrics = record.metrics[0]
    assert metrics["train/reward"] == pytest.approx(0.5)
    assert metrics["train/accuracy"] == pytest.approx(0.5)
    # 3 + 2 + 1 of 12 groups teach nothing.
    assert metrics["rollout/zero_variance_groups"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("rounds", "mu", "groups"),
    [
        # Round 1 alone: 5 of 16 responses, one group.
        (1, 5 / 16, [ONE]),
        # Rounds 1 and 2: 5 + 12 of 32, three groups.
        (2, 17 / 32, [ONE, THREE, ONE]),
    ],
)
def test_stops_at_the_given_number_of_rounds_and_trains_on_what_there_is(rounds, mu, groups):
    task = scripted(FIRST, SECOND, THIRD)
    kept, record = run(task, 1, rounds=rounds)
    metrics = record.metrics[0]
    assert len(task.rounds) == metrics["rollout/rounds"] == rounds
    assert metrics["rollout/batch_filled"] == len(groups) / 4
    assert torch.equal(kept.rollouts[0].rewards, torch.tensor(groups).view(-1).float())
    assert record.stats[0].mean_reward == mu
    assert len(record.batches[0]) == 4 * len(groups)
    assert metrics["policy/grad_norm"] > 0


def test_a_full_first_round_is_not_followed_by_another():
    task = scripted((ONE, THREE, ONE, ONE))
    _, record = run(task, 1, rounds=10)
    assert len(task.rounds) == record.metrics[0]["rollout/rounds"] == 1


def test_groups_by_prompt_over_several_iterations():
    """Prompts divisible by 3 are never solved, remainder 1 always, remainder 2 once of four."""
    rule = (NONE, ALL, ONE)
    task = Scripted(lambda number, place, uid: rule[uid % 3])
    kept, record = run(task, 6, rounds=3)
    first = 0
    for iteration, metrics in enumerate(record.metrics):
        drawn = int(metrics["rollout/rounds"])
        rounds = task.rounds[first : first + drawn]
        first += drawn
        mixed = [[uid for uid, _ in groups if uid % 3 == 2] for groups in rounds]
        # It drew on only while groups were lacking.
        assert all(sum(map(len, mixed[:done])) < 4 for done in range(1, drawn))
        found = [uid for groups in mixed for uid in groups]
        assert len(found) >= 4 or drawn == 3
        assert found, "no mixed group in three rounds: choose another seed"
        assert kept.numbers(iteration) == found[:4]
        assert metrics["rollout/batch_filled"] == min(1, len(found) / 4)
        graded = [reward for groups in rounds for _, group in groups for reward in group]
        assert record.stats[iteration].mean_reward == sum(graded) / len(graded)
    assert first == len(task.rounds)
    assert len({tuple(uid for uid, _ in groups) for groups in task.rounds}) == len(task.rounds)
    assert {m["rollout/rounds"] for m in record.metrics} >= {2, 3}


def test_policy_improvement_compares_the_means_before_the_filter():
    """Means 5/16, 12/16 and 7/16; after the filter they would be 1/4, 1/2 and 7/12."""
    module, record = toy.module(rounds=1), toy.Record()
    module.collector.task = scripted(FIRST, SECOND, THIRD)
    toy.fit(module, [record, toy.pipo(window=2)], 3)
    # mean (5 + 12) / 32 = .53125; std = (12 - 5) / 16 / sqrt 2 = .30936; xi = (.4375 - .53125) / .30936.
    metrics = record.metrics[2]
    assert metrics["pipo/history_mean"] == pytest.approx(0.53125)
    assert metrics["pipo/history_std"] == pytest.approx(0.3093592)
    assert metrics["pipo/progress"] == pytest.approx(-0.3030458, rel=1e-6)
    assert metrics["pipo/coefficient"] == pytest.approx(-0.03030458, rel=1e-6)


def test_the_overlong_penalty_changes_advantages_but_not_mu_accuracy_or_the_filter():
    """The same seed samples the same responses; only what is added to their rewards differs."""
    plain, without = run(scripted(FIRST, SECOND, THIRD), 1, rounds=10)
    shaped, with_penalty = run(scripted(FIRST, SECOND, THIRD), 1, rounds=10, terms=OVERLONG)
    (before,), (after,) = plain.rollouts, shaped.rollouts
    assert torch.equal(before.completions.response_ids, after.completions.response_ids)
    assert plain.numbers(0) == shaped.numbers(0)
    assert torch.equal(before.rewards, after.rewards)
    for name in ("train/reward", "train/accuracy", "rollout/zero_variance_groups", "rollout/rounds"):
        assert without.metrics[0][name] == with_penalty.metrics[0][name], name
    assert without.stats[0].mean_reward == with_penalty.stats[0].mean_reward == 0.5
    lengths = after.completions.lengths
    penalty = -(lengths - 1) / 4
    assert len(lengths.unique()) > 1
    torch.testing.assert_close(after.shaping, penalty)
    assert with_penalty.metrics[0]["train/shaping"] < 0
    assert with_penalty.metrics[0]["train/reward_terms/overlong"] == with_penalty.metrics[0]["train/shaping"]
    assert not {"train/shaping", "train/reward_terms/overlong"} & set(without.metrics[0])
    advantages = [record.batches[0].advantages[:, 0] for record in (without, with_penalty)]
    torch.testing.assert_close(advantages[1], group_relative_advantages(after.rewards + penalty, 4, 1e-6))
    assert not torch.allclose(*advantages)


def test_the_filter_looks_at_the_verifier_even_where_the_penalty_differs():
    """Equal verdicts on responses of different length: the penalty alone must not make them a signal."""
    kept, record = run(scripted((ALL, ALL, ALL, ONE)), 1, rounds=1, terms=OVERLONG)
    assert torch.equal(kept.rollouts[0].rewards, torch.tensor(ONE).float())
    assert record.metrics[0]["rollout/zero_variance_groups"] == 0.75


@pytest.mark.parametrize("verdict", [NONE, ALL])
def test_an_iteration_of_degenerate_groups_survives_without_a_gradient(verdict):
    """Three rounds, nothing found: one group stands in, its advantages are zero, and no weight moves."""
    task = Scripted(lambda number, place, uid: verdict)
    kept, record = run(task, 2, rounds=3, weight_decay=0.0)
    assert len(task.rounds) == 6
    for metrics in record.metrics:
        assert metrics["rollout/rounds"] == 3
        assert metrics["rollout/batch_filled"] == 0
        assert metrics["policy/grad_norm"] == 0
        assert metrics["policy/trained_rows"] == 0
        assert metrics["rollout/zero_variance_groups"] == 1
    assert [len(r.prompts) for r in kept.rollouts] == [1, 1]
    assert [s.mean_reward for s in record.stats] == [verdict[0], verdict[0]]
    # Adam without momentum or decay moves by 0 / (0 + eps).
    for name, start in toy.make_policy().state_dict().items():
        assert torch.equal(record.weights[-1][f"policy.{name}"], start), name


@pytest.mark.parametrize("stop", [2, 4])
def test_resume_is_exact_with_refill_rounds(tmp_path, stop):
    def module():
        return toy.module(toy.grpo(clip_high=0.28), rounds=4)

    whole, first, second = toy.Record(), toy.Record(), toy.Record()
    toy.fit(module(), [whole, toy.pipo(window=2)], 7)

    class Stop(toy.pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = batch_idx + 1 == stop

    saving = IterationCheckpoint(folder=str(tmp_path), every=100, keep=1, best=False)
    toy.fit(module(), [first, toy.pipo(window=2), Stop(), saving], 7)
    (checkpoint,) = finished_checkpoints(tmp_path)
    toy.fit(module(), [second, toy.pipo(window=2)], 7, checkpoint)
    rounds = [[m["rollout/rounds"] for m in record.metrics] for record in (whole, second)]
    assert rounds[1] == rounds[0][stop:]
    assert max(rounds[1]) > 1, "no refill after the resume: choose another seed"
    assert [s.mean_reward for s in second.stats] == [s.mean_reward for s in whole.stats[stop:]]
    assert [b.prompt_ids for b in second.batches] == [b.prompt_ids for b in whole.batches[stop:]]
    for mine, theirs in zip(second.weights, whole.weights[stop:], strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
