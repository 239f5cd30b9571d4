"""Save and reload a run's configuration (``config.yaml``), to resume it."""

from __future__ import annotations

from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipo.errors import ConfigError
from pipo.runs.files import replace_text
from pipo.runs.places import CONFIG_FILE, check_run


def saved_config(folder: Path, overrides: list[str], *changeable: str) -> DictConfig:
    """The configuration that a run was started with.

    Args:
        folder: the run folder.
        overrides: the command line that resumes it.
        *changeable: keys that may be given anew; any other would make it another run.

    Raises:
        ConfigError: when there is no run, or another override.
    """
    check_run(folder)
    changes = {}
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if override.is_delete() or not (key == "resume" or key in changeable or key.startswith("hydra.")):
            only = f"; only {changeable[0]}= may be changed" if changeable else ""
            raise ConfigError(f"{override.input_line}: a resumed run keeps its own configuration{only}")
        if key in changeable:
            changes[key] = override.value()
    merged = read_config(folder)
    try:
        for key, value in changes.items():
            OmegaConf.update(merged, key, value, force_add=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"resume={folder}: {' '.join(str(error).split())}") from error
    merged.output_dir = str(folder)
    return merged


def save_config(folder: Path, cfg: DictConfig) -> None:
    """Note a larger budget, so that resuming once more needs no ``iterations=``."""
    replace_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.merge(cfg, {"resume": None})))


def read_config(folder: Path) -> DictConfig:
    """The configuration that is saved in a folder.

    Raises:
        ConfigError: there is none, or it is not one of ``train.py`` or ``eval.py``.
    """
    check_run(folder)
    saved = load_config(folder / CONFIG_FILE, f"resume={folder}")
    if not isinstance(saved, DictConfig) or not {"iterations", "benchmark"} & set(saved):
        raise ConfigError(f"resume={folder}: no run here ({CONFIG_FILE} is another program's)")
    return saved


def load_config(path: Path, meant: str) -> DictConfig | ListConfig:
    """What a YAML file holds.

    Args:
        path: of the file.
        meant: key and value on the command line that led to it.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{meant}: {path} cannot be read ({' '.join(str(error).split())})") from error
