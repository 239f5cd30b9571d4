"""Model folders as people have them: whatever is damaged, missing or too much is one error that names it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipo.errors import ModelError
from pipo.lm.model_files import read_config
from pipo.lm.policy import load_policy, load_tokenizer, load_weights, stop_token_ids
from pipo.lm.spec import ModelSpec
from tests.conftest import ROOT

TINY = ROOT / "pipo/lm/assets/tiny"
NORM, GATE = "model.layers.0.input_layernorm.weight", "model.layers.0.mlp.gate_proj.weight"
EMBEDDING, WEIGHTS = "model.embed_tokens.weight", "model.safetensors"


def load(folder: Path) -> None:
    """Everything that is read of a model before any work."""
    stop_token_ids(str(folder), load_tokenizer(str(folder)))
    ModelSpec(name="x", path=str(folder), dtype="float32", gradient_checkpointing=False).load()


def tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS, metadata={"format": "pt"})

    return apply


def value(name: str, number: float) -> Callable[[Path], None]:
    return tensors(lambda held: held[name].view(-1).__setitem__(3, number))


def fields(name: str, **changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return apply


def content(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def sharded(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        model = load_policy(str(folder), "float32").model
        (folder / WEIGHTS).unlink()
        model.save_pretrained(folder, max_shard_size="1MB")
        change(folder)

    return apply


def cut(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-100]) and None


SECOND = "model-00002-of-00006.safetensors"
DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (tensors(lambda held: held.pop(NORM)), f"1 tensor is missing in its files: {NORM}"),
    "no embedding": (
        tensors(lambda held: held.pop("model.embed_tokens.weight")),
        "model.embed_tokens.weight",
    ),
    "too much": (tensors(lambda held: held.update(v_head=torch.zeros(3))), "no part of it: v_head"),
    "shape": (
        tensors(lambda held: held.update({GATE: held[GATE][:-1]})),
        f"{GATE} is .479, 160.",
    ),
    "nan": (value(GATE, float("nan")), f"{GATE} holds numbers that are not finite"),
    "infinity": (value(NORM, float("-inf")), f"{NORM} holds numbers that are not finite"),
    "cut": (cut(WEIGHTS), f"{WEIGHTS} cannot be read"),
    "a page": (content(WEIGHTS, b"<!DOCTYPE html><html>"), f"{WEIGHTS} cannot be read"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "the model cannot be loaded"),
    "no shard": (sharded(lambda folder: (folder / SECOND).unlink()), f"{SECOND} is missing"),
    "cut shard": (sharded(cut(SECOND)), f"{SECOND} cannot be read"),
    "index": (sharded(content(f"{WEIGHTS}.index.json", b"{")), "index.json cannot be read, it is not JSON"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "config": (content("config.json", b"null"), "config.json cannot be read"),
    "deep config": (content("config.json", b"[" * 100_000), "config.json cannot be read"),
    "kind": (fields("config.json", model_type="of_tomorrow"), "config.json cannot be read.*of_tomorrow"),
    "no kind": (fields("config.json", model_type=None), "config.json cannot be read"),
    "code": (fields("config.json", model_type="its_own", auto_map={"AutoConfig": "x.X"}), "custom code"),
    "heads": (fields("config.json", num_attention_heads=0), "the model cannot be loaded"),
    "activation": (
        fields("config.json", hidden_act="of_tomorrow"),
        "cannot be loaded.*of_tomorrow",
    ),
    "tokenizer": (content("tokenizer.json", b"[]"), "tokenizer.json must hold a JSON object"),
    "tokenizer config": (content("tokenizer_config.json", b"\xff\xfe\x00"), "tokenizer_config.json cannot"),
    "generation": (content("generation_config.json", b"{"), "generation_config.json cannot be read"),
    "stops": (fields("generation_config.json", eos_token_id="</s>"), "eos_token_id must be token ids"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    copied = tmp_path / "model"
    shutil.copytree(TINY, copied)
    return copied


@pytest.mark.parametrize("what", DAMAGED)
def test_what_is_wrong_with_a_folder_is_named_in_one_line(folder, what):
    change, message = DAMAGED[what]
    change(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_in_this_format_is_told_apart(tmp_path):
    shutil.copytree(TINY, tmp_path / "both")
    for name in ("both", "adapters"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "adapter_config.json").write_text("{}")
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama/q4.gguf").write_bytes(b"GGUF")
    for path, what in (
        ("both", "holds adapters (adapter_config.json) and is no whole model"),
        ("adapters", "holds adapters (adapter_config.json)"),
        ("llama", "holds a model of llama.cpp (q4.gguf)"),
        ("llama/q4.gguf", "is a file; name the folder"),
    ):
        with pytest.raises(ModelError, match=re.escape(f"model.path={tmp_path / path}: {what}")):
            read_config(str(tmp_path / path))


def test_a_folder_without_a_tokenizer_is_not_given_an_empty_one(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match="no tokenizer can be read: none of "):
        load(folder)


def test_tied_weights_and_what_old_files_hold_beside_them_are_nothing_wrong(folder):
    held = load_file(folder / WEIGHTS)
    assert "lm_head.weight" not in held  # tied to the embedding
    # A buffer that the library saved with every layer until it moved; it ignores it by itself.
    held["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(3)
    save_file(held, folder / WEIGHTS, metadata={"format": "pt"})
    sharded(lambda _: None)(folder)
    load(folder)


def test_a_checkpoint_of_another_model_or_of_no_numbers_is_one_error(tmp_path):
    policy = load_policy(str(TINY), "float32")
    state = {f"policy.{name}": tensor.clone() for name, tensor in policy.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "whole")
    load_weights(policy, tmp_path / "whole")
    torch.save({"state_dict": {**state, f"policy.model.{GATE}": torch.zeros(3, 3)}}, tmp_path / "other")
    with pytest.raises(ModelError, match="not the weights of the model"):
        load_weights(policy, tmp_path / "other")
    state[f"policy.model.{GATE}"][0, 0] = float("nan")
    torch.save({"state_dict": state}, tmp_path / "nan")
    with pytest.raises(ModelError, match=f"{GATE} holds numbers that are not finite"):
        load_weights(policy, tmp_path / "nan")
