"""Model families against their own eager forward pass, and the families that are refused."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BloomConfig,
    CohereConfig,
    DeepseekV2Config,
    DeepseekV3Config,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    GraniteConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from pipo.errors import ConfigError, ModelError
from pipo.lm.attention import ATTENTION_NAME
from pipo.lm.packing import pack
from pipo.lm.policy import Policy, load_policy, load_tokenizer, most_positions, stop_token_ids
from pipo.rollout.local import LocalEngine, LocalEngineConfig
from pipo.rollout.options import SamplingParams
from tests.conftest import ROOT
from tests.policies import packed

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
# Latent attention: the keys of a head are 16 wide, the values 8.
LATENT = {
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "moe_intermediate_size": 16,
    "experts_implementation": "eager",
}
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
    "deepseek-v2": DeepseekV2Config(**{**SIZES, **LATENT}),
    "deepseek-v3": DeepseekV3Config(**{**SIZES, **LATENT}),
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


UNSUPPORTED = {
    "an attention of its own": GPTNeoConfig(
        hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global"], 2]], **SMALL
    ),
    "rotary": GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, **SMALL),
    "alibi": MptConfig(d_model=32, n_heads=4, n_layers=2, **SMALL),
    "falcon": FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=False, **SMALL),
    "bloom": BloomConfig(hidden_size=32, n_layer=2, n_head=4, **SMALL),
    "no attention": MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, **SMALL),
    "learnt positions from a mask": BartConfig(
        d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=48, pad_token_id=0, **SMALL
    ),
    "no backbone": Llama4TextConfig(
        **SIZES, head_dim=8, num_local_experts=2, intermediate_size_mlp=48, layer_types=["full_attention"] * 2
    ),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_a_model_that_works_otherwise_is_one_line_as_soon_as_it_is_loaded(tmp_path, kind):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(UNSUPPORTED[kind]).save_pretrained(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_policy(str(tmp_path), "float32")
    assert "\n" not in str(caught.value)
    assert (
        "not supported" in str(caught.value)
        or "required" in str(caught.value)
        or "cannot" in str(caught.value)
    )


@pytest.mark.parametrize("family", SUPPORTED)
def test_what_is_sampled_has_the_log_probabilities_of_the_update(tmp_path, family):
    build(SUPPORTED[family], "eager").save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path), "float32")
    engine = LocalEngine(policy, LocalEngineConfig(max_rows=8, compact_below=0.75))
    sampling = SamplingParams(
        temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, max_response_tokens=6, stop_token_ids=frozenset({1})
    )
    prompts = [(5, 6, 7), (9,)]
    found = engine.generate(prompts, 2, sampling, 0)
    rows = pack(prompts, 2, found.response_ids, found.lengths, found.sampled, range(4))
    torch.testing.assert_close(
        policy(rows, 1.0).detach(), found.logprobs[found.response_mask], rtol=0, atol=2e-5
    )


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
    source = ROOT / "pipo/lm/assets/tiny"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    generation = json.loads((source / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps({**generation, "eos_token_id": [1, 7]}))
    tokenizer = load_tokenizer(str(tmp_path))
    assert stop_token_ids(str(tmp_path), tokenizer) == {tokenizer.eos_token_id, 1, 7}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "model.safetensors cannot be read"),
        ("config.json", "config.json"),
    ],
)
def test_damaged_files_are_one_clear_error(tmp_path, name, message):
    source = ROOT / "pipo/lm/assets/tiny"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes(b"not what it was")

    def load() -> None:
        load_tokenizer(str(tmp_path))
        load_policy(str(tmp_path), "float32")

    with pytest.raises(ConfigError, match=message):
        load()


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        (None, [1, 7], {1, 7}),
        (None, 7, {1, 7}),  # the tokenizer's own is 1
        ({}, [7], {1, 7}),  # a file that names none
        ({"eos_token_id": 9}, [7], {1, 9}),  # generate() goes by the first file then
        ({"eos_token_id": [9, 11]}, None, {1, 9, 11}),
        (None, None, {1}),
    ],
)
def test_stop_tokens_may_stand_in_either_file(tmp_path, generation, config, expected):
    source = ROOT / "pipo/lm/assets/tiny"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    held = json.loads((source / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**held, "eos_token_id": config}))
    (tmp_path / "generation_config.json").unlink()
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert stop_token_ids(str(tmp_path), load_tokenizer(str(tmp_path))) == expected
