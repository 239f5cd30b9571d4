"""The rows of the paper's tables, composed once for all tests that look at them."""

from __future__ import annotations

import functools

from omegaconf import DictConfig

from tests import composing
from tests.conftest import ROOT

CONF = ROOT / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
BASES = ("ppo", "grpo", "gspo", "dapo")
DOMAINS = ("biology", "chemistry", "material", "physics")
# The paper's tables as they are typed: the task's name, the model, the base algorithms. Which model code and
# tool use had is that of the authors' scripts, see docs/reproduce.md.
TABLES = {
    "experiment=math_4b": ("math", "qwen3_4b_base", BASES),
    "experiment=math_8b": ("math", "qwen3_8b_base", BASES),
    "experiment=code": ("code", "qwen3_4b_base", BASES),
    "experiment=tool_use": ("tool_use", "qwen3_4b_base", BASES),
    **{
        f"experiment=science task.domain={domain}": (f"science_{domain}", "qwen3_8b", ("grpo", "sdpo"))
        for domain in DOMAINS
    },
}


@functools.cache
def composed(*overrides: str, name: str = "train") -> DictConfig:
    """A configuration with Hydra's own part, which knows the chosen options; not to be changed."""
    return composing.composed(name, ["output_dir=x", *overrides])
