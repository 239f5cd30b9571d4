"""The parts of a training run: the module, its data, and the callbacks that belong to the method.

``train.py`` puts a run's log, checkpoints and evaluation around them; a script may take a Lightning trainer
of its own instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import lightning.pytorch as pl

from pipo import build
from pipo.callbacks.iteration_log import IterationLog, MonitoredMetrics
from pipo.callbacks.random_state import RandomState
from pipo.config.models import find_model
from pipo.config.relations import check_relations
from pipo.config.tree import TrainConfig
from pipo.distributed.processes import share_node
from pipo.modules.policy_module import PolicyModule
from pipo.rollout.datamodule import PromptDataModule
from pipo.rollout.task_setup import TaskSetup


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What ``Trainer.fit`` takes."""

    config: TrainConfig
    """Of the run."""
    setup: TaskSetup
    """Its model at its task."""
    module: PolicyModule
    """The ``LightningModule``; it loads the model when training starts."""
    data: PromptDataModule
    """The ``LightningDataModule``: one epoch is the run, one batch the prompts of an iteration."""

    @cached_property
    def callbacks(self) -> list[pl.Callback]:
        """PIPO and whatever else of the method acts in an iteration, and the log of its row of metrics.

        Callbacks that add to the row, or watch it, stand before the last.
        """
        distillation = self.module.objective.distillation
        return [
            *build.build_method(self.config, distillation),
            MonitoredMetrics(),
            RandomState(),
            IterationLog({}),
        ]


@contextmanager
def parts_of(config: TrainConfig) -> Iterator[Parts]:
    """Build them; what grades in processes of its own is closed at the end.

    Raises:
        ConfigError: something in the configuration cannot be used.
    """
    share_node(config.trainer.per_node)
    model = find_model(config.model)
    setup = build.build_task_setup(config, "task", config.task, model, model.tokenizer())
    try:
        module = build.build_module(config, setup)
        check_relations(config, objective=module.objective, vocabulary=len(setup.tokenizer))
        data = build.build_data(config, setup, module.objective)
        yield Parts(config=config, setup=setup, module=module, data=data)
    finally:
        setup.task.close()
