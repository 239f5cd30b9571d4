"""Keys that are sound alone but not together: refused when nothing sensible is meant, said when it may be."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from pipo.callbacks.pipo import PipoOptions
from pipo.config.instantiate import read_options
from pipo.errors import ConfigError
from pipo.modules.objectives.base import Objective

log = logging.getLogger(__name__)


def check_relations(cfg: DictConfig, *, responses: int, objective: Objective, vocabulary: int) -> None:
    """Compare the sizes of a run with each other.

    Args:
        cfg: the composed configuration, with values that are sound alone.
        responses: of an iteration over all processes.
        objective: the algorithm.
        vocabulary: tokens of the model.

    Raises:
        ConfigError: naming the keys.
    """
    iterations = f"iterations={cfg.iterations}"
    warmup = 0 if objective.critic is None else objective.critic.warmup_iterations
    if warmup >= cfg.iterations:
        key = f"algo.objective.critic.warmup_iterations={warmup}"
        raise ConfigError(f"{key}: in {iterations} only the critic would be trained, never the policy")
    notes = {}
    if cfg.pipo.name != "none":
        loop = read_options(cfg, "pipo", PipoOptions)
        size, window = loop.mini_batch, loop.window
        if size is not None and size > responses:
            most = f"an iteration has {responses} responses"
            raise ConfigError(f"pipo.mini_batch={size}: {most}; null is for what the base update takes")
        if window + warmup >= cfg.iterations:
            first = f"the first comparison is in iteration {window + warmup + 1}"
            notes[f"pipo.window={window}"] = f"{first}, so {iterations} train as with pipo=none"
    size, top_k = cfg.algo.mini_batch, cfg.rollout.top_k
    if size > responses:
        said = f"an iteration has {responses} responses, so it makes one optimiser step on all of them"
        notes[f"recipe.mini_batch={size}"] = said
    elif responses % size:
        said = (
            f"the last optimiser step of an iteration is on {responses % size} of its {responses} responses"
        )
        notes[f"recipe.mini_batch={size}"] = said
    if (rise := cfg.algo.optimizer.warmup_iterations) >= cfg.iterations:
        key = f"algo.optimizer.warmup_iterations={rise}"
        notes[key] = f"the learning rate is not reached within {iterations}"
    if top_k > vocabulary:
        notes[f"rollout.top_k={top_k}"] = f"the model has {vocabulary} tokens, so it is as if it were 0"
    for key, note in notes.items():
        log.warning("%s: %s", key, note)
