"""Check the options that Lightning's ``Trainer`` is given; name the key to use for those refused."""

from __future__ import annotations

import logging
import typing
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig, OmegaConf

from pipo.callbacks.ending import KEY
from pipo.config.near_miss import near
from pipo.config.open_nodes import validated
from pipo.config.tree import TrainConfig
from pipo.errors import ConfigError

log = logging.getLogger(__name__)

#: Read by :class:`pipo.distributed.hardware.Hardware`.
HARDWARE = ("accelerator", "devices", "num_nodes", "strategy")
FAST_DEV_RUN = "fast_dev_run"
#: Lightning would end the one epoch after so many batches; here the data module makes them come again.
OVERFIT = "overfit_batches"
#: The logger that only writes into the run folder.
FILES = "files"

_NO_VALIDATION = (
    "there is no validation loop; evaluation.problems and curve.every say what is scored, and when"
)
_ONE_EPOCH = "one epoch is the whole run, and iterations says how long it is"
_FIXED = "it cannot be changed: the loop around sampling needs it as it is"
# What stands for no limit.
_OFF = {"max_steps": -1, OVERFIT: 0, FAST_DEV_RUN: False}
# Trainer argument -> why it cannot be set, and what does here what it does there.
REFUSED = {
    "max_epochs": _ONE_EPOCH,
    "min_epochs": _ONE_EPOCH,
    "min_steps": "a run that is told to stop has to stop; iterations says how long it is",
    "limit_val_batches": _NO_VALIDATION,
    "limit_test_batches": _NO_VALIDATION,
    "limit_predict_batches": _NO_VALIDATION,
    "val_check_interval": _NO_VALIDATION,
    "check_val_every_n_epoch": _NO_VALIDATION,
    "num_sanity_val_steps": _NO_VALIDATION,
    "precision": "set model.dtype (weights) or strategy.compute_dtype (products)",
    "accumulate_grad_batches": "recipe.mini_batch says how many responses an optimiser step takes, and "
    "strategy.tokens_per_micro_batch how many tokens go through the model at a time",
    "gradient_clip_val": "set algo.optimizer.max_grad_norm",
    "gradient_clip_algorithm": "gradients are clipped by their norm, algo.optimizer.max_grad_norm",
    "logger": "set logger=csv, logger=wandb or logger=none",
    "log_every_n_steps": "every iteration is logged",
    "callbacks": "set callbacks.<name>._target_",
    "enable_checkpointing": "set checkpoint.every, checkpoint.keep and checkpoint.best",
    "enable_progress_bar": "without a terminal there is none: python train.py ... | cat",
    "enable_model_summary": _FIXED,
    "default_root_dir": "set output_dir",
    "plugins": _FIXED,
    "use_distributed_sampler": _FIXED,
    "reload_dataloaders_every_n_epochs": _ONE_EPOCH,
    "barebones": _FIXED,
    "sync_batchnorm": _FIXED,
    "model_registry": "the trained model is written to model/ in the run folder",
    "enable_autolog_hparams": "the configuration is always logged",
}


def trainer_options(config: TrainConfig) -> dict[str, Any]:
    """What goes to Lightning's trainer as it stands, checked; the hardware is not among it.

    Raises:
        ConfigError: naming the key, and our word for what it means.
    """
    given, hints = config.trainer.model_extra or {}, _hints()
    for name in given:
        if name in REFUSED:
            raise ConfigError(f"{KEY}.{name}: {REFUSED[name]}")
        if name not in hints:
            raise _unknown(name, hints)
    lightning = config.trainer.lightning
    options = {
        name: validated(f"{KEY}.{name}", value, hints[name], exact=True) for name, value in lightning.items()
    }
    _check_counts(options, config.iterations)
    return options


def shortened(cfg: DictConfig, config: TrainConfig) -> DictConfig:
    """Lightning's ``fast_dev_run``: the same run with that many iterations and batches of held-out problems.

    Everything is done and written as in any run, so that it shows what a run would do; but no service hears
    of it.

    Args:
        cfg: the composed configuration.
        config: the same with its types.
    """
    count = trainer_options(config).get(FAST_DEV_RUN)
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    cfg.trainer.pop(FAST_DEV_RUN, None)
    if not count:
        return cfg
    cfg.iterations = int(count)
    few, problems = int(count) * config.evaluation.prompts_per_batch, config.evaluation.problems
    if problems is None or problems > few:
        cfg.evaluation.problems = few
    cfg.logger = {name: node for name, node in cfg.logger.items() if name == FILES}
    log.warning(
        "%s.%s: iterations=%s and evaluation.problems=%s, to see that all works; its numbers say little",
        KEY,
        FAST_DEV_RUN,
        cfg.iterations,
        cfg.evaluation.problems,
    )
    return cfg


def _hints() -> dict[str, Any]:
    """Lightning's own annotations."""
    hints = typing.get_type_hints(pl.Trainer.__init__)
    return {name: hint for name, hint in hints.items() if name not in ("return", *HARDWARE)}


def _unknown(name: str, hints: Mapping[str, Any]) -> ConfigError:
    free = sorted(hints.keys() - REFUSED.keys())
    meant = near(name, [*free, *REFUSED, *HARDWARE])
    meant = f"did you mean {KEY}.{meant}? " if meant else ""
    return ConfigError(f"{KEY}.{name}: unknown key; {meant}Lightning's trainer takes {', '.join(free)}")


def _check_counts(options: Mapping[str, Any], iterations: int) -> None:
    """Refuse a limit that would end the run before its first iteration.

    Raises:
        ConfigError: naming the key.
    """
    for name in ("max_steps", "limit_train_batches", OVERFIT, FAST_DEV_RUN):
        value = options.get(name, _OFF.get(name))
        if value is None or value == _OFF.get(name):
            continue
        share = isinstance(value, float) and value <= 1 and isinstance(iterations, int)
        if not value > 0 or (share and int(value * iterations) < 1):
            raise ConfigError(
                f"{KEY}.{name}={value}: not one iteration would be made; to score a model as it is: eval.py"
            )
        if name == OVERFIT and isinstance(value, float):
            raise ConfigError(f"{KEY}.{name}={value}: a whole number, of iterations whose prompts come again")
        if isinstance(value, float) and not share:
            raise ConfigError(f"{KEY}.{name}={value}: a whole number, or a share of the iterations up to 1.0")
