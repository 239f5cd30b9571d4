"""The decode step that is written out, against the library's forward pass, token by token and bit by bit."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from pipo.errors import ModelError
from pipo.lm.attention import ATTENTION_NAME, rows_alone
from pipo.lm.cache import PreallocatedCache
from pipo.lm.capabilities import check_decoding
from pipo.lm.decoding import MANY_ROWS, plain_decoder
from pipo.lm.library_names import checkpoint_activations
from pipo.lm.policy import Policy

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
PLAIN = {
    "llama": LlamaConfig(**SIZES),
    "llama with biases and scaled positions": LlamaConfig(
        **SIZES, attention_bias=True, mlp_bias=True, head_dim=16, rope_parameters=LLAMA3
    ),
    "qwen2, whose queries have biases": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
}
WIDTH, NEW = 5, 6


def policy_of(config, dtype: torch.dtype = torch.float32) -> Policy:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION_NAME)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:  # norms and biases, which begin as ones and zeros
            torch.nn.init.normal_(weight, 1.0 if "norm" in name else 0.0, 0.3)
    return Policy(model.to(dtype)).eval()


def prefilled(policy: Policy) -> PreallocatedCache:
    """A cache in which two prompts of different lengths stand."""
    cache = PreallocatedCache(2, WIDTH + NEW)
    ids = torch.randint(2, 50, (2, WIDTH), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(WIDTH)[None].expand(2, -1)
    policy.next_token_logits(ids, positions, cache, None, last=torch.tensor([WIDTH - 1, 2]))
    return cache


def test_checkpointed_activations_do_not_change_the_step():
    policy = policy_of(PLAIN["qwen3"])
    checkpoint_activations(policy.model)
    assert plain_decoder(policy.backbone, policy.head, prefilled(policy), WIDTH + NEW) is not None


@pytest.mark.parametrize("precision", ["float32", "bfloat16 products", "bfloat16 weights"])
@pytest.mark.parametrize("family", PLAIN)
def test_every_step_equals_the_librarys(family, precision):
    policy = policy_of(PLAIN[family], torch.bfloat16 if precision == "bfloat16 weights" else torch.float32)
    policy.compute_dtype = torch.bfloat16 if precision == "bfloat16 products" else None
    tokens = torch.randint(2, 50, (NEW, 2), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode(), policy.precision():
        cache = prefilled(policy)
        twin = copy.deepcopy(cache)
        step = plain_decoder(policy.backbone, policy.head, cache, WIDTH + NEW)
        assert step is not None
        for done in range(NEW):
            at = torch.tensor([WIDTH, 3]) + done
            visible = torch.ones(2, 1, 1, WIDTH + done + 1, dtype=torch.bool)
            visible[1, 0, 0, 3:WIDTH] = False
            if done == NEW - 1:  # one row is left
                for each in (cache, twin):
                    each.select(torch.tensor([1]))
                at, visible, tokens = at[1:], visible[1:], tokens[:, 1:]
            got = step(tokens[done], at, visible)
            expected = policy.next_token_logits(tokens[done, :, None], at[:, None], twin, visible)
            assert got.dtype == torch.float32
            assert torch.equal(got, expected), f"step {done}: {(got - expected).abs().max()}"
        for ours, theirs in zip(cache.layers, twin.layers, strict=True):
            assert torch.equal(ours.keys, theirs.keys)
            assert torch.equal(ours.values, theirs.values)


def test_no_key_is_masked_where_all_rows_are_of_one_length():
    policy = policy_of(PLAIN["qwen3"])
    with torch.inference_mode():
        cache = prefilled(policy)
        twin = copy.deepcopy(cache)
        at, tokens = torch.tensor([WIDTH, WIDTH]), torch.tensor([7, 8])
        got = policy.decoder(cache, WIDTH + NEW)(tokens, at, None)
        expected = policy.next_token_logits(tokens[:, None], at[:, None], twin, None)
    assert torch.equal(got, expected)


def test_many_rows_multiply_by_weights_in_another_order_of_memory_with_the_same_bits():
    policy = policy_of(PLAIN["llama with biases and scaled positions"])
    many = torch.arange(MANY_ROWS + 5) % 2
    with torch.inference_mode():
        cache = prefilled(policy)
        cache.select(many)
        twin = copy.deepcopy(cache)
        at = torch.full_like(many, WIDTH)
        got = policy.decoder(cache, WIDTH + NEW)(many + 7, at, None)
        expected = policy.next_token_logits((many + 7)[:, None], at[:, None], twin, None)
    assert torch.equal(got, expected)


def hooked(policy: Policy) -> None:
    policy.backbone.layers[1].mlp.register_forward_hook(lambda module, given, out: out * 2)


def adapted(policy: Policy) -> None:
    class Adapted(torch.nn.Linear):
        def forward(self, given):
            return super().forward(given) * 2

    policy.backbone.layers[0].mlp.up_proj = Adapted(32, 48, bias=False)


@pytest.mark.parametrize("change", [hooked, adapted])
def test_a_model_that_was_changed_is_decoded_by_its_own_forward_pass(change):
    policy = policy_of(PLAIN["qwen3"])
    change(policy)
    with torch.inference_mode():
        cache = prefilled(policy)
        twin = copy.deepcopy(cache)
        assert plain_decoder(policy.backbone, policy.head, cache, WIDTH + NEW) is None
        at, tokens = torch.tensor([WIDTH, WIDTH]), torch.tensor([7, 8])
        got = policy.decoder(cache, WIDTH + NEW)(tokens, at, None)
        assert torch.equal(got, policy.next_token_logits(tokens[:, None], at[:, None], twin, None))


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, sliding_window=None),
        LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
    ],
    ids=["another architecture", "positions that depend on the longest row"],
)
def test_other_layouts_are_left_to_the_library(config):
    policy = policy_of(config)
    assert plain_decoder(policy.backbone, policy.head, PreallocatedCache(2, 8), 8) is None


def test_the_check_at_loading_refuses_a_model_that_decodes_any_token_otherwise():
    # Compared are the last token of prompts of three and of one, and three more in each of two rows of both;
    # the second row ends after two.
    backbone = policy_of(PLAIN["llama"]).backbone
    alone = rows_alone(backbone)
    check_decoding(backbone, alone)
    refused = set()
    for row, at in ((row, at) for row, states in enumerate(alone) for at in range(len(states))):
        other = [states.clone() for states in alone]
        other[row][at] *= -1
        try:
            check_decoding(backbone, other)
        except ModelError:
            refused.add((row, at))
    firsts = {(0, 2), (0, 3), (0, 4), (0, 5), (1, 3), (1, 4)}
    assert refused == firsts | {(2, 0), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3)}
