"""SDPO on a toy: nothing to learn from oneself, who is taught, what is attributed, the averaged teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.callbacks.teacher import TeacherAverage
from pipo.distributed.metrics import IterationMetrics
from pipo.functional.aggregation import Aggregation
from pipo.functional.divergence import DistillationForm
from pipo.lm.policy import Policy
from pipo.modules.hooks import RolloutCallback
from pipo.modules.objectives.base import Distillation
from pipo.modules.objectives.sdpo import SDPO
from pipo.records.correction import ImportanceCorrection
from pipo.runs.checkpoints import STATE, finished_checkpoints
from tests import toy
from tests.unit.batches import policy_batch

REVERSE_KL = DistillationForm(kind="reverse-kl", alpha=None, top_k=None)
OFFICIAL = DistillationForm(kind="jensen-shannon", alpha=0.5, top_k=10)


def sdpo(
    form: DistillationForm = REVERSE_KL, average: float = 1.0, cap: float | None = None, **changes: Any
) -> SDPO:
    distillation = Distillation(
        form=form,
        from_siblings=True,
        from_feedback=False,
        success_threshold=0.5,
        teacher_average=average,
        ratio_cap=cap,
        drop_thoughts=False,
        feedback_beside_solution=True,
    )
    options: dict[str, Any] = {
        "clip_low": 0.2,
        "clip_high": 0.2,
        "dual_clip": None,
        "aggregation": "token-mean",
        "kl_coef": 0.0,
    }
    return SDPO(distillation=distillation, **{**options, **changes})


def full_logprobs(model: Policy, prompt, response: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of one response over the whole vocabulary, from a pass of its own."""
    ids = torch.cat([torch.tensor(prompt), response])[None]
    with torch.no_grad():
        logits = model.model(ids).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1)


def chosen_logprobs(model: Policy, prompt, response: torch.Tensor) -> torch.Tensor:
    return full_logprobs(model, prompt, response).gather(1, response[:, None])[:, 0]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("form", [REVERSE_KL, REVERSE_KL.model_copy(update={"top_k": 5}), OFFICIAL])
def test_a_teacher_who_knows_no_more_teaches_nothing(monkeypatch, form):
    """The plain prompt as the teacher's: loss, gradient and attribution are zero and no weight moves.

    Loss and gradient exactly: student and teacher run the same rows in the same packing. The attribution
    within float32 rounding: the sampler read the tokens one by one, the teacher all at once.
    """

    def plain(rollouts, distillation):
        return tuple(ids for ids in rollouts.prompts.prompt_ids for _ in range(rollouts.group_size))

    monkeypatch.setattr(toy, "privileged", plain)
    record = toy.Record()
    toy.fit(toy.module(sdpo(form), weight_decay=0.0), [record], 3)
    for metrics, batch in zip(record.metrics, record.batches, strict=True):
        assert metrics["rollout/taught"] == 1
        assert metrics["policy/trained_rows"] == 1
        assert metrics["policy/loss"] == 0
        assert metrics["policy/divergence"] == 0
        assert metrics["policy/grad_norm"] == 0
        assert batch.attribution.abs().max() < 1e-5
        assert not batch.advantages.any()
    start = toy.make_policy().state_dict()
    assert all(torch.equal(record.weights[-1][f"policy.{name}"], value) for name, value in start.items())


def test_a_teacher_who_knows_more_does_teach():
    """The loss of the first step is the mean over taught tokens of sum_v p (log p - log q), by hand."""
    record = toy.Record()
    toy.fit(toy.module(sdpo()), [record], 1)
    batch, policy = record.batches[0], toy.make_policy()
    total, count = 0.0, 0
    for i, mask in enumerate(batch.response_mask):
        if batch.teacher_prompt_ids[i] is None:
            continue
        response = batch.response_ids[i][mask]
        student = full_logprobs(policy, batch.prompt_ids[i // 4], response)
        teacher = full_logprobs(policy, batch.teacher_prompt_ids[i], response)
        total += (student.exp() * (student - teacher)).sum().item()
        count += len(response)
    assert count > 0
    assert record.metrics[0]["policy/loss"] == pytest.approx(total / count, rel=1e-4)
    assert record.metrics[0]["policy/divergence"] == pytest.approx(total / count, rel=1e-4)
    assert record.metrics[0]["policy/grad_norm"] > 0


def updated(batch, aggregation: Aggregation) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Gradient (AdamW's first moment is a tenth of it) and metrics of one base update on ``batch``."""
    seen: dict[str, Any] = {}

    class Once(RolloutCallback):
        def on_rollouts_ready(self, trainer, module, rollouts, ignored, stats):
            iteration, module.metrics = module.metrics, IterationMetrics()
            module.policy_update(batch, prefix="check")
            state = trainer.optimizers[0].state
            seen["gradient"] = {n: state[p]["exp_avg"] / 0.1 for n, p in module.policy.named_parameters()}
            seen["metrics"] = module.metrics.reduce(lambda t: t)
            module.metrics = iteration

    model = toy.module(sdpo(aggregation=aggregation), mini_batch=100, max_grad_norm=100.0)
    toy.fit(model, [Once()], 1)
    return seen["gradient"], seen["metrics"]


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_responses_without_privileged_information_count_nowhere(aggregation):
    """As if they were not in the batch: not in the loss, not in its denominator, not in the gradient."""
    grouped = policy_batch(prompts=2, group_size=4, width=5)
    # Groups of one, so that single rows can be taken out.
    prompts = tuple(ids for ids in grouped.prompt_ids for _ in range(4))
    batch = replace(grouped, prompt_ids=prompts, group_size=1)
    hints = tuple(None if i % 3 == 0 else (40 + i, *ids) for i, ids in enumerate(batch.prompt_ids))
    mixed = replace(batch, teacher_prompt_ids=hints)
    keep = [i for i, ids in enumerate(hints) if ids is not None]
    assert 0 < len(keep) < len(batch)
    names = ("response_ids", "response_mask", "sampled", "old_logprobs", "advantages", "attribution")
    alone = replace(
        mixed,
        prompt_ids=tuple(batch.prompt_ids[i] for i in keep),
        teacher_prompt_ids=tuple(hints[i] for i in keep),
        **{name: getattr(batch, name)[keep] for name in names},
    )
    gradient, metrics = updated(mixed, aggregation)
    expected, expected_metrics = updated(alone, aggregation)
    assert metrics["check/loss"] == pytest.approx(expected_metrics["check/loss"], rel=1e-6)
    assert metrics["check/trained_rows"] == len(keep) / len(batch)
    for name in expected:
        torch.testing.assert_close(gradient[name], expected[name], rtol=1e-5, atol=1e-8)


def divergences(policy: Policy, batch, row: int) -> torch.Tensor:
    """Reverse KL at every token of a taught response, from full forward passes."""
    response = batch.response_ids[row][batch.response_mask[row]]
    student = full_logprobs(policy, batch.prompt_ids[row // 4], response)
    teacher = full_logprobs(policy, batch.teacher_prompt_ids[row], response)
    return (student.exp() * (student - teacher)).sum(-1)


def test_the_released_loss_counts_each_token_by_its_truncated_ratio():
    """By hand, once the policy has moved: the mean of min(pi / pi_old, cap) times the divergence."""
    cap, seen = 1.2, {}

    class MoveFirst(RolloutCallback):
        def on_rollouts_ready(self, trainer, module, rollouts, batch, stats):
            module.policy_update(batch.reweighted(batch.attribution, kl_coef=0.0), prefix="first")
            total, count, ratios = 0.0, 0, []
            for row, ids in enumerate(batch.teacher_prompt_ids):
                if ids is None:
                    continue
                mask = batch.response_mask[row]
                response = batch.response_ids[row][mask]
                said = chosen_logprobs(module.policy, batch.prompt_ids[row // 4], response)
                ratio = (said - batch.old_logprobs[row][mask]).exp()
                total += (ratio.clamp(max=cap) * divergences(module.policy, batch, row)).sum().item()
                count += len(said)
                ratios.append(ratio)
            seen.update(loss=total / count, ratios=torch.cat(ratios))

    record = toy.Record()
    toy.fit(toy.module(sdpo(cap=cap), learning_rate=3e-2), [MoveFirst(), record], 1)
    (metrics,), ratios = record.metrics, seen["ratios"]
    assert 0 < (ratios > cap).float().mean() < 1
    assert ratios.min() < 0.8
    assert metrics["policy/loss"] == pytest.approx(seen["loss"], rel=1e-4)
    assert metrics["policy/loss"] != pytest.approx(metrics["policy/divergence"], rel=1e-2)


def test_the_ratio_of_the_released_loss_carries_no_gradient_and_is_1_on_policy():
    """Before any step the capped loss is the plain one, and so is its gradient."""
    plain, capped = toy.Record(), toy.Record()
    toy.fit(toy.module(sdpo()), [plain], 1)
    toy.fit(toy.module(sdpo(cap=2.0)), [capped], 1)
    for name in ("policy/loss", "policy/grad_norm", "policy/divergence"):
        assert capped.metrics[0][name] == pytest.approx(plain.metrics[0][name], rel=1e-5)


def test_a_samplers_distance_weighs_the_distillation_loss_too():
    """In bfloat16 the two differ; each token counts min(trainer / sampler, cap) times."""
    sampled, options = [], {"compute_dtype": torch.bfloat16, "learning_rate": 1e-4}

    class Keep(RolloutCallback):
        def on_rollouts_ready(self, trainer, module, rollouts, batch, stats):
            sampled.append(rollouts.completions.logprobs)

    record, correction = toy.Record(), ImportanceCorrection(level="token", cap=1.005)
    toy.fit(toy.module(sdpo(), importance=correction, **options), [Keep(), record], 1)
    batch, mask = record.batches[0], record.batches[0].response_mask
    expected = (batch.old_logprobs - sampled[0]).exp().clamp(max=1.005) * mask
    torch.testing.assert_close(batch.importance, expected)
    assert (batch.importance[mask] == 1.005).any()
    assert (batch.importance[mask] < 1).any()
    assert batch.reweighted(batch.attribution, kl_coef=0.0).importance is None

    uncorrected = toy.Record()
    toy.fit(toy.module(sdpo(), **options), [uncorrected], 1)
    assert uncorrected.batches[0].importance is None
    difference, count = 0.0, 0
    for row, ids in enumerate(batch.teacher_prompt_ids):
        if ids is not None:
            weight = batch.importance[row][mask[row]]
            difference += ((weight - 1) * divergences(toy.make_policy(), batch, row)).sum().item()
            count += len(weight)
    # The divergences here are float32's, the run's bfloat16's.
    moved = record.metrics[0]["policy/loss"] - uncorrected.metrics[0]["policy/loss"]
    assert moved == pytest.approx(difference / count, rel=0.05)


def test_the_two_updates_have_two_denominators():
    """The base loss is defined on taught responses alone; policy improvement counts all, like everywhere."""
    record = toy.Record()
    toy.fit(toy.module(sdpo()), [record], 1)
    (batch,) = record.batches
    taught = torch.tensor([ids is not None for ids in batch.teacher_prompt_ids])
    assert 0 < taught.sum() < len(taught)
    lengths, again = batch.response_mask.sum(1), batch.reweighted(batch.attribution, kl_coef=0.0)
    assert sdpo().denominator(batch.loss_mask()) == lengths[taught].sum()
    assert sdpo().denominator(again.loss_mask()) == lengths.sum()
    # What is not taught carries no attribution, so it costs nothing either way.
    assert not again.contributing_rows()[~taught].any()


def test_attribution_is_log_teacher_minus_log_student_of_the_sampled_token():
    record = toy.Record()
    toy.fit(toy.module(sdpo()), [record], 1)
    batch, policy = record.batches[0], toy.make_policy()
    taught = [ids is not None for ids in batch.teacher_prompt_ids]
    assert record.metrics[0]["rollout/taught"] == sum(taught) / len(taught)
    # One successful response teaches its siblings but not itself.
    assert 0 < sum(taught) < len(taught)
    for i, mask in enumerate(batch.response_mask):
        assert (batch.attribution[i][~mask] == 0).all()
        if not taught[i]:
            assert (batch.attribution[i] == 0).all()
            continue
        response = batch.response_ids[i][mask]
        student = chosen_logprobs(policy, batch.prompt_ids[i // 4], response)
        teacher = chosen_logprobs(policy, batch.teacher_prompt_ids[i], response)
        torch.testing.assert_close(
            batch.attribution[i][mask].double(), teacher - student, rtol=1e-4, atol=2e-5
        )
    assert batch.attribution.abs().max() > 0.1


def test_the_retrospective_update_is_the_clipped_surrogate_without_a_teacher():
    """Recomputed from full forward passes: max(-nu r, -clip(nu) r), over all response tokens of the batch."""
    expected, taught_forwards = [], []

    class Watch(RolloutCallback):
        def on_train_start(self, trainer, pl_module):
            original, policy = pl_module.policy_update, pl_module.policy
            target, calls = policy.distillation_target, []

            def counted(*args, **kwargs):
                calls.append(1)
                return target(*args, **kwargs)

            def spy(batch, *, prefix, **kwargs):
                if prefix == "pipo":
                    expected.append((trainer.fit_loop.total_batch_idx, loss(policy, batch)))
                before = len(calls)
                steps = original(batch, prefix=prefix, **kwargs)
                taught_forwards.append((prefix, len(calls) - before))
                return steps

            policy.distillation_target, pl_module.policy_update = counted, spy

    def loss(policy, batch) -> float:
        total = 0.0
        for i, mask in enumerate(batch.response_mask):
            said = chosen_logprobs(policy, batch.prompt_ids[i // 4], batch.response_ids[i][mask])
            ratio, weight = (said - batch.old_logprobs[i][mask]).exp(), batch.advantages[i][mask]
            total += torch.maximum(-ratio * weight, -ratio.clamp(0.8, 1.2) * weight).sum().item()
        return total / int(batch.response_mask.sum())

    record = toy.Record()
    toy.fit(toy.module(sdpo()), [Watch(), record, toy.pipo(window=2)], 6)
    assert expected
    assert all(calls == 0 for prefix, calls in taught_forwards if prefix == "pipo")
    assert any(calls > 0 for prefix, calls in taught_forwards if prefix == "policy")
    for iteration, value in expected:
        metrics = record.metrics[iteration]
        assert metrics["pipo/loss"] == pytest.approx(value, rel=1e-3, abs=1e-5)
        assert "pipo/clip_fraction" in metrics
        assert "pipo/divergence" not in metrics


class KeepTeacher(RolloutCallback):
    """Weights of the teacher and of the policy after every iteration; stands behind ``TeacherAverage``."""

    def __init__(self) -> None:
        self.teachers: list[dict[str, torch.Tensor]] = []
        self.policies: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        for kept, model in (
            (self.teachers, pl_module.teacher),
            (self.policies, pl_module.policy),
        ):
            kept.append({name: value.detach().clone() for name, value in model.state_dict().items()})


def test_the_averaged_teacher_moves_by_a_twentieth_towards_the_policy():
    record, keep = toy.Record(), KeepTeacher()
    toy.fit(toy.module(sdpo(OFFICIAL, 0.05)), [record, TeacherAverage(weight=0.05), keep], 3)
    old = toy.make_policy().state_dict()
    for teacher, policy in zip(keep.teachers, keep.policies, strict=True):
        for name in teacher:
            by_hand = 0.95 * old[name].double() + 0.05 * policy[name].double()
            torch.testing.assert_close(teacher[name].double(), by_hand, rtol=1e-6, atol=1e-7)
        assert not same(teacher, old)
        assert not same(teacher, policy)
        old = teacher
    # And it is the average, not the policy, that speaks in the next iteration.
    batch, model = record.batches[2], toy.make_policy()
    model.load_state_dict(keep.teachers[1])
    row = next(i for i, ids in enumerate(batch.teacher_prompt_ids) if ids is not None)
    mask = batch.response_mask[row]
    teacher = chosen_logprobs(model, batch.teacher_prompt_ids[row], batch.response_ids[row][mask])
    expected = teacher - batch.old_logprobs[row][mask]
    torch.testing.assert_close(batch.attribution[row][mask].double(), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("stop", [1, 4])
def test_the_averaged_teacher_survives_a_resume_bit_for_bit(tmp_path, stop):
    def run(iterations: int, *more, checkpoint=None):
        record, keep, objective = toy.Record(), KeepTeacher(), sdpo(OFFICIAL, 0.05)
        callbacks = [toy.pipo(window=2), TeacherAverage(weight=0.05), record, keep, *more]
        toy.fit(toy.module(objective), callbacks, iterations, checkpoint)
        return record, keep

    class Stop(toy.pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = batch_idx + 1 == stop

    whole, teachers = run(7)
    run(7, Stop(), IterationCheckpoint(folder=str(tmp_path), every=100, keep=1, best=False))
    (checkpoint,) = finished_checkpoints(tmp_path)
    state, prefix = torch.load(checkpoint / STATE, weights_only=True)["state_dict"], "teacher."
    saved = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    assert same(saved, teachers.teachers[stop - 1])
    second, resumed = run(7, checkpoint=checkpoint)
    assert any(m["pipo/applied"] == 1 for m in second.metrics)
    for one, other in (
        (whole.weights, second.weights),
        (teachers.teachers, resumed.teachers),
    ):
        assert all(same(a, b) for a, b in zip(one[stop:], other, strict=True))
