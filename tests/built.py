"""Single objects out of a composed configuration, as the programs build them."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipo import build
from pipo.config.models import find_model
from pipo.config.open_nodes import Open
from pipo.config.tree import EvalConfig, TrainConfig
from pipo.lm.spec import ModelSpec
from pipo.rollout.task_setup import TaskSetup


def built(cfg: DictConfig, key: str) -> Any:
    """What the open node at a dotted key builds; nothing else of the configuration is looked at."""
    node: Any = OmegaConf.select(cfg, key)
    resolved, written = (OmegaConf.to_container(node, resolve=resolve) for resolve in (True, False))
    assert isinstance(resolved, dict)
    assert isinstance(written, dict)
    return Open(key, resolved, written).build()  # type: ignore[arg-type]


def at_its_task(config: TrainConfig | EvalConfig, model: ModelSpec | None = None) -> TaskSetup:
    """The model of a training run, or another one, at the run's task."""
    assert isinstance(config, TrainConfig)
    model = model or find_model(config.model)
    return build.build_task_setup(config, "task", config.task, model, model.tokenizer())
