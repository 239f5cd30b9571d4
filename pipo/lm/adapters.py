"""LoRA adapters (peft): put on a policy, taken off for a reference, written, and merged into the weights."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pipo.errors import ConfigError, ModelError
from pipo.lm.model_files import ADAPTER_FILE, foreign, read_object
from pipo.lm.options import Lora

if TYPE_CHECKING:
    from peft import LoraModel, PeftModel
    from transformers import PreTrainedModel

    from pipo.lm.policy import Policy

ALL = "all-linear"
# What peft calls an adapter that is the only one.
NAME = "default"
_WEIGHTS_FILE = "adapter_model.safetensors"
# In front of the names of tensors in an adapter's file: peft's own model around the model.
_PREFIX = "base_model.model."


def check_installed() -> None:
    """The library is an extra of this package.

    Raises:
        ConfigError: it is not there.
    """
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("model.lora: peft is not installed: pip install 'pipo[lora]'")


def add_adapters(policy: Policy, lora: Lora, seed: int) -> LoraModel:
    """Put adapters on a policy, in place; its own weights are frozen, and leave its state.

    An adapter begins as nothing, because one of its two factors is zero, so the policy stays what it was. It
    is float32 whatever the model is, as its updates would be rounded away in less.

    Args:
        policy: on the CPU, whole.
        lora: with a rank.
        seed: of the other factor; alike on all processes, which send each other nothing.

    Returns:
        What can merge them into the weights.

    Raises:
        ConfigError: a target is no linear layer of the model.
    """
    check_installed()
    from peft import LoraConfig, LoraModel

    assert lora.rank is not None
    names = _layer_names(policy, lora.targets)
    # Without dropout, which would make the updated policy another one than the policy that sampled.
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        target_modules=names,
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=_transposed(policy, names),
        task_type="CAUSAL_LM",
    )
    policy.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tuner = LoraModel(policy.model, config, NAME)
    for name, parameter in policy.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    policy.lora = lora
    keep_trained(policy)
    return tuner


def _linear_layers(policy: Policy) -> dict[str, nn.Module]:
    """The layers that can have an adapter, by name: all but the head, whose weights are read directly."""
    layers = policy.model.named_modules()
    return {n: m for n, m in layers if isinstance(m, (nn.Linear, Conv1D)) and m is not policy.head}


def _layer_names(policy: Policy, targets: str | Collection[str]) -> list[str]:
    """Ends of names, as peft takes them, that match some layer each.

    Raises:
        ConfigError: one matches none, or there is none at all.
    """
    layers = _linear_layers(policy)
    there = sorted({name.rpartition(".")[2] for name in layers})
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if ALL in wanted:
        wanted = there
    lost = [each for each in wanted if not any(f".{name}".endswith(f".{each}") for name in layers)]
    if lost or not wanted:
        raise ConfigError(
            f"model.lora.targets: no linear layer of the model is called {', '.join(lost) or 'nothing'}; "
            f"there are {', '.join(there)}, and {ALL} for all of them"
        )
    return sorted(set(wanted))


def _transposed(policy: Policy, names: Collection[str]) -> bool:
    """Whether the layers keep their weights as GPT-2 does, [inputs, outputs]."""
    layers = _linear_layers(policy).items()
    return any(isinstance(m, Conv1D) for n, m in layers for each in names if f".{n}".endswith(f".{each}"))


def keep_trained(model: nn.Module) -> None:
    """Leave frozen weights out of a model's state, and do not miss them when one is loaded.

    They are read from the model's own files. What is saved has the size of what is trained.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    left_out = model.state_dict().keys() - trained

    def saved(_: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
        for name in left_out:
            state.pop(f"{prefix}{name}", None)

    def loaded(_: nn.Module, keys: Any) -> None:
        keys.missing_keys[:] = [key for key in keys.missing_keys if not _ends(key, left_out)]

    model.register_state_dict_post_hook(saved)
    model.register_load_state_dict_post_hook(loaded)


def _ends(key: str, names: Collection[str]) -> bool:
    """Whether a key is one of the names behind the path of a module."""
    parts = key.split(".")
    return any(".".join(parts[i:]) in names for i in range(len(parts)))


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The model as it was before any training, for as long as the context lasts.

    What adapters add is multiplied by zero. The library's own switch would also say that they need no
    gradient, which a sharded model asks once, when it first gathers them.
    """
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    scales = [layer.scaling[NAME] for layer in layers]
    for layer in layers:
        layer.scaling[NAME] = 0.0
    try:
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling[NAME] = scale


def write_adapter(model: PreTrainedModel, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """An adapter as peft and vLLM read it.

    Args:
        model: that it is on.
        tensors: its weights, whole, by their names in the model; any others are passed over.
        folder: is there.
    """
    from peft import PeftConfig

    config: PeftConfig = copy.copy(model.peft_config[NAME])  # type: ignore[attr-defined]
    base = Path(str(model.name_or_path))
    config.base_model_name_or_path = str(base.resolve()) if base.is_dir() else model.name_or_path
    config.inference_mode = True
    config.save_pretrained(str(folder))
    named = {
        f"{_PREFIX}{name.replace(f'.{NAME}.', '.')}": value
        for name, value in tensors.items()
        if ".lora_" in name
    }
    contiguous = {name: value.detach().cpu().contiguous() for name, value in named.items()}
    save_file(contiguous, folder / _WEIGHTS_FILE, metadata={"format": "pt"})


def base_of(folder: Path) -> str:
    """The folder or hub id of the model that an adapter belongs to.

    Raises:
        ModelError: it is no LoRA adapter, or does not say.
    """
    content = read_object(str(folder), folder / ADAPTER_FILE)
    kind, base = content.get("peft_type"), content.get("base_model_name_or_path")
    if kind != "LORA":
        raise ModelError(f"model.path={folder}: {ADAPTER_FILE} says peft_type={kind}; only LORA is supported")
    if not isinstance(base, str) or not base:
        raise ModelError(f"model.path={folder}: {ADAPTER_FILE} names no base_model_name_or_path")
    return base


def apply_folder(policy: Policy, folder: Path) -> PeftModel:
    """Put the adapters of a folder on a policy.

    Args:
        policy: the model that they belong to, on the CPU.
        folder: see :func:`write_adapter`.

    Returns:
        What can merge them into the weights.

    Raises:
        ModelError: the folder is damaged, or of another model.
    """
    check_installed()
    from peft import PeftConfig, PeftModel

    if not (folder / _WEIGHTS_FILE).is_file():
        raise ModelError(f"model.path={folder}: {_WEIGHTS_FILE} is missing")
    other = f"model.path={folder}: not an adapter of {policy.model.name_or_path}"
    with foreign(other), torch.device("cpu"):
        wrapped = PeftModel(policy.model, PeftConfig.from_pretrained(str(folder)), NAME)
        found = wrapped.load_adapter(str(folder), NAME, torch_device="cpu")
    wrong = [*found.unexpected_keys, *(key for key in found.missing_keys if ".lora_" in key)]
    if wrong:
        raise ModelError(f"{other} ({len(wrong)} tensors too many or too few, the first is {wrong[0]})")
    return wrapped
