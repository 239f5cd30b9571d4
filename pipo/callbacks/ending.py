"""End of training: iterations made, and the limit that ended it before its budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping, Timer

from pipo.errors import ConfigError

#: Where Lightning's trainer stands in the configuration.
KEY = "trainer"
#: What ends a start of the program before its budget; going on with the run does not repeat it.
LIMITS = ("max_time", "max_steps", "limit_train_batches")


class RunEnd(pl.Callback):
    """Notes the end before anything is made of it.

    Args:
        options: what Lightning's trainer was given.
        extra: the user's own callbacks by their keys.
        budget: iterations of the whole run.
    """

    def __init__(self, *, options: Mapping[str, Any], extra: Mapping[str, pl.Callback], budget: int) -> None:
        super().__init__()
        self.options, self.extra, self.budget = options, extra, budget
        #: Iterations that were made over all starts; None when this one was over before it began.
        self.iterations: int | None = None
        #: What ended training before its budget.
        self.cause: str | None = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called before the model is written and scored.

        Raises:
            ConfigError: there is nothing to write or to score.
        """
        self.iterations = trainer.fit_loop.total_batch_idx + 1
        if not self.iterations:
            raise self.nothing_done()
        if self.iterations < self.budget:
            self.cause = self._cause(trainer)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A time limit is one of the program's start: a run that it ended can go on."""
        for name in [name for name in checkpoint["callbacks"] if name.partition("{")[0] == Timer.__name__]:
            del checkpoint["callbacks"][name]

    def nothing_done(self) -> ConfigError:
        """What is said when training was over before its first iteration."""
        limits = [f"{KEY}.{name}={self.options[name]}" for name in LIMITS if name in self.options]
        named = ", ".join([*limits, *self.extra])
        return ConfigError(f"{named}: not one iteration was left to make; raise the limit, or take it out")

    def _cause(self, trainer: pl.Trainer) -> str:
        if is_last(trainer, self.iterations or 0) and not trainer.should_stop:
            for name in ("max_steps", "limit_train_batches"):
                if self.options.get(name):
                    return f"{KEY}.{name}={self.options[name]}"
        for name, callback in self.extra.items():
            if isinstance(callback, Timer) and (callback.time_remaining() or 0) <= 0:
                return name
            if isinstance(callback, EarlyStopping) and callback.stopping_reason.value:
                return name
        if "max_time" in self.options:
            return f"{KEY}.max_time={self.options['max_time']}"
        # Lightning's others stop nothing.
        others = [
            name for name, each in self.extra.items() if not type(each).__module__.startswith("lightning.")
        ]
        return " or ".join(others) or "a callback"


def is_last(trainer: pl.Trainer, done: int) -> bool:
    """Whether training ends with this iteration, as far as the trainer can tell in it."""
    enough_steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    return trainer.should_stop or enough_steps or done >= trainer.num_training_batches
