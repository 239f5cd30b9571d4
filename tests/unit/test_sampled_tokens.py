"""Responses with an inserted middle part: it is read as context, and nothing is learnt about it.

Two responses to one prompt. Of the first the policy sampled the tokens at places 0, 1 and 4, and a reply was
inserted at 2 and 3; the second was sampled at 0 and 1 and then padded. So five tokens are sampled. Rewards
1 and 0 have the mean 1/2 and the sample standard deviation sqrt(1/2), which gives advantages of +-sqrt(1/2)
and attributions of +-1.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pipo.functional.importance import importance_weights
from pipo.functional.row_sampling import row_weights
from pipo.lm.critic import Critic
from pipo.lm.packing import pack
from pipo.modules.annotation import score_responses, unflatten
from pipo.modules.batching import idle_micro_batch, micro_batches
from pipo.modules.objectives.base import CriticConfig, Distillation, DistillationForm, Objective
from pipo.modules.objectives.cispo import CISPO
from pipo.modules.objectives.dr_grpo import DrGRPO
from pipo.modules.objectives.grpo import GRPO
from pipo.modules.objectives.gspo import GSPO
from pipo.modules.objectives.ppo import PPO
from pipo.modules.objectives.rloo import RLOO
from pipo.modules.objectives.sdpo import SDPO
from pipo.records.batches import Annotations, PolicyBatch, TeacherAnnotation
from pipo.records.correction import ImportanceCorrection
from pipo.records.problems import Example, Reward
from pipo.records.rollouts import Completions, PromptBatch, Rollouts
from tests import toy

IDS = torch.tensor([[11, 12, 13, 14, 15], [21, 22, 0, 0, 0]])
REAL = torch.tensor([[True] * 5, [True, True, False, False, False]])
SAMPLED = torch.tensor([[True, True, False, False, True], [True, True, False, False, False]])
OLD = torch.tensor([[-1.0, -2.0, 0.0, 0.0, -0.5], [-1.5, -0.25, 0.0, 0.0, 0.0]])
#: log pi - log pi_old of the sampled tokens; what stands elsewhere must not be read.
GAPS = torch.tensor([[0.1, -0.05, 7.0, -6.0, 0.04], [0.06, -0.02, 5.0, 3.0, -4.0]])
A = math.sqrt(0.5)
LOSS = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None, "aggregation": "token-mean", "kl_coef": 0.0}
PROMPT = (5, 6, 7)


def rollouts(ids: torch.Tensor = IDS, real: torch.Tensor = REAL, sampled: torch.Tensor = SAMPLED) -> Rollouts:
    width = ids.shape[1]
    return Rollouts(
        prompts=PromptBatch(examples=(Example(uid="x", question="", answer=""),), prompt_ids=(PROMPT,)),
        completions=Completions(
            response_ids=ids,
            response_mask=real,
            sampled=sampled,
            logprobs=OLD[:, :width] * sampled,
            finished=torch.ones(2, dtype=torch.bool),
        ),
        texts=("first", "second"),
        verdicts=(Reward(score=1.0), Reward(score=0.0)),
        rewards=torch.tensor([1.0, 0.0]),
        shaping=torch.zeros(2),
        group_size=2,
        reward_sum=1.0,
        reward_count=2,
        varied_groups=1,
    )


def annotated(**changes) -> Annotations:
    none = dict.fromkeys(("importance", "ref_logprobs", "values", "teacher"))
    return Annotations(**{**none, "old_logprobs": OLD, **changes})


def prepared(objective: Objective, **changes) -> PolicyBatch:
    return objective.prepare(rollouts(), annotated(**changes), lambda total: total)


def loss_and_gradient(
    objective: Objective, batch: PolicyBatch
) -> tuple[float, torch.Tensor, dict[str, float]]:
    """Loss, its gradient with respect to the log-probabilities, and the metrics as means."""
    (micro,) = micro_batches(batch, torch.arange(2), 10**6)
    values = (OLD + GAPS).requires_grad_()
    found = objective.loss(values, micro, objective.denominator(batch.loss_mask()).item())
    found.value.backward()
    assert values.grad is not None
    metrics = {name: (total / count).item() for name, (total, count) in found.metrics.items()}
    return found.value.item(), values.grad, metrics


def at_sampled(first: list[float], second: list[float]) -> torch.Tensor:
    """Three and two numbers of the sampled tokens, and zeros elsewhere."""
    return torch.zeros(2, 5).masked_scatter(SAMPLED, torch.tensor([*first, *second]))


def ratios(row: int) -> list[float]:
    return GAPS[row][SAMPLED[row]].exp().tolist()


def test_group_methods_give_the_advantage_to_sampled_tokens():
    batch = prepared(GRPO(advantage_eps=0.0, **LOSS))
    torch.testing.assert_close(batch.advantages, at_sampled([A] * 3, [-A] * 2), rtol=1e-6, atol=0)
    torch.testing.assert_close(batch.attribution, at_sampled([1.0] * 3, [-1.0] * 2), rtol=1e-6, atol=0)
    assert torch.equal(batch.response_mask, REAL)
    assert torch.equal(batch.loss_mask(), SAMPLED)
    assert batch.contributing_rows().tolist() == [True, True]


def test_the_clipped_loss_is_a_mean_over_sampled_tokens():
    """No ratio leaves 1 +- 0.2, so that the loss is -sum of A nu over the five sampled tokens."""
    objective = GRPO(advantage_eps=0.0, **LOSS)
    batch = prepared(objective)
    assert objective.denominator(batch.loss_mask()).item() == 5
    loss, grad, metrics = loss_and_gradient(objective, batch)
    assert loss == pytest.approx(-A * (sum(ratios(0)) - sum(ratios(1))) / 5, rel=1e-5)
    by_hand = at_sampled([-A * nu / 5 for nu in ratios(0)], [A * nu / 5 for nu in ratios(1)])
    torch.testing.assert_close(grad, by_hand, rtol=1e-5, atol=0)
    gaps = GAPS[SAMPLED]
    assert metrics["entropy"] == pytest.approx(-(OLD[SAMPLED] + gaps).sum().item() / 5, rel=1e-6)
    # k3 with d = -gap.
    assert metrics["kl_old"] == pytest.approx(((-gaps).exp() + gaps - 1).sum().item() / 5, rel=1e-4)
    assert metrics["clip_fraction"] == 0


def test_the_clip_fraction_counts_sampled_tokens():
    """A clip range of 0.05: beyond it against their advantage are 0.1 of the first row alone."""
    objective = GRPO(advantage_eps=0.0, **{**LOSS, "clip_low": 0.05, "clip_high": 0.05})
    assert loss_and_gradient(objective, prepared(objective))[2]["clip_fraction"] == pytest.approx(1 / 5)


def test_a_mean_over_responses_divides_by_their_sampled_tokens():
    objective = GRPO(advantage_eps=0.0, **{**LOSS, "aggregation": "seq-mean-token-mean"})
    batch = prepared(objective)
    loss, grad, _ = loss_and_gradient(objective, batch)
    assert objective.denominator(batch.loss_mask()).item() == 2
    assert loss == pytest.approx(-A * (sum(ratios(0)) / 3 - sum(ratios(1)) / 2) / 2, rel=1e-4)
    by_hand = at_sampled([-A * nu / 6 for nu in ratios(0)], [A * nu / 4 for nu in ratios(1)])
    torch.testing.assert_close(grad, by_hand, rtol=1e-5, atol=0)


def test_gspo_takes_the_mean_log_ratio_of_the_sampled_tokens():
    """Of .1, -.05 and .04, which is .03; of .06 and -.02, which is .02. Each token has 1 / |y| of it."""
    objective = GSPO(advantage_eps=0.0, **{**LOSS, "aggregation": "seq-mean-token-mean"})
    loss, grad, _ = loss_and_gradient(objective, prepared(objective))
    assert loss == pytest.approx(-A * (math.exp(0.03) - math.exp(0.02)) / 2, rel=1e-4)
    by_hand = at_sampled([-A * math.exp(0.03) / 6] * 3, [A * math.exp(0.02) / 4] * 2)
    torch.testing.assert_close(grad, by_hand, rtol=1e-5, atol=0)


def test_dr_grpo_divides_by_its_constant():
    """Two responses times 10 tokens, whatever was sampled or inserted; advantages +-1/2."""
    objective = DrGRPO(max_response_tokens=10, **LOSS)
    batch = prepared(objective)
    assert objective.denominator(batch.loss_mask()).item() == 20
    loss, grad, _ = loss_and_gradient(objective, batch)
    assert loss == pytest.approx(-0.5 * (sum(ratios(0)) - sum(ratios(1))) / 20, rel=1e-5)
    by_hand = at_sampled([-0.5 * nu / 20 for nu in ratios(0)], [0.5 * nu / 20 for nu in ratios(1)])
    torch.testing.assert_close(grad, by_hand, rtol=1e-5, atol=0)


def test_cispo_weighs_the_log_probabilities_of_sampled_tokens():
    objective = CISPO(advantage_eps=0.0, **{**LOSS, "clip_low": 1.0, "clip_high": 0.05})
    _, grad, metrics = loss_and_gradient(objective, prepared(objective))
    # exp(.1) and exp(.06) are above the bound of 1.05.
    first, second = [min(nu, 1.05) for nu in ratios(0)], [min(nu, 1.05) for nu in ratios(1)]
    by_hand = at_sampled([-A * w / 5 for w in first], [A * w / 5 for w in second])
    torch.testing.assert_close(grad, by_hand, rtol=1e-5, atol=0)
    assert metrics["clip_fraction"] == pytest.approx(2 / 5)


def test_the_kl_penalty_is_a_mean_over_sampled_tokens():
    """Without a signal only k3 is left: its slope in log pi is 1 - exp(d), d = log pi_ref - log pi."""
    objective = GRPO(advantage_eps=0.0, **{**LOSS, "kl_coef": 0.3})
    d = torch.tensor([0.3, -0.2, 0.1, 0.5, -0.4])
    reference = (OLD + GAPS).masked_scatter(SAMPLED, (OLD + GAPS)[SAMPLED] + d)
    batch = replace(prepared(objective, ref_logprobs=reference), advantages=torch.zeros(2, 5))
    assert batch.contributing_rows().tolist() == [True, True]
    loss, grad, metrics = loss_and_gradient(objective, batch)
    k3 = (d.exp() - d - 1).sum().item() / 5
    assert metrics["kl_ref"] == pytest.approx(k3, rel=1e-4)
    assert loss == pytest.approx(0.3 * k3, rel=1e-4)
    slope = (0.3 * (1 - d.exp()) / 5).tolist()
    torch.testing.assert_close(grad, at_sampled(slope[:3], slope[3:]), rtol=1e-4, atol=1e-7)


def ppo(**changes) -> PPO:
    critic = CriticConfig(learning_rate_scale=1.0, value_clip=0.5, warmup_iterations=0)
    return PPO(
        **{"gamma": 1.0, "gae_lambda": 1.0, "kl_reward_coef": 0.0, "critic": critic, **LOSS, **changes}
    )


VALUES = at_sampled([0.5, 0.25, 0.75], [0.25, 0.5])


def test_ppo_estimates_and_whitens_at_sampled_tokens():
    """With gamma = lambda = 1 the return is the reward: r - V is .5 .75 .25 and -.25 -.5.

    Their mean is .15 and their unbiased variance (1.1875 - 5 * .15^2) / 4 = .26875.
    """
    batch = prepared(ppo(), values=VALUES)
    scale = 1 / math.sqrt(0.26875 + 1e-8)
    raw = at_sampled([0.5, 0.75, 0.25], [-0.25, -0.5])
    torch.testing.assert_close(batch.advantages, (raw - 0.15) * scale * SAMPLED, rtol=1e-5, atol=1e-7)
    assert torch.equal(batch.attribution, batch.advantages)
    assert batch.value_targets is not None
    assert torch.equal(batch.value_targets.returns, at_sampled([1.0] * 3, [0.0] * 2))


def test_traces_of_gae_decay_from_turn_to_turn_as_within_one():
    """Lambda = 1/2. Residuals -.25 .5 .25 add up to advantages .0625 .625 .25, and .25 -.5 to 0 -.5."""
    batch = prepared(ppo(gae_lambda=0.5), values=VALUES)
    assert batch.value_targets is not None
    wanted = at_sampled([0.5 + 0.0625, 0.25 + 0.625, 0.75 + 0.25], [0.25 + 0.0, 0.5 - 0.5])
    torch.testing.assert_close(batch.value_targets.returns, wanted, rtol=1e-6, atol=1e-7)


def test_the_leave_one_out_baseline_gives_an_episode_one_advantage():
    """Rewards 1 and 0, each less the other."""
    batch = prepared(RLOO(**LOSS))
    assert torch.equal(batch.advantages, at_sampled([1.0] * 3, [-1.0] * 2))


def test_the_retrospective_update_weighs_sampled_tokens_by_coefficient_and_attribution():
    """With phi = -1/2 and attributions of +-1; no ratio leaves 1 +- 0.2, so that nothing is clipped."""
    objective = GRPO(advantage_eps=0.0, **LOSS)
    batch = prepared(objective)
    again = batch.reweighted(-0.5 * batch.attribution, kl_coef=0.0)
    loss, grad, _ = loss_and_gradient(objective, again)
    assert loss == pytest.approx(0.5 * (sum(ratios(0)) - sum(ratios(1))) / 5, rel=1e-4)
    by_hand = at_sampled([0.1 * nu for nu in ratios(0)], [-0.1 * nu for nu in ratios(1)])
    torch.testing.assert_close(grad, by_hand, rtol=1e-5, atol=0)


def test_ppo_puts_the_kl_penalty_and_the_reward_on_sampled_tokens():
    """Gamma = 0: the return of a token is its own reward, -beta k1, and on the last sampled one also r."""
    reference = at_sampled([-1.2, -1.8, -0.9], [-1.0, -0.5])
    batch = prepared(ppo(gamma=0.0, kl_reward_coef=0.5), values=VALUES, ref_logprobs=reference)
    # k1 = .2 -.2 .4 and -.5 .25.
    assert batch.value_targets is not None
    wanted = at_sampled([-0.1, 0.1, -0.2 + 1.0], [0.25, -0.125 + 0.0])
    torch.testing.assert_close(batch.value_targets.returns, wanted, rtol=1e-5, atol=1e-6)


def distilling() -> SDPO:
    form = DistillationForm(kind="reverse-kl", alpha=None, top_k=None)
    options = Distillation(
        form=form,
        from_siblings=True,
        from_feedback=False,
        success_threshold=0.5,
        teacher_average=1.0,
        ratio_cap=None,
        drop_thoughts=False,
        feedback_beside_solution=True,
    )
    return SDPO(distillation=options, **LOSS)


def test_distillation_covers_the_sampled_tokens_of_responses_with_a_teacher():
    """The first response has one: three tokens. log teacher - log student is .5 there."""
    teacher = TeacherAnnotation(prompt_ids=((8, 9), None), logprobs=(OLD + 0.5) * SAMPLED)
    objective = distilling()
    batch = prepared(objective, teacher=teacher, importance=at_sampled([2.0, 1.0, 0.5], [1.0, 1.0]))
    torch.testing.assert_close(batch.attribution, at_sampled([1.0, 0.5, 0.25], [0, 0]), rtol=1e-6, atol=1e-7)
    assert objective.denominator(batch.loss_mask()).item() == 3
    (micro,) = micro_batches(batch, torch.tensor([0]), 10**6)
    assert micro.teacher_rows is not None
    assert micro.teacher_rows.targets.tolist() == micro.rows.targets.tolist() == [11, 12, 15]
    divergence = torch.tensor([[0.1, 0.2, 9.0, 9.0, 0.3]])
    found = objective.loss(divergence, micro, 3.0)
    assert found.value.item() == pytest.approx((2.0 * 0.1 + 0.2 + 0.5 * 0.3) / 3)
    total, count = found.metrics["divergence"]
    assert (total.item(), count.item()) == (pytest.approx(0.6), 3)


def test_the_samplers_distance_is_that_of_sampled_tokens():
    """Over the response: .1 - .05 + .04 = .09 and .06 - .02 = .04, not what stands at 2 and 3."""
    level = ImportanceCorrection(level="sequence", cap=2.0)
    whole = importance_weights(OLD + GAPS, OLD, SAMPLED, level)
    wanted = at_sampled([math.exp(0.09)] * 3, [math.exp(0.04)] * 2)
    torch.testing.assert_close(whole, wanted, rtol=1e-5, atol=0)
    each = importance_weights(OLD + GAPS, OLD, SAMPLED, level.model_copy(update={"level": "token"}))
    torch.testing.assert_close(each, at_sampled(ratios(0), ratios(1)), rtol=1e-5, atol=0)
    batch = prepared(GRPO(advantage_eps=0.0, **LOSS), importance=each)
    torch.testing.assert_close(
        batch.advantages,
        at_sampled([A * w for w in ratios(0)], [-A * w for w in ratios(1)]),
        rtol=1e-5,
        atol=0,
    )


def test_a_rows_weight_is_a_mean_over_its_sampled_tokens():
    assert row_weights(at_sampled([3.0, -1.0, 2.0], [1.0, 0.0]), SAMPLED).tolist() == [2.0, 0.5]


# ---------------------------------------------------------------- models


@pytest.fixture(scope="module")
def policy():
    return toy.make_policy()


def alone(policy, row: int) -> torch.Tensor:
    """Logits before each token of a response, [length, V], from a forward pass without any of our code."""
    response = IDS[row][REAL[row]]
    ids = torch.cat([torch.tensor(PROMPT), response])[None]
    logits: torch.Tensor = policy.model(input_ids=ids).logits[0, len(PROMPT) - 1 : -1]
    return logits


def test_inserted_tokens_are_read_and_not_scored(policy):
    rows = pack((PROMPT,), 2, IDS, torch.tensor([5, 2]), SAMPLED, range(2))
    assert rows.targets.tolist() == [11, 12, 15, 21, 22]
    assert rows.input_ids.tolist() == [*PROMPT, 11, 12, 13, 14, 21]
    found = unflatten(policy(rows, 1.0), SAMPLED)
    for row in range(2):
        said = alone(policy, row).log_softmax(-1).gather(1, IDS[row][REAL[row]][:, None])[:, 0]
        wanted = torch.where(SAMPLED[row][REAL[row]], said, torch.zeros_like(said))
        torch.testing.assert_close(found[row][REAL[row]], wanted, rtol=0, atol=1e-5)
    # Context: another reply changes what is thought of the token behind it, and of nothing before.
    other = IDS.clone()
    other[0, 2] = 40
    changed = unflatten(
        policy(pack((PROMPT,), 2, other, torch.tensor([5, 2]), SAMPLED, range(2)), 1.0), SAMPLED
    )
    assert (changed != found)[0, 4]
    torch.testing.assert_close(changed[:, :4], found[:, :4], rtol=0, atol=1e-6)


def test_models_are_asked_about_sampled_tokens(policy):
    options = {"temperature": 1.0, "token_budget": 64, "device": torch.device("cpu"), "passes": lambda n: n}
    scores = score_responses(policy, rollouts(), **options)
    assert torch.equal(scores != 0, SAMPLED)
    critic = Critic(toy.make_policy())
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(3))
    values = score_responses(critic, rollouts(), **options)
    assert torch.equal(values != 0, SAMPLED)
    whole = score_responses(critic, rollouts(sampled=REAL), **options)
    torch.testing.assert_close(values, whole * SAMPLED, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [GRPO, GSPO, CISPO])
def test_the_gradient_is_that_of_all_logits_and_zero_at_inserted_tokens(kind):
    """The loss from the logits of each row alone: no gradient reaches those that predict a reply."""
    changes = {"clip_low": 1.0, "clip_high": 9.0, "kl_coef": 0.2}
    objective = kind(advantage_eps=0.0, **{**LOSS, **changes})
    batch = prepared(objective, ref_logprobs=(OLD - 0.3) * SAMPLED)
    (micro,) = micro_batches(batch, torch.arange(2), 10**6)

    packed, plain = toy.make_policy(), toy.make_policy()
    logprobs = unflatten(packed(micro.rows, 1.0), micro.sampled)
    objective.loss(logprobs, micro, 5.0).value.backward()

    logits = [alone(plain, row) for row in range(2)]
    for each in logits:
        each.retain_grad()
    said = [each.log_softmax(-1).gather(1, IDS[i, : len(each), None])[:, 0] for i, each in enumerate(logits)]
    by_row = torch.nn.utils.rnn.pad_sequence(said, batch_first=True)
    objective.loss(by_row, micro, 5.0).value.backward()

    for row, each in enumerate(logits):
        moved = each.grad.abs().sum(dim=1) > 0
        assert torch.equal(moved, SAMPLED[row][REAL[row]])
    pairs = zip(packed.parameters(), plain.parameters(), strict=True)
    assert sum(int((a.grad.abs() > 0).sum()) for a, _ in pairs) > 1000
    for mine, theirs in zip(packed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def test_an_idle_pass_scores_nothing():
    micro = idle_micro_batch(prepared(GRPO(advantage_eps=0.0, **LOSS)))
    assert not micro.sampled.any()
    assert len(micro.rows.targets) == 0


# ---------------------------------------------------------------- records


def test_only_tokens_of_a_response_are_sampled():
    stray = SAMPLED.clone()
    stray[1, 3] = True
    with pytest.raises(ValueError, match=r"^sampled: row 1 is True on padding"):
        rollouts(sampled=stray)
    batch = prepared(GRPO(advantage_eps=0.0, **LOSS))
    with pytest.raises(ValueError, match=r"^sampled: row 1 is True on padding"):
        replace(batch, sampled=stray)
    gap = REAL.clone()
    gap[1] = torch.tensor([True, False, True, False, False])
    with pytest.raises(ValueError, match=r"^response_mask: row 1 has padding before a response token"):
        rollouts(real=gap)


def test_what_was_not_sampled_has_no_log_probability():
    told = rollouts().completions
    with pytest.raises(ValueError, match=r"^logprobs: row 0 has one for a token that was not sampled"):
        replace(told, logprobs=told.logprobs - 0.5 * (REAL & ~SAMPLED))


def test_both_lengths_and_both_masks_go_along():
    told = rollouts().completions
    assert told.lengths.tolist() == [5, 2]
    assert told.sampled_lengths.tolist() == [3, 2]
    swapped = told.rows(torch.tensor([1, 0]))
    assert torch.equal(swapped.sampled, SAMPLED.flip(0))
    short = rollouts(IDS[:, :2], REAL[:, :2], SAMPLED[:, :2]).completions
    joined = Completions.join([short, told])
    assert torch.equal(joined.sampled[2:], SAMPLED)
    assert joined.sampled[:2].sum(dim=1).tolist() == [2, 2]
    stored = prepared(GRPO(advantage_eps=0.0, **LOSS)).to_plain()
    assert torch.equal(PolicyBatch.from_plain(stored).sampled, SAMPLED)
