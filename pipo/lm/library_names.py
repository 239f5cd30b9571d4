"""Call parts of transformers by the name that the installed release gives them."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from transformers import PreTrainedModel


@cache
def cache_argument(kind: type[PreTrainedModel]) -> str:
    """The name under which a model takes its key-value cache: older releases call it ``past_key_values``."""
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Have a model compute its activations again in the backward pass; older releases say "gradient"."""
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)()
    # The library makes embeddings ask for gradients, by a hook that only an older way of checkpointing needs.
    # With a hook in the model, sampling would go by the general decode step.
    model.disable_input_require_grads()
