"""The measured improvement of the embedded model against counting: many responses under both policies."""

from __future__ import annotations

import math

import pytest
import torch

from pipo import build
from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from pipo.distributed.metrics import IterationMetrics
from pipo.functional.improvement import BOUND, improvement, leave_one_out, transition_sums
from pipo.lm.policy import Policy, load_policy
from pipo.lm.spec import embedded_model
from pipo.modules.annotation import score_responses
from pipo.records.rollouts import Rollouts
from pipo.training import train
from tests.built import at_its_task

GROUP, PROMPTS = 32, 256


@pytest.mark.slow
def test_it_is_what_counting_finds(compose_config, tmp_path):
    """Three updates on the embedded model; J before and after counted on the same problems.

    The estimate and the count are to agree within four standard errors of both together, and both are to tell
    the change from nothing; with samples of their own, so that they share no noise but the draw of problems.
    """
    small = ("pipo=none", "evaluation.problems=8", f"output_dir={tmp_path / 'run'}", "iterations=3")
    train(compose_config(*small, "recipe.learning_rate=6e-5", "curve.every=3"), [])
    before = load_policy(embedded_model("tiny"), "float32")
    after = load_policy(str(tmp_path / "run/model"), "float32")
    sizes = (f"algo.group_size={GROUP}", f"recipe.responses={GROUP * PROMPTS}", "output_dir=x")
    config = read(compose_config(*sizes), TrainConfig)
    setup = at_its_task(config)
    try:
        collector = build.build_collector(config, setup)
        prompts = build.build_data(config, setup, build.build_objective(config)).dataset[0]
        make_engine = config.rollout.engine.build()

        def sample(policy: Policy, seed: int) -> Rollouts:
            return collector.collect(make_engine(policy), prompts, seed, IterationMetrics(), lambda n: n)

        measured, later, earlier = sample(after, 1), sample(after, 2), sample(before, 3)
    finally:
        setup.task.close()

    def scored(policy: Policy) -> torch.Tensor:
        place = {"device": torch.device("cpu"), "passes": lambda own: own}
        logprobs = score_responses(policy, measured, temperature=1.0, token_budget=16384, **place)
        return logprobs.double().sum(dim=1)

    advantages = leave_one_out(measured.rewards, GROUP, 0.0, 0)
    sums = transition_sums(advantages, scored(after) - scored(before), GROUP, BOUND)
    found = improvement(sums, GROUP, PROMPTS, PROMPTS)
    assert found is not None
    counted = (later.rewards - earlier.rewards).double().view(PROMPTS, GROUP).mean(dim=1)
    count, error = counted.mean().item(), counted.std().item() / math.sqrt(PROMPTS)
    assert found.evidence > 4
    assert count > 2 * error
    assert abs(found.change - count) < 4 * math.hypot(found.error, error)
    assert found.spread < 0.7
