"""Check a model folder: config, tokenizer and weight files that are damaged, missing or too much."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from pipo.errors import ModelError, reason

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
ADAPTER_FILE = "adapter_config.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# What some two hundred architectures and their readers raise at files that they cannot use, or at what they
# do not know (an attention by name, a cache of ours): whatever Python came upon first.
FOREIGN_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    UnpicklingError,
    ValueError,
)


@contextmanager
def foreign(what: str) -> Iterator[None]:
    """Around code of a model that is not ours: what it raises becomes one line.

    Args:
        what: is tried, the beginning of the message.

    Raises:
        ModelError: naming the kind of error beside its text.
    """
    try:
        yield
    except (ModelError, torch.OutOfMemoryError):  # ours already, and no fault of the model's
        raise
    except FOREIGN_ERRORS as error:
        raise ModelError(f"{what} ({type(error).__name__}: {reason(error)})") from error


def read_config(path: str) -> PreTrainedConfig:
    """The configuration of a Hugging Face folder or hub id; code that it brings along is never run.

    Raises:
        ModelError: there is none, or it is of no use.
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        raise ModelError(f"model.path={path}: is a file; name the folder of a model in Hugging Face format")
    if folder.is_dir():
        _check_kind(path, folder)
        if not (folder / "config.json").is_file():
            raise ModelError(f"model.path={path}: this folder holds no model (config.json is missing)")
        with foreign(f"model.path={path}: config.json cannot be read"):
            return AutoConfig.from_pretrained(path, trust_remote_code=False)
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ModelError(f"model.path={path}: no such folder")
    with foreign(f"model.path={path}: neither a local folder nor to be had from the hub"):
        return AutoConfig.from_pretrained(path, trust_remote_code=False)


def parameter_count(path: str) -> int:
    """Parameters of a model, counted without reading its weights."""
    config = read_config(path)
    with foreign(f"model.path={path}: the model cannot be made"), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())


def _check_kind(path: str, folder: Path) -> None:
    """A folder of something else than a whole model in Hugging Face format.

    Raises:
        ModelError: saying what it holds.
    """
    if (folder / ADAPTER_FILE).is_file():  # beside a whole model, too: its weights are not what was trained
        raise ModelError(
            f"model.path={path}: holds adapters ({ADAPTER_FILE}) and is no whole model; adapters are merged "
            "where this folder is what eval.py or train.py is given as model="
        )
    other = sorted(file.name for file in folder.glob("*.gguf"))
    if other and not (folder / "config.json").is_file():
        raise ModelError(
            f"model.path={path}: holds a model of llama.cpp ({other[0]}); a folder in Hugging Face format is "
            "needed"
        )


def read_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder or hub id; code that it brings along is never run.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    folder = Path(path).expanduser()
    for name in _TOKENIZER_FILES:
        if (folder / name).is_file():
            read_object(path, folder / name)
    what = f"model.path={path}: no tokenizer can be read"
    try:
        with foreign(what):
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers library has nothing more particular
            raise
        raise ModelError(f"{what} ({reason(error)})") from error
    # Without its files, the library makes one that knows no words.
    files = getattr(tokenizer, "vocab_files_names", {}).values()
    if folder.is_dir() and files and not any((folder / name).is_file() for name in files):
        raise ModelError(f"{what}: none of {', '.join(sorted(files))} is in the folder")
    return tokenizer


def read_object(path: str, file: Path) -> dict[str, Any]:
    """A file that must hold a JSON object.

    Args:
        path: of the model, for the message.
        file: to be read.

    Raises:
        ModelError: it does not.
    """
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"model.path={path}: {file.name} cannot be read, it is not JSON ({reason(error)})"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"model.path={path}: {file.name} must hold a JSON object")
    return content


def check_weight_files(path: str) -> None:
    """The files of weights in a local folder: all that the index names are there, and none is cut short.

    Raises:
        ModelError: naming the file.
    """
    folder = Path(path).expanduser()
    files = [folder / WEIGHTS_FILE]
    index = folder / INDEX_FILE
    if not files[0].is_file():
        shards = read_object(path, index).get("weight_map") if index.is_file() else {}
        if not isinstance(shards, dict):
            raise ModelError(f"model.path={path}: {INDEX_FILE} has no weight_map")
        files = [folder / str(name) for name in sorted(set(map(str, shards.values())))]
    for file in files:
        if not file.is_file():
            raise ModelError(f"model.path={path}: {file.name} is missing, which {INDEX_FILE} names")
        with foreign(f"model.path={path}: {file.name} cannot be read"), safe_open(file, framework="pt"):
            pass


def check_tensors(path: str, loading: dict[str, Any]) -> None:
    """Every tensor of the model was in the files, in its shape, and no other; a tied one need not be there.

    Args:
        path: of the model.
        loading: what transformers says about loading it.

    Raises:
        ModelError: naming the first tensor that is not as it must be.
    """
    wrong = sorted(loading["mismatched_keys"])
    if wrong:
        name, found, wanted = wrong[0]
        raise ModelError(
            f"model.path={path}: {_counted(wrong)} another shape than config.json says: {name} is "
            f"{list(found)} and must be {list(wanted)}"
        )
    for key, what, advice in (
        ("missing_keys", "missing in its files", "fetch the files again, or correct config.json"),
        ("unexpected_keys", "in its files that are no part of it", "take them out, or correct config.json"),
    ):
        names = sorted(loading[key])
        if names:
            verb = "is" if len(names) == 1 else "are"
            raise ModelError(
                f"model.path={path}: {len(names)} tensor{'s'[: len(names) > 1]} {verb} {what}: "
                f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}; {advice}"
            )


def _counted(names: Collection[object]) -> str:
    return "1 tensor has" if len(names) == 1 else f"{len(names)} tensors have"


def check_finite(source: str, model: nn.Module) -> None:
    """All weights are numbers.

    Args:
        source: where they come from, for the message.
        model: holds them.

    Raises:
        ModelError: naming the first tensor with one that is not.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() and not _finite(tensor):
            raise ModelError(
                f"{source}: {name} holds numbers that are not finite (NaN or infinity); the file is damaged, "
                "or its training went wrong"
            )


def _finite(tensor: torch.Tensor) -> bool:
    low, high = tensor.aminmax()  # one pass, without a mask as large as the tensor; NaN gets through
    return bool(low.isfinite() and high.isfinite())
