"""Compose the configuration as Hydra does; what the same groups give is composed once for all tests."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from pipo.home import CONF


def composed_by_hydra(name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration with Hydra's own part."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(config_name=name, overrides=[*overrides], return_hydra_config=True)


@functools.cache
def _of_groups(name: str, overrides: tuple[str, ...]) -> bytes:
    """What a choice of options gives. As bytes: to read them is a hundredth of composing anew."""
    return pickle.dumps(composed_by_hydra(name, overrides))


def _is_value(override: Override) -> bool:
    """Whether Hydra sets it after everything else is composed, so that no choice of files depends on it."""
    is_group = (CONF / override.key_or_group).is_dir()
    return isinstance(override.value(), dict) or not is_group


def composed(name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration with Hydra's own part, whose lists of overrides have the choices of options alone.

    Raises:
        ConfigCompositionException: what Hydra raises.
    """
    parsed = OverridesParser.create().parse_overrides([*overrides])
    if any(each.is_sweep_override() or each.key_or_group.startswith("hydra") for each in parsed):
        return composed_by_hydra(name, overrides)
    values = [each for each in parsed if _is_value(each)]
    groups = tuple(each.input_line for each in parsed if not _is_value(each))
    cfg = pickle.loads(_of_groups(name, groups))
    ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
    return cfg
