"""Which model a command means, and how it is held."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pipo.config.instantiate import construct, instantiate
from pipo.errors import ConfigError
from pipo.hub import without_network_from_cache
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
    """Which model, and how it is held.

    Attributes:
        name: short name, for reports.
        path: a Hugging Face folder or a hub id.
        dtype: of the weights, ``float32`` or, where nothing is trained, ``bfloat16``.
        gradient_checkpointing: trade compute for activation memory.
        checkpoint: a checkpoint whose weights replace those at ``path``; None for none.
    """

    name: str
    path: str
    dtype: str
    gradient_checkpointing: bool
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"model.dtype must be float32 or bfloat16 (to train: float32), got {self.dtype!r}"
            )

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


def build_model(cfg: DictConfig) -> ModelSpec:
    """Which model: an option of ``conf/model``, a Hugging Face folder or id, a run folder, a checkpoint."""
    if not OmegaConf.is_missing(cfg.model, "path") and OmegaConf.is_config(cfg.model.path):
        cfg = cfg.copy()
        cfg.model.path = str(instantiate(cfg, "model.path"))
    names = ("name", "path", "dtype", "gradient_checkpointing")
    spec: ModelSpec = construct(ModelSpec, cfg, {name: f"model.{name}" for name in names})
    path = Path(spec.path).expanduser()
    if spec.path.startswith("~"):
        spec = replace(spec, path=str(path))
    if path.suffix == ".ckpt":
        path = path.resolve()
        saved = path.parent.parent / "config.yaml"
        if not path.is_dir() or not saved.is_file():
            raise ConfigError(f"model.path={path}: not a checkpoint inside a run folder")
        # The run's own configuration says what kind of model the weights belong to.
        return replace(build_model(OmegaConf.load(saved)), checkpoint=path)  # type: ignore[arg-type]
    if (path / "config.yaml").is_file():
        if not (path / "model").is_dir():
            raise ConfigError(
                f"model.path={path}: this run has not exported its model yet; name a checkpoint"
            )
        return replace(spec, path=str(path / "model"))
    if not path.exists():
        without_network_from_cache()
    return spec
