"""Specification of a model to load: path or hub id, dtype, gradient checkpointing, checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipo.errors import ConfigError
from pipo.lm.policy import Policy, load_policy, load_weights, most_positions
from pipo.runs.checkpoints import STATE, verify


def embedded_model(name: str) -> str:
    """Folder of a model that ships with the package."""
    folder = Path(__file__).parent / "assets" / name
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.path: the embedded model {name!r} is missing; make it with python -m pipo tiny"
        )
    return str(folder)


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

    @cached_property
    def positions(self) -> int | None:
        """Tokens of a prompt and its response that the model can place; None for any number."""
        return most_positions(self.path)

    def load(self) -> Policy:
        """Read the weights."""
        policy = load_policy(self.path, self.dtype, self.gradient_checkpointing)
        if self.checkpoint is not None:
            verify(self.checkpoint)
            load_weights(policy, self.checkpoint / STATE)
        return policy
