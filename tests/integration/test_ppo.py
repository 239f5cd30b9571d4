"""PPO on a toy: what the critic says, what it learns, and what policy improvement leaves alone."""

from __future__ import annotations

import copy
import statistics
from typing import Any

import pytest
import torch

from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.functional.advantages import moments
from pipo.functional.value import explained_variance
from pipo.modules.hooks import RolloutCallback
from pipo.modules.objectives.base import CriticConfig
from pipo.modules.objectives.ppo import PPO
from pipo.runs.checkpoints import finished_checkpoints
from tests import toy
from tests.policies import packed


def ppo(*, scale: float = 10.0, warmup: int = 0, value_clip: float = 0.5, **changes: Any) -> PPO:
    options: dict[str, Any] = {
        "clip_low": 0.2,
        "clip_high": 0.2,
        "dual_clip": 3.0,
        "aggregation": "token-mean",
        "kl_coef": 0.0,
        "kl_reward_coef": 0.0,
        "gamma": 1.0,
        "gae_lambda": 1.0,
    }
    critic = CriticConfig(learning_rate_scale=scale, value_clip=value_clip, warmup_iterations=warmup)
    return PPO(critic=critic, **{**options, **changes})


class Rewards(RolloutCallback):
    """Keeps what the verifier said."""

    def __init__(self) -> None:
        self.rewards: list[torch.Tensor] = []

    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        self.rewards.append(rollouts.rewards.clone())


class Updates(RolloutCallback):
    """Name and batch of every policy update."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def on_train_start(self, trainer, pl_module) -> None:
        original = pl_module.policy_update

        def spy(batch, *, prefix, **kwargs):
            self.calls.append((prefix, batch))
            return original(batch, prefix=prefix, **kwargs)

        pl_module.policy_update = spy


class CriticState(RolloutCallback):
    """The critic's weights, gradients and Adam state at this place among the callbacks."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        gradients = [p.grad for p in module.critic.parameters()]
        adam = trainer.optimizers[1].state_dict()["state"]
        state = {"weights": module.critic.state_dict(), "gradients": gradients, "adam": adam}
        self.seen.append(copy.deepcopy(state))


def same(first: Any, second: Any) -> bool:
    """Bit for bit, through nested dictionaries and lists."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def explained(batches) -> float:
    """Share of the variance of the returns of all these batches that the critic predicted."""
    masks = [batch.response_mask for batch in batches]
    values, returns = (
        torch.cat([getattr(b.value_targets, name)[m] for b, m in zip(batches, masks, strict=True)])[None]
        for name in ("old_values", "returns")
    )
    mask = torch.ones_like(values, dtype=torch.bool)
    return explained_variance(moments(returns, mask), moments(returns - values, mask))


def test_first_advantages_are_the_whitened_returns():
    """The critic starts at zero, so with gamma = lambda = 1 a token's advantage is its return.

    The return of every token is the reward of its response: nothing is discounted, and there is no KL term.
    """
    record, rewards = toy.Record(), Rewards()
    toy.fit(toy.module(ppo()), [record, rewards], 1)
    batch, mask = record.batches[0], record.batches[0].response_mask
    expected = rewards.rewards[0][:, None] * mask
    assert 0 < rewards.rewards[0].mean() < 1
    assert not batch.value_targets.old_values.any()
    assert torch.equal(batch.value_targets.returns, expected)
    # Whitening by hand over the n response tokens: (x - mean) / sqrt(sum (x - mean)^2 / (n - 1) + 1e-8).
    x = expected[mask].double()
    n, mean = len(x), x.sum() / len(x)
    by_hand = (x - mean) / ((x - mean).square().sum() / (n - 1) + 1e-8).sqrt()
    torch.testing.assert_close(batch.advantages[mask].double(), by_hand, rtol=1e-5, atol=1e-6)
    assert (batch.advantages[~mask] == 0).all()


def test_advantages_have_mean_zero_and_unbiased_variance_one_over_the_tokens_of_the_batch():
    record = toy.Record()
    toy.fit(toy.module(ppo(), mini_batch=8), [record], 4)
    for batch in record.batches:
        tokens = batch.advantages[batch.response_mask].double()
        assert tokens.mean().item() == pytest.approx(0, abs=1e-6)
        # Unbiased: the sum of squares over n - 1. The 1e-8 in the root is far below the tolerance.
        assert (tokens.square().sum() / (len(tokens) - 1)).item() == pytest.approx(1, rel=1e-5)


def test_the_critic_and_delta_by_hand_once_the_critic_has_learned():
    """A_t = sum of deltas from t on = R - V_t at gamma = lambda = 1, before whitening; returns stay R."""
    record, rewards = toy.Record(), Rewards()
    toy.fit(toy.module(ppo()), [record, rewards], 3)
    batch, mask = record.batches[2], record.batches[2].response_mask
    values, returns = batch.value_targets.old_values, batch.value_targets.returns
    assert values[mask].abs().min() > 0
    expected = rewards.rewards[2][:, None].expand(mask.shape)
    torch.testing.assert_close(returns[mask], expected[mask], rtol=0, atol=1e-6)
    raw = (expected - values)[mask].double()
    by_hand = (raw - raw.mean()) / (raw.var(correction=1) + 1e-8).sqrt()
    torch.testing.assert_close(batch.advantages[mask].double(), by_hand, rtol=1e-4, atol=1e-5)


def test_attribution_is_the_advantage_as_the_base_used_it_and_the_critic_is_not_touched():
    """Policy improvement leaves the critic's weights and its Adam state bit for bit as they were."""
    updates, record, before, after = Updates(), toy.Record(), CriticState(), CriticState()
    toy.fit(toy.module(ppo()), [updates, record, before, toy.pipo(window=2), after], 6)
    base = [batch for prefix, batch in updates.calls if prefix == "policy"]
    assert all(torch.equal(batch.attribution, batch.advantages) for batch in base)
    applied = [i for i, m in enumerate(record.metrics) if m["pipo/applied"] == 1]
    assert applied
    retrospective = [batch for prefix, batch in updates.calls if prefix == "pipo"]
    for iteration, batch in zip(applied, retrospective, strict=True):
        assert before.seen[iteration]["adam"], "the critic has not stepped yet: nothing was tested"
        assert same(before.seen[iteration], after.seen[iteration])
        assert batch.value_targets is None
        expected = base[iteration - 1].advantages * record.metrics[iteration]["pipo/coefficient"]
        torch.testing.assert_close(batch.advantages, expected, rtol=1e-5, atol=0)
    # The critic moves in every iteration, so a step in the wrong place would have shown.
    assert not same(before.seen[0]["weights"], before.seen[1]["weights"])


def test_the_critic_learns():
    """Every prompt has a reward of its own here, so the critic can know it from the prompt."""

    class ByPrompt(toy.ToyTask):
        def grade(self, examples, responses):
            numbers = [int(example.uid.rpartition("/")[2]) for example in examples]
            return [toy.Reward(score=float(number % 2 == 0)) for number in numbers]

    record, module = toy.Record(), toy.module(ppo(), learning_rate=1e-3, group_size=8, mini_batch=64)
    module.collector.task = ByPrompt()
    toy.fit(module, [record], 36)
    loss = [metrics["value/loss"] for metrics in record.metrics]
    # Zero values explain nothing, 1 - Var(R - 0) / Var(R) = 0, and lose half the mean square of the returns,
    # that is half the share of tokens in rewarded responses (one optimiser step per iteration here).
    first = record.batches[0]
    rewarded = first.value_targets.returns[first.response_mask].mean().item()
    assert loss[0] == pytest.approx(0.5 * rewarded, rel=1e-5)
    assert explained(record.batches[:1]) == pytest.approx(0, abs=1e-12)
    # 24 prompts, 4 per iteration: six iterations see every prompt once.
    assert explained(record.batches[-6:]) > 0.6
    assert statistics.mean(loss[-6:]) < 0.25 * statistics.mean(loss[:6])


def test_warm_up_trains_the_critic_alone():
    """The policy stays bit-identical for two iterations, and policy improvement waits until they are over."""
    updates, record = Updates(), toy.Record()
    closed_loop = toy.pipo(window=2)
    toy.fit(toy.module(ppo(warmup=2)), [updates, record, closed_loop], 6)
    start = toy.make_policy().state_dict()
    for done in (0, 1):
        weights = record.weights[done]
        assert all(torch.equal(weights[f"policy.{name}"], value) for name, value in start.items())
        assert weights["critic.head.weight"].abs().max() > 0
        assert not any(name.startswith(("pipo/", "policy/")) for name in record.metrics[done])
        assert record.metrics[done]["value/grad_norm"] > 0
    assert any(not torch.equal(record.weights[2][f"policy.{n}"], v) for n, v in start.items())
    # Updates begin with iteration 2; the window of two is full of later rewards before the first comparison.
    assert [prefix for prefix, _ in updates.calls[:2]] == ["policy", "policy"]
    assert [s.policy_learns for s in record.stats] == [False, False, True, True, True, True]
    assert next(i for i, m in enumerate(record.metrics) if "pipo/progress" in m) == 4


def test_warm_up_leaves_adam_of_the_policy_without_any_state():
    trainer = toy.fit(toy.module(ppo(warmup=3)), [], 3)
    assert not trainer.optimizers[0].state
    assert all(state["step"] == 3 for state in trainer.optimizers[1].state.values())


def test_kl_in_the_reward_lowers_the_rewards_of_the_tokens():
    """R_t = r - 0.1 * sum over tokens from t on of (log pi - log pi_ref), worked with full forward passes."""
    record, rewards = toy.Record(), Rewards()
    toy.fit(toy.module(ppo(kl_reward_coef=0.1), learning_rate=0.03), [record, rewards], 3)
    # The reference is the initial policy, so the first batch pays nothing (up to rounding in the sampler).
    first = record.batches[0]
    torch.testing.assert_close(
        first.value_targets.returns, rewards.rewards[0][:, None] * first.response_mask, rtol=0, atol=1e-5
    )
    batch, reference = record.batches[2], toy.make_policy()
    paid = 0.0
    for i, mask in enumerate(batch.response_mask):
        prompt, response = torch.tensor(batch.prompt_ids[i // 4]), batch.response_ids[i][mask]
        ids = torch.cat([prompt, response])[None]
        with torch.no_grad():
            said = reference(packed(ids, torch.arange(ids.shape[1])[None] >= len(prompt)), 1.0)
        penalty = 0.1 * (batch.old_logprobs[i][mask] - said)
        still_to_pay = penalty.flip(0).cumsum(0).flip(0)
        expected = rewards.rewards[2][i] - still_to_pay
        torch.testing.assert_close(batch.value_targets.returns[i][mask], expected, rtol=1e-4, atol=1e-5)
        paid += penalty.sum().item()
    # The sum over all tokens estimates KL(pi || pi_ref) > 0: on the whole the rewards are lower.
    assert paid > 0.1
    # Nor does the penalty reach what policy improvement compares.
    assert record.stats[2].mean_reward == pytest.approx(rewards.rewards[2].mean().item())


def test_the_critics_learning_rate_is_a_multiple_of_the_policys():
    module = toy.module(ppo(scale=10.0), learning_rate=0.004, warmup_iterations=4)
    seen = []

    class Rates(RolloutCallback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            seen.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])

    trainer = toy.fit(module, [Rates()], 5)
    # Linear over 4 iterations for both: 1/4, 2/4, 3/4, 4/4 of 0.004 and of 0.04, then constant.
    assert [policy for policy, _ in seen] == pytest.approx([0.001, 0.002, 0.003, 0.004, 0.004])
    assert [critic for _, critic in seen] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.04])
    # No parameter in both optimisers: the critic's backbone is a copy of its own.
    policy, critic = ({id(p) for g in o.param_groups for p in g["params"]} for o in trainer.optimizers)
    assert policy
    assert critic
    assert not policy & critic


@pytest.mark.parametrize(("warmup", "stop"), [(0, 3), (2, 1)])
def test_resume_equals_the_uninterrupted_run_bit_for_bit(tmp_path, warmup, stop):
    """Critic, both optimisers and the closed loop's memory; also when stopped during the critic's warm-up."""
    whole, first, second = toy.Record(), toy.Record(), toy.Record()
    objective = {"warmup": warmup, "kl_reward_coef": 0.01}
    uninterrupted = toy.fit(toy.module(ppo(**objective)), [whole, toy.pipo(window=2)], 7)

    class Stop(toy.pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = batch_idx + 1 == stop

    saving = IterationCheckpoint(folder=str(tmp_path), every=100, keep=1, best=False)
    toy.fit(toy.module(ppo(**objective)), [first, toy.pipo(window=2), Stop(), saving], 7)
    (checkpoint,) = finished_checkpoints(tmp_path)
    resumed = toy.fit(toy.module(ppo(**objective)), [second, toy.pipo(window=2)], 7, checkpoint)
    assert "critic.head.weight" in second.weights[-1]
    assert same(second.weights, whole.weights[stop:])
    for one, other in zip(uninterrupted.optimizers, resumed.optimizers, strict=True):
        assert same(one.state_dict(), other.state_dict())
    assert any(m.get("pipo/applied") == 1 for m in second.metrics)


def test_one_response_per_prompt(monkeypatch):
    def data(iterations: int):
        made = toy.PromptDataModule(
            toy.IterationDataset(
                toy.ToyTask().examples("train"),
                [(2 + i, 3 + i % 5) for i in range(24)],
                prompts_per_iteration=24,
                iterations=iterations,
                seed=7,
                shuffle=True,
                repeat_after=None,
            )
        )
        return made

    monkeypatch.setattr(toy, "data", data)
    record = toy.Record()
    toy.fit(toy.module(ppo(), group_size=1, mini_batch=12), [record, toy.pipo(window=2)], 5)
    assert all(len(batch) == len(batch.prompt_ids) == 24 for batch in record.batches)
    # There are no groups, hence no groups without variance.
    assert not any("zero_variance" in name for metrics in record.metrics for name in metrics)
    assert all(metrics["policy/grad_norm"] > 0 for metrics in record.metrics)
    assert any(metrics["pipo/applied"] == 1 for metrics in record.metrics)
