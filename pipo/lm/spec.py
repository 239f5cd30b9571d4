"""Specification of a model to load: path or hub id, dtype, gradient checkpointing, checkpoint, adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pipo.errors import ConfigError
from pipo.lm.adapters import add_adapters, apply_folder
from pipo.lm.model_files import check_finite
from pipo.lm.options import Lora
from pipo.lm.policy import Policy, Tokenizer, load_policy, load_tokenizer, load_weights, most_positions
from pipo.runs.checkpoints import STATE, verify
from pipo.tasks.chat import set_variables


def embedded_model(name: str) -> str:
    """Folder of a model that ships with the package."""
    folder = Path(__file__).parent / "assets" / name
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.path: the embedded model {name!r} is missing; make it with python -m pipo {name}"
        )
    return str(folder)


def merged_policy(path: str, adapter: Path) -> Policy:
    """A model with the adapter of a folder merged into it, in float32.

    Args:
        path: of the model, a Hugging Face folder or a hub id.
        adapter: in PEFT's format.
    """
    spec = ModelSpec(
        name=adapter.name, path=path, dtype="float32", gradient_checkpointing=False, adapter=adapter
    )
    return spec.load()


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model to load: where it is, and how it is held in memory."""

    name: str
    """Short name of the model, for reports."""
    path: str
    """A Hugging Face folder or a hub id."""
    dtype: str
    """Dtype of the weights, ``float32`` or, where nothing is trained, ``bfloat16``."""
    gradient_checkpointing: bool
    """Trade compute for activation memory."""
    checkpoint: Path | None = None
    """A checkpoint whose weights replace those at ``path``; None for none."""
    lora: Lora | None = None
    """Adapters: to be trained on the model, or, with a checkpoint, those that it holds; None for none."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables of its chat template, besides the turns of the conversation."""
    adapter: Path | None = None
    """A folder with an adapter of PEFT's, which belongs to the model at ``path``; None for none."""

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, which tells the chat template its variables.

        Raises:
            ConfigError: there is none, or a variable is not the user's to set.
        """
        tokenizer = load_tokenizer(self.path)
        set_variables(tokenizer, self.chat_template_kwargs)
        return tokenizer

    @cached_property
    def positions(self) -> int | None:
        """Tokens of a prompt and its response that the model can place; None for any number."""
        return most_positions(self.path)

    def load(self, seed: int = 0) -> Policy:
        """Read the weights. What was trained before is merged into them; adapters to be trained are put on.

        Args:
            seed: of new adapters.
        """
        merges = self.adapter is not None or (self.lora is not None and self.checkpoint is not None)
        # Merged in float32: in a shorter format what adapters add would be rounded away.
        dtype = "float32" if merges else self.dtype
        policy, adapters = load_policy(self.path, dtype, self.gradient_checkpointing), None
        if self.lora is not None:
            adapters = add_adapters(policy, self.lora, seed)
        if self.checkpoint is not None:
            verify(self.checkpoint)
            load_weights(policy, self.checkpoint / STATE)
        if self.adapter is not None:
            adapters = apply_folder(policy, self.adapter)
        if not merges or adapters is None:
            return policy
        merged = Policy(adapters.merge_and_unload()).requires_grad_(True)  # type: ignore[arg-type]
        check_finite(f"model.path={self.checkpoint or self.adapter}", merged)
        return merged.to(getattr(torch, self.dtype)).train()

    def check_trainable(self) -> None:
        """Whether the model can be trained as it stands.

        Raises:
            ConfigError: saying what can be.
        """
        if self.lora is None:
            if self.dtype != "float32":
                # Ten steps at 1e-6 move 1 % of them: what is added is less than half of their last digit.
                raise ConfigError(
                    f"model.dtype={self.dtype}: weights of {self.dtype} are too coarse to train, their "
                    "updates are rounded away; use model.dtype=float32, with strategy.compute_dtype=bfloat16 "
                    "for products in bfloat16"
                )
            return
        where = self.checkpoint or self.adapter
        if where is not None:
            # The exported adapter would name a model that is in no folder.
            raise ConfigError(
                f"model.path={where}: to train adapters on what was trained before, name a whole model in "
                "Hugging Face format, such as the folder model/ of a run that has ended"
            )
