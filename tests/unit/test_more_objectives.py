"""Methods beyond the paper's own, against numbers worked by hand from the papers that they come from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipo.modules.objectives.base import MicroBatch, Objective
from pipo.modules.objectives.gmpo import GMPO
from pipo.modules.objectives.grpo import GRPO
from tests.conftest import packed

LOSS: dict[str, Any] = {"aggregation": "token-mean", "kl_coef": 0.0}
CLIP: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None, **LOSS}


def f64(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss_and_gradient(
    objective: Objective, old: Tensor, gaps: Tensor, advantages: list[float], mask: Tensor | None = None
) -> tuple[float, Tensor]:
    """Of rows whose log-probabilities have moved by so much; one advantage per row."""
    mask = torch.ones_like(old, dtype=torch.bool) if mask is None else mask
    ids = torch.zeros(len(old), old.shape[1] + 1, dtype=torch.int64)
    micro = MicroBatch(
        rows=packed(ids, torch.nn.functional.pad(mask, (1, 0), value=True)),
        sampled=mask,
        old_logprobs=old,
        advantages=f64(advantages)[:, None] * mask,
        ref_logprobs=None,
        kl_coef=0.0,
        teacher_rows=None,
        value_targets=None,
    )
    logprobs = (old + gaps).requires_grad_()
    loss = objective.loss(logprobs, micro, objective.denominator(mask).item())
    (grad,) = torch.autograd.grad(loss.value, logprobs)
    return loss.value.item(), grad


# ---------------------------------------------------------------------- GMPO, arXiv 2507.20673


def gmpo(**changes: Any) -> GMPO:
    """The paper's range: logarithms of ratios clipped at +-0.4."""
    range_ = {"clip_low": 1 - math.exp(-0.4), "clip_high": math.exp(0.4) - 1}
    options = {**CLIP, **range_, "aggregation": "seq-mean-token-mean", "advantage_eps": 1e-6}
    return GMPO(**{**options, **changes})


@pytest.mark.parametrize(
    ("advantage", "kept", "silent"),
    [
        # Equation 4 with logarithms .2, .6, -.7. A > 0 is bounded above: .2, .4, -.7, of mean -.1 / 3.
        (2.0, -0.1 / 3, 1),
        # A < 0 is bounded below: .2, .6, -.4, of mean .4 / 3.
        (-1.0, 0.4 / 3, 2),
    ],
)
def test_gmpo_takes_the_geometric_mean_of_clipped_ratios(advantage, kept, silent):
    old, gaps = f64([[-3.0, -3.0, -3.0]]), f64([[0.2, 0.6, -0.7]])
    loss, grad = loss_and_gradient(gmpo(), old, gaps, [advantage])
    assert loss == pytest.approx(-advantage * math.exp(kept), rel=1e-12)
    # Equation 6: each token's gradient is the whole response's ratio times A / |y|; a clipped one has none.
    expected = torch.full((1, 3), -advantage * math.exp(kept) / 3, dtype=torch.float64)
    expected[0, silent] = 0
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=0)


def test_gmpo_of_one_token_is_grpo_of_one_token_with_the_same_range():
    """The mean of one number; the range acts in logarithms or on the ratio alike."""
    old, gaps = f64([[-2.0]] * 4), f64([[0.3], [0.7], [-0.2], [-0.9]])
    for advantages in ([1.0, 1.0, 1.0, 1.0], [-1.0, -2.0, -1.0, -2.0]):
        options = {**vars_of(gmpo()), "advantage_eps": 1e-6}
        mine, theirs = (loss_and_gradient(kind(**options), old, gaps, advantages) for kind in (GMPO, GRPO))
        assert mine[0] == pytest.approx(theirs[0], rel=1e-12)
        torch.testing.assert_close(mine[1], theirs[1], rtol=1e-12, atol=0)


def vars_of(objective: Objective) -> dict[str, Any]:
    clip = objective.clip
    return {
        "clip_low": clip.low,
        "clip_high": clip.high,
        "dual_clip": clip.dual,
        "aggregation": objective.aggregation,
        "kl_coef": objective.kl_coef,
    }


def test_gmpo_leaves_padding_and_inserted_tokens_out():
    """The mean is over the two sampled tokens, whatever stands on the third."""
    mask = torch.tensor([[True, False, True]])
    old, gaps = f64([[-1.0, -9.0, -1.0]]), f64([[0.1, 5.0, 0.3]])
    loss, grad = loss_and_gradient(gmpo(), old, gaps, [1.0], mask)
    assert loss == pytest.approx(-math.exp(0.2), rel=1e-12)
    assert grad[0, 1] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"aggregation": "token-mean"}, "aggregation must be seq-mean-token-mean"),
        ({"dual_clip": 3.0}, "dual_clip must be null"),
    ],
)
def test_gmpo_refuses_what_it_has_no_use_for(change, said):
    with pytest.raises(ValueError, match=said):
        gmpo(**change)
