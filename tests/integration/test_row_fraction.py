"""The retrospective update on a fraction of the rows, in the loop: exact at 1, right on average below it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.functional.row_sampling import (
    inclusion_probabilities,
    row_weights,
    sampled_attribution,
)
from pipo.modules.hooks import RolloutCallback
from pipo.runs.checkpoints import finished_checkpoints
from tests import toy
from tests.integration.test_closed_loop import RecordUpdates, same
from tests.unit.batches import policy_batch


def retrospective(updates: RecordUpdates, record: toy.Record):
    """Iteration, coefficient, previous batch and trained batch of every retrospective update."""
    return [
        (i, record.metrics[i]["pipo/coefficient"], record.batches[i - 1], batch)
        for i, prefix, batch, _ in updates.calls
        if prefix == "pipo"
    ]


def test_at_one_the_update_is_on_the_attribution_itself():
    updates, record = RecordUpdates(), toy.Record()
    toy.fit(toy.module(), [updates, record, toy.pipo(row_fraction=1.0)], 6)
    made = retrospective(updates, record)
    assert len(made) >= 3
    for _, coefficient, previous, batch in made:
        assert torch.equal(batch.advantages, previous.attribution * coefficient)


def test_a_fraction_of_each_mini_batch_is_drawn_and_reweighted():
    updates, record = RecordUpdates(), toy.Record()
    toy.fit(toy.module(mini_batch=8), [updates, record, toy.pipo(row_fraction=0.4)], 10)
    made = retrospective(updates, record)
    assert len(made) >= 5
    patterns = set()
    for iteration, coefficient, previous, batch in made:
        drawn = (batch.advantages != 0).any(dim=1)
        patterns.add(tuple(drawn.tolist()))
        for rows in torch.arange(16).split(8):
            whole, part = previous.attribution[rows], drawn[rows]
            due = 0.4 * int((whole != 0).any(dim=1).sum())
            assert math.floor(due) <= int(part.sum()) <= math.ceil(due)
            p = inclusion_probabilities(row_weights(whole, previous.response_mask[rows]), 0.4)
            expected = coefficient * whole[part] / p[part, None]
            torch.testing.assert_close(batch.advantages[rows][part], expected.float(), rtol=1e-5, atol=0)
        assert record.metrics[iteration]["pipo/trained_rows"] == pytest.approx(drawn.float().mean().item())
    assert len(patterns) > 1


def test_rows_follow_the_coefficient():
    """At lambda = 0.1 every drop of the toy has a coefficient below 1, some rise one above."""
    updates, record = RecordUpdates(), toy.Record()
    toy.fit(toy.module(), [updates, record, toy.pipo(row_fraction=0.8, rows_follow_coefficient=True)], 12)
    made = retrospective(updates, record)
    sizes = {min(1.0, abs(coefficient)) for _, coefficient, *_ in made}
    assert min(sizes) < 0.5
    assert max(sizes) == 1
    for _, coefficient, previous, batch in made:
        fraction = 0.8 * min(1.0, abs(coefficient))
        due = fraction * int((previous.attribution != 0).any(dim=1).sum())
        drawn = (batch.advantages != 0).any(dim=1)
        assert math.floor(due) <= int(drawn.sum()) <= math.ceil(due)
        p = inclusion_probabilities(row_weights(previous.attribution, previous.response_mask), fraction)
        expected = coefficient * previous.attribution[drawn] / p[drawn, None]
        torch.testing.assert_close(batch.advantages[drawn], expected.float(), rtol=1e-5, atol=0)


def test_the_expected_gradient_of_policy_update_is_that_of_all_rows():
    """Every draw once, weighed by its probability, through packing, denominators and backward passes."""
    batch = policy_batch(prompts=4, group_size=4, width=6)
    p = inclusion_probabilities(row_weights(batch.attribution, batch.response_mask), 0.3)
    ends = p.cumsum(0) % 1
    edges = torch.cat([torch.tensor([0.0, 1.0], dtype=torch.float64), ends]).sort().values
    steps = [(((a + b) / 2).item(), (b - a).item()) for a, b in edges.unfold(0, 2, 1) if b - a > 1e-9]

    class AllDraws(RolloutCallback):
        def on_rollouts_ready(self, trainer, module, rollouts, ignored, stats):
            self.seen: list[dict[str, torch.Tensor]] = []
            keep = trainer.optimizers[0].register_step_pre_hook(
                lambda *_: self.seen.append(
                    {name: q.grad.double().clone() for name, q in module.policy.named_parameters()}
                )
            )
            draws = [
                sampled_attribution(batch.attribution, batch.response_mask, 0.3, start) for start, _ in steps
            ]
            for attribution in [batch.attribution, *draws]:
                # At a rate of zero the weights stay.
                module.policy_update(batch.reweighted(attribution, 0.0), prefix="check", lr_scale=0.0)
            keep.remove()

    found = AllDraws()
    toy.fit(toy.module(max_grad_norm=1e9), [found], 1)
    whole, *parts = found.seen
    assert len(parts) == len(steps) > 5
    for name, gradient in whole.items():
        expected = sum(length * part[name] for (_, length), part in zip(steps, parts, strict=True))
        torch.testing.assert_close(expected, gradient, rtol=1e-4, atol=1e-6)
    assert max(g.abs().max() for g in whole.values()) > 1e-2


def test_a_resumed_run_draws_the_same_rows(tmp_path: Path):
    def loop():
        return toy.pipo(window=2, row_fraction=0.3)

    whole, second, updates, resumed = toy.Record(), toy.Record(), RecordUpdates(), RecordUpdates()
    toy.fit(toy.module(), [updates, whole, loop()], 8)

    class Stop(toy.pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = batch_idx + 1 == 4

    saving = IterationCheckpoint(folder=str(tmp_path), every=100, keep=1, best=False)
    toy.fit(toy.module(), [loop(), Stop(), saving], 8)
    (checkpoint,) = finished_checkpoints(tmp_path)
    toy.fit(toy.module(), [resumed, second, loop()], 8, checkpoint)
    first = [b.advantages for i, prefix, b, _ in updates.calls if prefix == "pipo" and i >= 4]
    again = [b.advantages for _, prefix, b, _ in resumed.calls if prefix == "pipo"]
    assert len(again) == len(first) >= 2
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert same(second.weights[-1], whole.weights[-1])
