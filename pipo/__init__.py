"""Policy improvement reinforcement learning: closed-loop RL for language models."""

import importlib
import os
import warnings
from typing import TYPE_CHECKING, Any

# Read once, when torch and the tokenizers are imported, which this package does later. OpenMP's threads would
# spin while they wait for each other, and on a machine with other work that takes many times what it saves.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if TYPE_CHECKING:
    from pipo.api import Evaluation, Run, evaluate, figure, parts, train

__all__ = ["Evaluation", "Run", "evaluate", "figure", "parts", "train"]


def __getattr__(name: str) -> Any:
    """The public names, with torch and all that they need imported at the first use of one."""
    if name not in __all__:
        raise AttributeError(f"module 'pipo' has no attribute {name!r}")
    # A library asks for a notebook's widgets, for progress bars that are not shown here.
    warnings.filterwarnings("ignore", message="IProgress not found")
    from pipo.imports import heavy_imports

    with heavy_imports():
        return getattr(importlib.import_module("pipo.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
