"""The sampled retrospective update: probabilities by hand, and the expected gradient draw by draw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipo.functional.advantages import group_attribution
from pipo.functional.row_sampling import (
    inclusion_probabilities,
    row_weights,
    sampled_attribution,
    systematic_draw,
)
from pipo.modules.objectives.base import MicroBatch
from tests.built import built
from tests.policies import packed

ALGORITHMS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "algo").glob("*.yaml"))


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def draws(probabilities: Tensor) -> list[tuple[float, float]]:
    """Every draw that there is: a start inside each interval in which it does not matter, and its length.

    Edges that differ by rounding alone are one.
    """
    edges = torch.cat([f64(0, 1), probabilities.cumsum(0) % 1]).sort().values
    middles, lengths = (edges[1:] + edges[:-1]) / 2, edges.diff()
    return [(m, n) for m, n in zip(middles.tolist(), lengths.tolist(), strict=True) if n > 1e-13]


def test_a_row_weighs_the_mean_of_its_own_tokens():
    mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    attribution = torch.tensor([[-3.0, 1.0, 0.0], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0]])
    assert row_weights(attribution, mask).tolist() == [2.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        # Weights 4, 1, 1, 2 and a zero: 2 of 8 units are 2 rows at f = 1/2, but the first would exceed 1.
        # It is certain, and the others share the second row: 1/4, 1/4, 2/4.
        (0.5, [1.0, 0.25, 0.25, 0.0, 0.5]),
        # One row: each its share of 8.
        (0.25, [0.5, 0.125, 0.125, 0.0, 0.25]),
        # 3.5 rows: the two largest are certain, 1.5 is left for two.
        (0.875, [1.0, 0.75, 0.75, 0.0, 1.0]),
        (1.0, [1.0, 1.0, 1.0, 0.0, 1.0]),
    ],
)
def test_probabilities_by_hand(fraction, expected):
    got = inclusion_probabilities(f64(4, 1, 1, 0, 2), fraction)
    torch.testing.assert_close(got, f64(*expected), rtol=1e-15, atol=0)


def test_probabilities_fill_up_to_the_fraction_and_grow_with_the_weight():
    weights = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 4
    weights[::3] = 0
    rows = int((weights > 0).sum())
    for fraction in (0.9, 0.5, 0.25, 0.1, 0.001):
        p = inclusion_probabilities(weights, fraction)
        # A row at least: 0.001 of them would be a seventh of one.
        assert p.sum().item() == pytest.approx(max(1, fraction * rows), rel=1e-12)
        assert all(systematic_draw(p, start).any() for start in (0.0, 0.5, 0.999))
        assert p.max() <= 1
        assert torch.equal(p == 0, weights == 0)
        free = (p > 0) & (p < 1)
        ratio = p[free] / weights[free]
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-12, atol=0)
        assert (weights[p == 1] * ratio[0] >= 1).all()
    assert inclusion_probabilities(f64(0, 0), 0.5).tolist() == [0, 0]


def test_every_row_is_drawn_with_its_probability_and_the_size_is_fixed():
    p = inclusion_probabilities(f64(4, 1, 3, 0, 2, 0.3, 0.7, 1, 5), 0.4)  # 3.2 rows of 8
    share = torch.zeros_like(p)
    sizes = set()
    for start, length in draws(p):
        drawn = systematic_draw(p, start)
        share += length * drawn.double()
        sizes.add(int(drawn.sum()))
    torch.testing.assert_close(share, p, rtol=1e-12, atol=0)
    assert sizes == {3, 4}


def test_groups_with_the_same_total_get_the_same_share():
    """Groups of 8 with 1 to 7 successes; each has 8 of 56 units, so two of its rows are due at a quarter."""
    rewards = torch.stack([(torch.arange(8) * 3 % 8 < c).double() for c in range(1, 8)])
    attribution = group_attribution((rewards - rewards.mean(1, keepdim=True)).flatten(), 8)[:, None]
    mask = torch.ones(56, 1, dtype=torch.bool)
    for start, _ in draws(inclusion_probabilities(row_weights(attribution, mask), 0.25)):
        drawn = sampled_attribution(attribution, mask, 0.25, start).view(7, 8)
        assert ((drawn != 0).sum(1) == 2).all()


def toy_micro(per_token: bool) -> tuple[torch.Tensor, MicroBatch]:
    """Tokens and micro-batch: four groups of four, one without attribution, in float64."""
    generator = torch.Generator().manual_seed(3)
    rows, width = 16, 5
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    mask = torch.arange(width) < lengths[:, None]
    rewards = torch.rand(rows, generator=generator, dtype=torch.float64).view(4, 4)
    rewards[0], rewards[1] = f64(1, 0, 0, 0), 0.5
    attribution = group_attribution((rewards - rewards.mean(1, keepdim=True)).flatten(), 4)[:, None] * mask
    if per_token:
        noise = torch.randn(rows, width, generator=generator, dtype=torch.float64)
        attribution = noise * attribution
    ids = torch.randint(0, 7, (rows, width + 1), generator=generator)
    return ids, MicroBatch(
        rows=packed(ids, torch.nn.functional.pad(mask, (1, 0))),
        sampled=mask,
        old_logprobs=-1.5 - torch.randn(rows, width, generator=generator, dtype=torch.float64),
        advantages=attribution,
        ref_logprobs=None,
        kl_coef=0.0,
        teacher_rows=None,
        value_targets=None,
    )


def test_the_expected_gradient_is_the_whole_one_for_every_algorithm(compose_config):
    """A bigram table is the policy; the ratios lie far from 1, so that clip and dual bound act."""
    table = torch.randn(7, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert len(ALGORITHMS) >= 9
    for name in ALGORITHMS:
        cfg = compose_config(f"algo={name}", "output_dir=x")
        objective = built(cfg, "algo.objective")
        ids, micro = toy_micro(per_token=name == "ppo" or name.startswith("sdpo"))
        coefficient = -0.7 if name == "grpo" else 1.3

        def gradient(attribution, micro=micro, objective=objective, coefficient=coefficient, ids=ids):
            batch = MicroBatch(**{**vars(micro), "advantages": attribution * coefficient})
            weights = table.clone().requires_grad_()
            scores = weights[ids[:, :-1]].log_softmax(-1)
            logprobs = scores.gather(-1, ids[:, 1:, None])[..., 0] * batch.sampled
            total = objective.denominator(batch.sampled).item()
            loss = objective.loss(logprobs, batch, total)
            (grad,) = torch.autograd.grad(loss.value, weights)
            return grad, loss.metrics["clip_fraction"][0]

        whole, clipped = gradient(micro.advantages)
        assert clipped > 0
        p = inclusion_probabilities(row_weights(micro.advantages, micro.sampled), 0.6)
        assert p.max() == 1  # a row that is always drawn is among them
        expected, seen = torch.zeros_like(whole), set()
        for start, length in draws(p):
            part = sampled_attribution(micro.advantages, micro.sampled, 0.6, start)
            seen.add(tuple((part != 0).any(1).tolist()))
            expected += length * gradient(part)[0]
        assert len(seen) > 3
        torch.testing.assert_close(expected, whole, rtol=1e-10, atol=1e-12, msg=name)


def test_attribution_that_is_not_finite_is_left_for_the_optimiser_step_to_refuse():
    _, micro = toy_micro(per_token=False)
    attribution = micro.advantages.clone()
    attribution[0, 0] = float("nan")
    assert sampled_attribution(attribution, micro.sampled, 0.5, 0.2) is attribution
