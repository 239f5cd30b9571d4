"""Policy improvement on two groups of four, worked by hand from the rewards to the update."""

from __future__ import annotations

import math

import pytest
import torch

from pipo.modules.hooks import RolloutCallback
from tests import toy

# Rewards of two groups in five iterations.
SCRIPT = (
    (1, 0, 0, 0, 1, 0, 0, 0),  # mu = 2/8
    (1, 0, 0, 0, 1, 1, 1, 0),  # mu = 4/8
    (1, 1, 1, 1, 1, 1, 0, 0),  # mu = 6/8
    (0, 0, 0, 0, 0, 1, 1, 0),  # mu = 2/8
    (1, 1, 0, 0, 1, 1, 0, 0),  # mu = 4/8
)


class Scripted(toy.ToyTask):
    def __init__(self) -> None:
        self.graded = 0

    def grade(self, examples, responses):
        rewards = SCRIPT[self.graded]
        self.graded += 1
        return [toy.Reward(score=float(reward)) for reward in rewards]


class Updates(RolloutCallback):
    """Every batch that was handed to the update, by (iteration, name)."""

    def __init__(self) -> None:
        self.batches = {}

    def on_train_start(self, trainer, pl_module) -> None:
        original = pl_module.policy_update

        def spy(batch, *, prefix, **kwargs):
            self.batches[trainer.fit_loop.total_batch_idx, prefix] = batch
            return original(batch, prefix=prefix, **kwargs)

        pl_module.policy_update = spy


@pytest.fixture(scope="module")
def run():
    def data(iterations: int):
        return toy.PromptDataModule(
            toy.IterationDataset(
                toy.ToyTask().examples("train"),
                [(2 + i, 3) for i in range(24)],
                prompts_per_iteration=2,
                iterations=iterations,
                seed=7,
                shuffle=True,
                repeat_after=None,
            )
        )

    module, updates, record = toy.module(mini_batch=8), Updates(), toy.Record()
    module.collector.task = Scripted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "data", data)
        toy.fit(module, [updates, record, toy.pipo(window=2, negative_scale=0.1)], len(SCRIPT))
    return updates.batches, record


def advantages(batch) -> torch.Tensor:
    """One number per response; it must stand on each of its tokens and nowhere else."""
    first = batch.advantages[:, 0]
    assert torch.equal(batch.advantages, first[:, None] * batch.response_mask)
    return first


def test_base_advantages(run):
    """(r - mean) / sample std: one of four has mean 1/4 and std 1/2, two of four 1/2 and 1/sqrt 3."""
    batches, _ = run
    expected = torch.tensor([1.5, -0.5, -0.5, -0.5, 0.5, 0.5, 0.5, -1.5])
    torch.testing.assert_close(advantages(batches[1, "policy"]), expected, rtol=1e-5, atol=0)
    half = math.sqrt(3) / 2
    expected = torch.tensor([0, 0, 0, 0, half, half, -half, -half])
    torch.testing.assert_close(advantages(batches[2, "policy"]), expected, rtol=1e-5, atol=0)


def test_after_a_rise(run):
    """Window 2/8, 4/8: mean .375, std (2/8) / sqrt 2; mu = 6/8 is 1.5 sqrt 2 = 2.12132 deviations above.

    The batch before has 1 and 3 of 4 right: s = 4/2 and -4/6 in the first group, 4/6 and -4/2 in the second.
    """
    batches, record = run
    xi = 1.5 * math.sqrt(2)
    metrics = record.metrics[2]
    assert metrics["pipo/history_mean"] == pytest.approx(0.375)
    assert metrics["pipo/history_std"] == pytest.approx(0.25 / math.sqrt(2))
    assert metrics["pipo/progress"] == metrics["pipo/coefficient"] == pytest.approx(xi)
    share = torch.tensor([2, -2 / 3, -2 / 3, -2 / 3, 2 / 3, 2 / 3, 2 / 3, -2])
    torch.testing.assert_close(advantages(batches[2, "pipo"]), share * xi, rtol=1e-5, atol=0)
    assert torch.equal(batches[2, "pipo"].response_ids, batches[1, "policy"].response_ids)


def test_after_a_drop(run):
    """Window 4/8, 6/8: mean .625, std (2/8) / sqrt 2; mu = 2/8 is 2.12132 deviations below, times lambda.

    The batch before has a group without a wrong answer, which gets nothing, and one with 2 of 4: s = +1, -1.
    """
    batches, record = run
    xi = -1.5 * math.sqrt(2)
    metrics = record.metrics[3]
    assert metrics["pipo/progress"] == pytest.approx(xi)
    assert metrics["pipo/coefficient"] == pytest.approx(0.1 * xi)
    share = torch.tensor([0.0, 0, 0, 0, 1, 1, -1, -1])
    torch.testing.assert_close(advantages(batches[3, "pipo"]), share * 0.1 * xi, rtol=1e-5, atol=0)
    # The first group is left out of the work.
    assert metrics["pipo/trained_rows"] == 0.5


def test_at_the_mean_of_the_window_nothing_is_updated(run):
    """Window 6/8, 2/8 has mean 4/8, which is the newest value: xi = 0."""
    batches, record = run
    assert record.metrics[4]["pipo/progress"] == 0
    assert record.metrics[4]["pipo/applied"] == 0
    assert (4, "pipo") not in batches
    assert {iteration for iteration, name in batches if name == "pipo"} == {2, 3}
