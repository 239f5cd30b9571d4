"""Compose the configuration as Hydra does; what the same groups give is composed once for all tests.

While this module is loaded, Hydra reads a file that has not changed only once, whoever composes.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig

from pipo.home import CONF


def _once(read: Callable[[ConfigSource, str], ConfigResult]) -> Callable[..., ConfigResult]:
    """Keep what each state of a file holds, as bytes; to parse YAML anew is a third of composing."""
    kept: dict[tuple[str, str, str, int, int], bytes] = {}

    def load_config(self: ConfigSource, config_path: str) -> ConfigResult:
        try:
            state = Path(self.path, self._normalize_file_name(config_path)).stat()
        except OSError:
            return read(self, config_path)
        key = (self.provider, self.path, config_path, state.st_mtime_ns, state.st_size)
        if key not in kept:
            kept[key] = pickle.dumps(read(self, config_path))
        return pickle.loads(kept[key])

    return load_config


Plugins.instance()  # makes the class of sources that are files, among others
_FILES = SourcesRegistry.instance().resolve("file")
_FILES.load_config = _once(_FILES.load_config)  # type: ignore[method-assign]


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
