"""Packed rows: what they begin with in common is read once, and no response sees another."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, BartConfig, FalconH1Config, Lfm2Config, PreTrainedModel

from pipo.errors import ConfigError
from pipo.lm.attention import ATTENTION_NAME, check_packing, rows_alone
from pipo.lm.critic import Critic
from pipo.lm.library_names import checkpoint_activations
from pipo.lm.packing import LENGTH_RATIO, Gather, pack
from pipo.lm.policy import Policy
from tests.policies import make_policy
from tests.unit.test_policy import SIZES, SMALL, SUPPORTED, build

PROMPTS = [(5, 6, 7, 8), (9,), (5, 6, 7, 8)]
GROUP_SIZE = 3
LENGTHS = torch.tensor([1, 9, 0, 4, 2, 8, 3, 5, 1])
ROWS = [0, 1, 2, 4, 5, 7]
RESPONSES = torch.randint(2, 50, (9, 9), generator=torch.Generator().manual_seed(1))
# Row 4 is the beginning of row 5; row 7, with the same prompt as row 1, begins with three of its tokens.
RESPONSES[5, :2] = RESPONSES[4, :2]
RESPONSES[7, :3] = RESPONSES[1, :3]
WHOLE = torch.arange(9) < LENGTHS[:, None]


def packed(rows=ROWS):
    return pack(PROMPTS, GROUP_SIZE, RESPONSES, LENGTHS, WHOLE, rows)


def one_by_one(model, rows=ROWS) -> torch.Tensor:
    """Log-probabilities of each row's response, from a forward pass of its own without any of our code."""
    said = []
    for row in rows:
        prompt, response = PROMPTS[row // GROUP_SIZE], RESPONSES[row, : LENGTHS[row]]
        ids = torch.cat([torch.tensor(prompt), response])[None]
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        said.append(logits.log_softmax(-1).gather(-1, response[:, None])[:, 0])
    return torch.cat(said)


def test_a_common_beginning_is_read_once_and_no_last_token():
    rows = packed()
    responses = [RESPONSES[i, : max(0, LENGTHS[i] - 1)].tolist() for i in ROWS]
    # Rows 0, 1, 2 answer the first prompt, 4 and 5 the second, and row 7 the third, which is the first again.
    expected = [*PROMPTS[0], *responses[0], *responses[1], *responses[2]]
    expected += [*PROMPTS[1], *responses[3], *responses[4][1:], *responses[5][3:]]
    assert rows.input_ids.tolist() == expected
    places = [*range(4), *range(4, 12), *range(1), *range(1, 2), *range(2, 8), 7]
    assert rows.position_ids.tolist() == places


def test_attention_finds_whole_rows_of_similar_length():
    rows = packed()
    found = []
    for block in rows.layout.blocks:
        counts = (block.index != 0).sum(dim=1) + (block.index[:, 0] == 0)
        assert counts.max() <= LENGTH_RATIO * counts.min()
        found += [rows.input_ids[line[:n]].tolist() for line, n in zip(block.index, counts, strict=True)]
    # Rows 0, 2 and 4 are beginnings of others, which have their tokens.
    wanted = [[*PROMPTS[i // 3], *RESPONSES[i, : LENGTHS[i] - 1].tolist()] for i in (1, 5, 7)]
    assert sorted(found) == sorted(wanted)
    flat = torch.cat([block.index.flatten() for block in rows.layout.blocks])
    assert torch.equal(flat[rows.layout.back], torch.arange(len(rows.input_ids)))


def test_equal_rows_are_read_once_and_scored_each():
    responses = torch.tensor([[4, 5, 6], [4, 5, 6]])
    rows = pack([(7, 8)], 2, responses, torch.tensor([3, 3]), torch.ones(2, 3, dtype=torch.bool), [0, 1])
    assert rows.input_ids.tolist() == [7, 8, 4, 5]
    assert [block.index.tolist() for block in rows.layout.blocks] == [[[0, 1, 2, 3]]]
    assert rows.targets.tolist() == [4, 5, 6, 4, 5, 6]
    assert rows.predecessors.index.tolist() == [1, 2, 3, 1, 2, 3]


def test_each_beginning_stands_once_and_predicts_what_follows_it():
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        # Two different tokens, so that rows part, end and go on in many ways.
        prompts = [tuple(torch.randint(2, (n,), generator=generator).tolist()) for n in (1, 2, 3)]
        responses = torch.randint(2, (6, 5), generator=generator)
        lengths = torch.randint(6, (6,), generator=generator)
        whole = torch.arange(5) < lengths[:, None]
        rows = pack(prompts, 2, responses, lengths, whole, range(6))
        said = [(*prompts[i // 2], *responses[i, : lengths[i]].tolist()) for i in range(6)]
        before = [(len(prompts[i // 2]), len(text)) for i, text in enumerate(said)]
        scored = [
            text[:at] for text, (first, end) in zip(said, before, strict=True) for at in range(first, end)
        ]
        texts: dict[int, tuple[int, ...]] = {}  # what ends with each packed token
        for line in (line for block in rows.layout.blocks for line in block.index.tolist()):
            tokens = [line[0], *(token for token in line[1:] if token)]  # 0 is padding, or a row's first
            for end, token in enumerate(tokens, start=1):
                text = tuple(rows.input_ids[tokens[:end]].tolist())
                assert texts.setdefault(token, text) == text
                assert rows.position_ids[token] == end - 1
        assert len(set(texts.values())) == len(texts) == len(rows.input_ids)
        assert [texts[token] for token in rows.predecessors.index.tolist()] == scored


@pytest.mark.parametrize("family", SUPPORTED)
def test_log_probabilities_and_gradients_are_those_of_one_row_at_a_time(family):
    config = SUPPORTED[family]
    config.initializer_range = 0.3
    own, ours = build(config, "eager").double(), Policy(build(config, ATTENTION_NAME).double())
    weights = torch.randn(int(LENGTHS[ROWS].sum()), generator=torch.Generator().manual_seed(2)).double()
    expected, got = one_by_one(own), ours(packed(), 1.0)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)  # rotary angles are float32 products
    (expected * weights).sum().backward()
    (got * weights).sum().backward()
    for (name, theirs), parameter in zip(own.named_parameters(), ours.model.parameters(), strict=True):
        difference = (theirs.grad - parameter.grad).norm() / theirs.grad.norm().clamp(min=1e-9)
        assert difference < 1e-5, name


def test_checkpointed_gradients_are_the_same():
    gradients = []
    for checkpointing in (False, True):
        policy = make_policy(vocab=50).train()
        if checkpointing:
            checkpoint_activations(policy.model)
        policy(packed(), 1.0).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters()]))
    assert gradients[0].norm() > 0
    assert torch.equal(*gradients)


def test_the_critic_reads_the_same_states():
    critic, policy = Critic(make_policy(vocab=50)), make_policy(vocab=50)
    torch.nn.init.normal_(critic.head.weight)
    expected = []
    for row in ROWS:
        prompt = PROMPTS[row // GROUP_SIZE]
        ids = torch.tensor([[*prompt, *RESPONSES[row, : max(0, LENGTHS[row] - 1)].tolist()]])
        hidden = policy.model.base_model(input_ids=ids).last_hidden_state[0, len(prompt) - 1 :]
        expected.append(hidden[: LENGTHS[row]] @ critic.head.weight[0])
    torch.testing.assert_close(critic(packed()), torch.cat(expected), rtol=0, atol=2e-5)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    policy = make_policy(vocab=50).double()
    together = policy(packed(), 1.0)
    alone = torch.cat([policy(packed([row]), 1.0) for row in ROWS])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_nothing_to_score_leaves_zero_gradients():
    policy = make_policy(vocab=50)
    said = policy(packed([0]).without_targets(), 1.0)
    assert said.shape == (0,)
    said.sum().backward()
    gradients = [p.grad for p in policy.parameters()]
    assert all(grad is not None and not grad.any() for grad in gradients)


REFUSED = {
    "convolutions in place of some attention": (
        Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]),
        "1 of its 2 layers",
    ),
    "state-space layers beside attention": (
        FalconH1Config(**SIZES, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8),
        "change each other's hidden states",
    ),
    "positions of its own": (
        BartConfig(
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            decoder_attention_heads=4,
            decoder_ffn_dim=48,
            is_decoder=True,
            is_encoder_decoder=False,
            **SMALL,
        ),
        "change each other's hidden states",
    ),
}


def checked(backbone: PreTrainedModel) -> None:
    """As it is at loading."""
    check_packing(backbone, rows_alone(backbone))


@pytest.mark.parametrize("kind", REFUSED)
def test_models_in_which_rows_would_mix_are_refused(kind):
    config, message = REFUSED[kind]
    config.initializer_range = config.init_std = 0.3
    with pytest.raises(ConfigError, match=message):
        checked(build(config, ATTENTION_NAME).base_model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", SUPPORTED)
def test_supported_models_pass_the_check(family, dtype):
    config = SUPPORTED[family]
    config.initializer_range = 0.3
    checked(build(config, ATTENTION_NAME).to(dtype).base_model)


def test_an_attention_that_was_changed_after_loading_is_noticed():
    model = AutoModelForCausalLM.from_config(SUPPORTED["qwen3"], attn_implementation="sdpa")
    with pytest.raises(ConfigError, match="0 of its 2 layers"):
        Policy(model)(packed(), 1.0)


def test_the_gradient_of_a_token_adds_up_in_float32():
    """64 gradients of 1.0 and one of 256: bfloat16, which has 8 bits, would lose each 1 beside the 256."""
    index = torch.zeros(65, dtype=torch.int64)
    gather = Gather.of(index, torch.ones(65, dtype=torch.bool), 2)
    values = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.ones(65, 1, dtype=torch.bfloat16)
    gradient[0] = 256
    gather(values).backward(gradient)
    assert values.grad.flatten().tolist() == [320.0, 0.0]


def test_padding_has_no_gradient():
    index = torch.tensor([[0, 2, 0], [1, 0, 0]])
    real = torch.tensor([[True, True, False], [True, False, False]])
    gather = Gather.of(index, real, 4)
    values = torch.arange(4.0)[:, None].requires_grad_()
    assert gather(values).flatten().tolist() == [0, 2, 0, 1, 0, 0]
    gather(values).backward(torch.tensor([1.0, 2, 4, 8, 16, 32])[:, None])
    assert values.grad.flatten().tolist() == [1, 8, 2, 0]
