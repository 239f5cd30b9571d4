"""The experiments, composed once for all tests that look at them."""

from __future__ import annotations

import functools

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from tests.conftest import ROOT

CONF = ROOT / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@functools.cache
def composed(*overrides: str, name: str = "train") -> DictConfig:
    """A configuration with Hydra's own part, which knows the chosen options; not to be changed."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(config_name=name, overrides=["output_dir=x", *overrides], return_hydra_config=True)
