"""Check keys against each other: sizes that do not fit are refused, doubtful ones get a note."""

from __future__ import annotations

import logging

from pipo.callbacks.pipo_options import PipoOptions
from pipo.config.tree import TrainConfig
from pipo.errors import ConfigError
from pipo.modules.objectives.base import Objective

log = logging.getLogger(__name__)


def check_relations(config: TrainConfig, *, objective: Objective, vocabulary: int) -> None:
    """Compare the sizes of a run with each other.

    Args:
        config: the configuration, with values that are sound alone.
        objective: the algorithm.
        vocabulary: tokens of the model.

    Raises:
        ConfigError: naming the keys.
    """
    responses = config.algo.prompts * config.algo.group_size
    iterations = f"iterations={config.iterations}"
    warmup = 0 if objective.critic is None else objective.critic.warmup_iterations
    if warmup >= config.iterations:
        key = f"algo.objective.critic.warmup_iterations={warmup}"
        raise ConfigError(f"{key}: in {iterations} only the critic would be trained, never the policy")
    grader = config.task.source.node.get("grader")
    seconds = grader.get("batch_s") if isinstance(grader, dict) else None
    if seconds is not None and seconds >= config.strategy.timeout_s:
        key = f"task.source.grader.batch_s={seconds:g}"
        raise ConfigError(f"{key}: others give up after strategy.timeout_s={config.strategy.timeout_s:g}")
    acts = config.pipo.step_control is not None or getattr(config.pipo, "feedback", None) == "paired"
    if acts and config.algo.prompts < 2:
        raise ConfigError("algo.prompts=1: what an iteration did is measured over prompts, two at least")
    notes = {}
    if isinstance(config.pipo, PipoOptions):
        size, window = config.pipo.mini_batch, config.pipo.window
        if size is not None and size > responses:
            most = f"an iteration has {responses} responses"
            raise ConfigError(f"pipo.mini_batch={size}: {most}; null is for what the base update takes")
        if window + warmup >= config.iterations:
            first = f"the first comparison is in iteration {window + warmup + 1}"
            notes[f"pipo.window={window}"] = f"{first}, so {iterations} train as with pipo=none"
    size, top_k = config.recipe.mini_batch, config.rollout.top_k
    if size > responses:
        said = f"an iteration has {responses} responses, so it makes one optimiser step on all of them"
        notes[f"recipe.mini_batch={size}"] = said
    elif responses % size:
        said = (
            f"the last optimiser step of an iteration is on {responses % size} of its {responses} responses"
        )
        notes[f"recipe.mini_batch={size}"] = said
    if (rise := config.algo.optimizer.warmup_iterations) >= config.iterations:
        key = f"algo.optimizer.warmup_iterations={rise}"
        notes[key] = f"the learning rate is not reached within {iterations}"
    if top_k > vocabulary:
        notes[f"rollout.top_k={top_k}"] = f"the model has {vocabulary} tokens, so it is as if it were 0"
    for key, note in notes.items():
        log.warning("%s: %s", key, note)
