"""One precision for sampling, scoring, updates and evaluation, whoever asks."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from pipo.build import check_products
from pipo.config.tree import StrategyConfig
from pipo.distributed.hardware import Hardware
from pipo.errors import ConfigError
from pipo.functional.divergence import DistillationForm
from pipo.lm.critic import Critic
from pipo.lm.model_files import parameter_count
from pipo.lm.policy import Policy
from pipo.modules.annotator import Annotator
from pipo.modules.hooks import RolloutCallback
from pipo.modules.objectives.gspo import GSPO
from pipo.rollout.local import LocalEngine
from tests import toy
from tests.policies import make_policy, packed

IDS = torch.randint(2, 48, (3, 12), generator=torch.Generator().manual_seed(1))
MASK = torch.arange(12).expand(3, -1) >= 4


def policy(compute_dtype: torch.dtype | None):
    made = toy.make_policy()
    made.compute_dtype = compute_dtype
    return made


def test_log_probabilities_are_those_of_the_model_under_autocast():
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = toy.make_policy().model(input_ids=IDS).logits[:, 3:-1].float() / 0.7
    expected = logits.log_softmax(-1).gather(-1, IDS[:, 4:, None]).view(-1)
    with torch.no_grad():
        got, exact = policy(torch.bfloat16)(packed(IDS, MASK), 0.7), policy(None)(packed(IDS, MASK), 0.7)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert (got - exact).abs().max() > 1e-3


def test_sampling_computes_in_the_same_precision_outside_a_training_step():
    """bfloat16 moves these log-probabilities by 1e-2 and more; sampled ones lie nearer to their own kind."""
    engine = LocalEngine(policy(torch.bfloat16), toy.ENGINE)
    prompts = [tuple(row) for row in IDS[:, :4].tolist()]
    drawn = engine.generate(prompts, 8, toy.sampling(stop_token_ids=frozenset({99})), 3)
    ids = torch.cat([IDS[:, :4].repeat_interleave(8, 0), drawn.response_ids], 1)
    mask = torch.arange(9).expand(24, -1) >= 4
    with torch.no_grad():
        own, exact = (policy(dtype)(packed(ids, mask), 1.0) for dtype in (torch.bfloat16, None))
    sampled = drawn.logprobs.view(-1)
    assert (sampled - own).abs().mean() < 0.5 * (sampled - exact).abs().mean()


@pytest.mark.parametrize("blockwise", [False, True])
def test_gradients_in_bfloat16_are_those_of_float32_but_for_rounding(monkeypatch, blockwise):
    """Also where the head's logits are computed block by block, again in the backward pass."""
    if blockwise:
        monkeypatch.setattr("pipo.lm.logprobs.BLOCK_LOGITS", 1)
    gradients = []
    for dtype in (torch.bfloat16, None):
        model = policy(dtype)
        model(packed(IDS, MASK), 1.0).mean().backward()
        gradients.append(torch.cat([p.grad.view(-1) for p in model.parameters()]))
    rounded, exact = gradients
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.05


def test_a_distilled_gradient_in_bfloat16_too():
    form = DistillationForm(kind="reverse-kl", alpha=None, top_k=None)
    gradients = []
    for dtype in (torch.bfloat16, None):
        model, teacher = policy(dtype), toy.make_policy(seed=3)
        teacher.compute_dtype = dtype
        target = teacher.distillation_target(packed(IDS, MASK), form)
        model(packed(IDS, MASK), 1.0, target).mean().backward()
        gradients.append(torch.cat([p.grad.view(-1) for p in model.parameters()]))
    rounded, exact = gradients
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.05


def test_values_are_float32_products_of_a_backbone_in_bfloat16():
    critic, exact = Critic(policy(torch.bfloat16)), Critic(policy(None))
    for each in (critic, exact):
        torch.nn.init.constant_(each.head.weight, 0.1)
    with torch.no_grad():
        got, expected = critic(packed(IDS, MASK)), exact(packed(IDS, MASK))
    assert got.dtype == torch.float32
    assert 0 < (got - expected).abs().max() < 0.1


class UpdateTwice(RolloutCallback):
    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        module.policy_update(batch, prefix="first")
        module.policy_update(batch, prefix="second")


def test_the_second_update_of_an_iteration_sees_what_the_first_did():
    """Casts of weights from before a step must not serve the forward passes after it.

    Held over the whole training step, autocast keeps them: every later update would find the ratio at 1 and
    the policy exactly where it was sampled.
    """
    record = toy.Record()
    toy.fit(toy.module(compute_dtype=torch.bfloat16), [UpdateTwice(), record], 1)
    (metrics,) = record.metrics
    assert metrics["second/kl_old"] > 10 * metrics["first/kl_old"]
    assert metrics["second/kl_old"] > 1e-3


def gspo() -> GSPO:
    """A trust region of a few ten-thousandths, which the rounding of bfloat16 leaves by far."""
    return GSPO(
        clip_low=3e-4,
        clip_high=4e-4,
        dual_clip=None,
        aggregation="seq-mean-token-mean",
        kl_coef=0.0,
        advantage_eps=1e-6,
    )


def first_iteration(monkeypatch, seed=0, tokens=64, **options):
    """Metrics, batch, sampled log-probabilities and scoring passes of an iteration with one step."""
    scored, sampled = [], []

    class Keep(RolloutCallback):
        def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
            sampled.append(rollouts.completions.logprobs)

    score = Annotator.score
    monkeypatch.setattr(Annotator, "score", lambda *a, **k: scored.append(a[1]) or score(*a, **k))
    monkeypatch.setattr(toy, "make_policy", lambda: make_policy(seed))
    record = toy.Record()
    toy.fit(toy.module(gspo(), tokens=tokens, **options), [Keep(), record], 1)
    return record.metrics[0], record.batches[0], sampled[0], scored


@pytest.mark.parametrize(("seed", "tokens"), [(0, 64), (0, 23), (1, 4096), (2, 64)])
def test_what_was_sampled_in_bfloat16_is_scored_again_and_on_policy_nothing_is_clipped(
    monkeypatch, seed, tokens
):
    """However the rows are put together: at 23 tokens the groups of the update round otherwise."""
    metrics, batch, sampled, scored = first_iteration(monkeypatch, seed, tokens, compute_dtype=torch.bfloat16)
    assert len(scored) == 1
    assert isinstance(scored[0], Policy)
    gap = (batch.old_logprobs - sampled)[batch.response_mask].abs()
    assert metrics["rollout/logprob_diff"] == pytest.approx(gap.mean().item(), rel=1e-5)
    assert metrics["rollout/logprob_diff_max"] == pytest.approx(gap.max().item(), rel=1e-5)
    assert metrics["rollout/logprob_diff"] > 1e-3
    assert metrics["policy/grad_norm"] > 0
    assert metrics["policy/clip_fraction"] == 0
    assert metrics["policy/kl_old"] == 0


def test_what_was_sampled_in_float32_is_not_scored_again(monkeypatch):
    metrics, batch, sampled, scored = first_iteration(monkeypatch)
    assert scored == []
    assert batch.old_logprobs is sampled
    assert metrics["rollout/logprob_diff"] == 0
    assert metrics["policy/clip_fraction"] == 0


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_shortened_products_of_float32_are_scored_again_too(monkeypatch, precision):
    torch.set_float32_matmul_precision(precision)
    try:
        scored = first_iteration(monkeypatch)[-1]
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(scored) == 1


class MoveFirst(RolloutCallback):
    """As policy improvement does: an update before the base update."""

    def on_rollouts_ready(self, trainer, module, rollouts, batch, stats) -> None:
        module.policy_update(batch.reweighted(batch.attribution, kl_coef=0.0), prefix="first")


def test_once_the_policy_has_moved_its_ratio_is_measured():
    record = toy.Record()
    toy.fit(toy.module(gspo(), compute_dtype=torch.bfloat16), [MoveFirst(), record], 1)
    (metrics,) = record.metrics
    assert metrics["first/kl_old"] == 0
    assert metrics["policy/kl_old"] > 1e-4
    assert metrics["policy/clip_fraction"] > 0


def test_a_gpu_computes_in_float32_only_with_small_models_or_when_told(tmp_path):
    """Embedding and head have 200 million parameters each, or share them; the layers have 128 million."""

    def strategy(compute_dtype: str | None) -> StrategyConfig:
        return StrategyConfig.model_validate(
            {
                "compute_dtype": compute_dtype,
                "sharding": None,
                "timeout_s": 7200,
                "tokens_per_micro_batch": 8,
            }
        )

    cpu, cuda = (
        Hardware.model_validate({"accelerator": kind, "devices": 1, "num_nodes": 1, "strategy": "single"})
        for kind in ("cpu", "cuda")
    )

    layers = {"hidden_size": 1000, "intermediate_size": 4000, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 10, "num_key_value_heads": 10, "vocab_size": 200_000}
    for name, tied in (("small", True), ("large", False)):
        LlamaConfig(**layers, **heads, tie_word_embeddings=tied).save_pretrained(tmp_path / name)
    small, large = str(tmp_path / "small"), str(tmp_path / "large")
    # Of a layer: 4 x 1,000^2 in attention, 3 x 1,000 x 4,000 beside it, two norms; one more norm at the end.
    rest = 8 * (4 * 10**6 + 12 * 10**6 + 2000) + 1000
    assert (parameter_count(small), parameter_count(large)) == (200 * 10**6 + rest, 400 * 10**6 + rest)
    check_products(strategy(None), cuda, small)
    check_products(strategy(None), cpu, large)
    for dtype in ("bfloat16", "float32"):
        check_products(strategy(dtype), cuda, large)
    said = r"^strategy\.compute_dtype=null: products of 0\.5 billion .*precision@strategy=bfloat16"
    with pytest.raises(ConfigError, match=said):
        check_products(strategy(None), cuda, large)
