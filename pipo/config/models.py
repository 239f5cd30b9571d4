"""Resolve ``model.path``: a Hugging Face folder or hub id, a run folder, a checkpoint, an adapter."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from pipo.config.open_nodes import Open
from pipo.config.reading import read_model
from pipo.config.saved import load_config
from pipo.config.tree import ModelConfig
from pipo.errors import ConfigError
from pipo.hub import without_network_from_cache
from pipo.lm.adapters import base_of
from pipo.lm.model_files import ADAPTER_FILE
from pipo.lm.spec import ModelSpec


def find_model(config: ModelConfig) -> ModelSpec:
    """The model that a configuration names.

    What the chat template of a run was told goes on to hold where that run's model is named.

    Raises:
        ConfigError: there is none there.
    """
    name = _made(config.path) if isinstance(config.path, Open) else config.path
    path = Path(name).expanduser()
    lora = None if config.lora is None or config.lora.rank is None else config.lora
    told = config.chat_template_kwargs or {}
    if path.suffix == ".ckpt":
        path = path.resolve()
        saved = path.parent.parent / "config.yaml"
        if not path.is_dir() or not saved.is_file():
            raise ConfigError(f"model.path={path}: not a checkpoint inside a run folder")
        # The run's own configuration says what kind of model the weights belong to.
        run = load_config(saved, f"model.path={path}")
        if not isinstance(run, DictConfig) or not isinstance(run.get("model"), DictConfig):
            raise ConfigError(f"model.path={path}: {saved} names no model")
        if lora is not None:
            raise ConfigError(
                f"model.lora: adapters are put on a model in Hugging Face format, {path} is a checkpoint"
            )
        spec = find_model(read_model(run))
        return replace(spec, checkpoint=path, chat_template_kwargs={**spec.chat_template_kwargs, **told})
    if (path / ADAPTER_FILE).is_file():
        base = base_of(path)
        if (Path(base) / ADAPTER_FILE).is_file():
            raise ConfigError(f"model.path={path}: an adapter of an adapter, {base}; merge that one first")
        return replace(find_model(config.model_copy(update={"path": base})), adapter=path)
    if (path / "config.yaml").is_file():
        if not (path / "model").is_dir():
            raise ConfigError(
                f"model.path={path}: this run has not exported its model yet; name a checkpoint"
            )
        run = load_config(path / "config.yaml", f"model.path={path}")
        if isinstance(run, DictConfig) and isinstance(run.get("model"), DictConfig):
            told = {**(read_model(run).chat_template_kwargs or {}), **told}
        path = path / "model"
    if not path.exists():
        without_network_from_cache()
    return ModelSpec(
        name=config.name,
        path=str(path) if path.exists() or name.startswith("~") else name,
        dtype=config.dtype,
        gradient_checkpointing=config.gradient_checkpointing,
        lora=lora,
        chat_template_kwargs=told,
    )


def _made(path: Open) -> str:
    """What a class or function of the configuration makes, which may be a text or a path."""
    made = path.build()
    if not isinstance(made, str | os.PathLike):
        raise ConfigError(f"{path.key}._target_: {path.target} makes no path but {made!r:.60}")
    return os.fspath(made)
