"""Model families against their own eager forward pass, and the families that are refused."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from pipo.errors import ConfigError
from pipo.modules.attention import ATTENTION_NAME
from pipo.modules.policy import Policy, load_policy, load_tokenizer, most_positions, stop_token_ids
from tests.conftest import ROOT, packed

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
SMALL = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
SUPPORTED = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "mistral without a window": MistralConfig(**SIZES, sliding_window=None),
    "qwen3-moe": Qwen3MoeConfig(
        **SIZES,
        head_dim=8,
        moe_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        experts_implementation="eager",
    ),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, **SMALL),
    "gpt-neox": GPTNeoXConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, **SMALL
    ),
}
REFUSED = {
    "sliding-window": MistralConfig(**SIZES, sliding_window=8),
    "logits_scaling": GraniteConfig(**SIZES, logits_scaling=2.0),
    "logit_scale": CohereConfig(**SIZES, logit_scale=0.25),
    "softcapping": Gemma2Config(**SIZES, head_dim=8),
}


def build(config, attention: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


@pytest.mark.parametrize("family", SUPPORTED)
def test_logprobs_equal_the_models_own_logits(family):
    config = SUPPORTED[family]
    config.initializer_range = 0.3
    own, ours = build(config, "eager"), Policy(build(config, ATTENTION_NAME)).eval()
    ids = torch.randint(2, 50, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[:, 4:] = True
    with torch.no_grad():
        got = ours(packed(ids, mask), 0.7).view(3, 8)
        logits = own(input_ids=ids).logits[:, 3:-1] / 0.7
    expected = logits.log_softmax(-1).gather(-1, ids[:, 4:, None])[..., 0]
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("reason", REFUSED)
def test_what_would_silently_be_wrong_is_refused(reason):
    with pytest.raises(ConfigError, match=reason):
        Policy(build(REFUSED[reason], "eager"))


def rope(kind: str, **more: float) -> dict:
    return {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **more}


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (LlamaConfig(**SIZES, max_position_embeddings=300), 300),
        (GPT2Config(n_embd=32, n_layer=1, n_head=4, n_positions=77, **SMALL), 77),
        # Stretched to four times as far as it was trained; where the length of training is given, once only.
        (LlamaConfig(**SIZES, max_position_embeddings=300, rope_parameters=rope("linear")), 1200),
        (
            LlamaConfig(
                **SIZES,
                max_position_embeddings=1200,
                rope_parameters=rope("yarn", original_max_position_embeddings=300),
            ),
            1200,
        ),
        # Beyond the first length, these choose frequencies by the longest row of a forward pass.
        (LlamaConfig(**SIZES, max_position_embeddings=300, rope_parameters=rope("dynamic")), 300),
        (
            LlamaConfig(
                **SIZES,
                max_position_embeddings=1200,
                rope_parameters=rope(
                    "longrope",
                    original_max_position_embeddings=300,
                    short_factor=[1.0] * 4,
                    long_factor=[2.0] * 4,
                ),
            ),
            300,
        ),
    ],
    ids=["plain", "learnt", "linear", "yarn", "dynamic", "longrope"],
)
def test_how_many_tokens_a_model_can_place(tmp_path, config, positions):
    config.save_pretrained(tmp_path)
    assert most_positions(str(tmp_path)) == positions


def test_dropout_is_switched_off(tmp_path):
    build(
        GPT2Config(n_embd=32, n_layer=1, n_head=4, attn_pdrop=0.5, resid_pdrop=0.5, **SMALL), "eager"
    ).save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path), "float32")
    assert policy.training
    ids, mask = torch.arange(2, 8)[None], torch.ones(1, 6, dtype=torch.bool)
    mask[:, :2] = False
    assert torch.equal(policy(packed(ids, mask), 1.0), policy(packed(ids, mask), 1.0))


def test_stop_tokens_are_the_tokenizers_and_the_generation_configurations(tmp_path):
    source = ROOT / "pipo/assets/tiny"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    generation = json.loads((source / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps({**generation, "eos_token_id": [1, 7]}))
    tokenizer = load_tokenizer(str(tmp_path))
    assert stop_token_ids(str(tmp_path), tokenizer) == {tokenizer.eos_token_id, 1, 7}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "weights cannot be read"),
        ("config.json", "config.json"),
    ],
)
def test_damaged_files_are_one_clear_error(tmp_path, name, message):
    source = ROOT / "pipo/assets/tiny"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes(b"not what it was")

    def load() -> None:
        load_tokenizer(str(tmp_path))
        load_policy(str(tmp_path), "float32")

    with pytest.raises(ConfigError, match=message):
        load()
