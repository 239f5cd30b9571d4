"""Adapters on a policy: what they add, what is trained and saved, and folders of them, good and bad."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from pipo.config.models import find_model
from pipo.config.tree import ModelConfig
from pipo.errors import ConfigError, ModelError
from pipo.lm.adapters import add_adapters, base_of, write_adapter
from pipo.lm.attention import ATTENTION_NAME
from pipo.lm.library_names import checkpoint_activations
from pipo.lm.options import Lora
from pipo.lm.policy import Policy
from pipo.lm.reference import OtherAdapters, WithoutAdapters
from pipo.lm.spec import ModelSpec, merged_policy
from pipo.lm.weights_copy import WeightsCopy
from tests.policies import make_policy, packed

IDS = torch.tensor([[5, 6, 7, 9, 11, 4], [8, 3, 2, 7, 4, 4]])
ROWS = packed(IDS, torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0]]).bool())


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> str:
    """A folder with the small model of the tests."""
    folder = tmp_path_factory.mktemp("home")
    make_policy().model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def written_once(home, tmp_path_factory) -> Path:
    """A folder with adapters of that model."""
    return written(adapted(home), tmp_path_factory.mktemp("written"))


@pytest.fixture
def folder(written_once, tmp_path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(written_once, tmp_path / "copied"))


def spec(path: str, dtype: str = "float32", **changes) -> ModelSpec:
    return ModelSpec(name="x", path=path, dtype=dtype, gradient_checkpointing=False, **changes)


def named(path: Path, dtype: str = "float32") -> ModelSpec:
    """What a command line with this path stands for."""
    return find_model(ModelConfig(name="x", path=str(path), dtype=dtype, gradient_checkpointing=False))  # type: ignore[arg-type]


def lora(**changes) -> Lora:
    return Lora(**{"rank": 4, "alpha": 8.0, "targets": "all-linear", **changes})


def trained(policy: Policy) -> dict[str, Tensor]:
    return {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}


def move(policy: Policy) -> None:
    """As training would: both factors are something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trained(policy).values():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)


def with_new(seed: int = 3, **changes) -> Policy:
    policy = make_policy()
    add_adapters(policy, lora(**changes), seed)
    return policy


def adapted(path: str | None = None, **changes) -> Policy:
    policy = with_new(**changes) if path is None else spec(path, lora=lora(**changes)).load(seed=3)
    move(policy)
    return policy


@torch.no_grad()
def logprobs(policy) -> Tensor:
    return policy(ROWS, 1.0)


def test_new_adapters_change_nothing_and_are_all_that_is_trained():
    policy, plain = with_new(), make_policy()
    assert torch.equal(logprobs(policy), logprobs(plain))
    policy(ROWS, 1.0).sum().backward()
    for name, weight in policy.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad == (".lora_" in name)
    # Of a layer with n inputs and m outputs, rank times (n + m).
    shapes = [p.shape for n, p in plain.named_parameters() if "_proj." in n]
    assert sum(w.numel() for w in trained(policy).values()) == sum(4 * sum(shape) for shape in shapes)


def test_they_get_the_same_gradients_with_checkpointed_activations():
    gradients = []
    for checkpointing in (False, True):
        policy = adapted().train()
        if checkpointing:
            checkpoint_activations(policy.model)
        policy(ROWS, 1.0).sum().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in trained(policy).values()]))
    assert gradients[0].norm() > 0
    assert torch.equal(*gradients)


def test_what_adapters_add_is_alpha_by_rank_times_their_product():
    policy, plain = adapted(targets=("q_proj", "down_proj")), make_policy()
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            stem = name.removesuffix(".weight")
            if f"{stem}.lora_A.default.weight" in (parts := policy.state_dict()):
                weight += (
                    8 / 4 * parts[f"{stem}.lora_B.default.weight"] @ parts[f"{stem}.lora_A.default.weight"]
                )
    torch.testing.assert_close(logprobs(policy), logprobs(plain), rtol=1e-5, atol=1e-5)
    assert (logprobs(policy) - logprobs(make_policy())).abs().max() > 0.05


def test_the_reference_is_the_policy_without_them():
    policy, plain = adapted(), make_policy()
    moved = logprobs(policy)
    assert torch.equal(logprobs(WithoutAdapters(policy)), logprobs(plain))
    assert torch.equal(logprobs(policy), moved)
    assert all(weight.requires_grad for weight in trained(policy).values())
    assert list(WithoutAdapters(policy).parameters()) == []


def test_another_set_of_them_is_another_model_and_comes_off_again():
    policy = adapted()
    teacher, then = OtherAdapters(policy), logprobs(policy)
    move(policy)
    now, weights = logprobs(policy), [w.clone() for w in trained(policy).values()]
    assert torch.equal(logprobs(teacher), then)
    assert (then - now).abs().max() > 0.01
    assert torch.equal(logprobs(policy), now)
    assert all(torch.equal(a, b) for a, b in zip(weights, trained(policy).values(), strict=True))


def test_a_copy_of_the_weights_is_one_of_the_adapters():
    policy = adapted()
    copied = sum(w.numel() for w in WeightsCopy(policy, on_cpu=False).parameters())
    assert copied == sum(w.numel() for w in trained(policy).values())


def test_their_state_is_all_that_is_saved_and_all_that_may_not_be_missing():
    policy, other = adapted(), with_new(seed=4)
    state = policy.state_dict()
    assert state.keys() == trained(policy).keys()
    other.load_state_dict(state)
    assert torch.equal(logprobs(other), logprobs(policy))
    del state[next(iter(state))]
    with pytest.raises(RuntimeError, match=r"Missing key.*lora_A"):
        other.load_state_dict(state)


def test_they_are_a_function_of_the_seed_and_leave_the_random_numbers_alone():
    policies = [make_policy() for _ in range(3)]
    before = torch.get_rng_state()
    for policy, seed in zip(policies, (3, 3, 4), strict=True):
        add_adapters(policy, lora(), seed)
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (policy.state_dict() for policy in policies)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_they_are_float32_on_a_model_in_bfloat16(home):
    policy = spec(home, "bfloat16", lora=lora()).load()
    assert {weight.dtype for weight in trained(policy).values()} == {torch.float32}
    assert policy.head.weight.dtype == torch.bfloat16
    policy(ROWS, 1.0).sum().backward()
    assert all(weight.grad is not None for weight in trained(policy).values())
    spec(home, "bfloat16", lora=lora()).check_trainable()
    with pytest.raises(ConfigError, match=r"model\.dtype=bfloat16: .* too coarse to train"):
        spec(home, "bfloat16").check_trainable()


@pytest.mark.parametrize(
    ("targets", "lost"),
    [(("q_proj", "qproj"), "qproj"), ("lm_head", "lm_head"), ((), "nothing"), ("proj", "proj")],
)
def test_a_target_that_matches_nothing_is_refused_with_what_there_is(targets, lost):
    what = (
        f"model.lora.targets: no linear layer of the model is called {lost}; there are down_proj, gate_proj, "
        "k_proj, o_proj, q_proj, up_proj, v_proj, and all-linear for all of them"
    )
    with pytest.raises(ConfigError, match=re.escape(what)):
        with_new(targets=targets)


def test_a_target_may_be_a_longer_part_of_the_name():
    policy = with_new(targets="0.self_attn.q_proj")
    stem = "model.model.layers.0.self_attn.q_proj.lora_"
    assert trained(policy).keys() == {f"{stem}A.default.weight", f"{stem}B.default.weight"}


def test_layers_that_keep_their_weights_the_other_way_round(tmp_path):
    config = GPT2Config(vocab_size=48, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1)
    torch.manual_seed(0)
    home = str(tmp_path / "gpt2")
    GPT2LMHeadModel(config).save_pretrained(home)
    policy, plain = adapted(home), spec(home).load()
    assert torch.equal(logprobs(WithoutAdapters(policy)), logprobs(plain))
    torch.testing.assert_close(logprobs(merged_policy(home, written(policy, tmp_path))), logprobs(policy))
    assert (logprobs(policy) - logprobs(plain)).abs().max() > 0.01


# ------------------------------------------------------------------ folders


def written(policy: Policy, place: Path) -> Path:
    folder = place / "adapter"
    folder.mkdir()
    tensors = {name.removeprefix("model."): value for name, value in policy.state_dict().items()}
    write_adapter(policy.model, tensors, folder)
    return folder


def test_a_written_folder_is_one_of_the_librarys_own(home, written_once):
    theirs = AutoModelForCausalLM.from_pretrained(home, attn_implementation=ATTENTION_NAME)
    theirs = PeftModel.from_pretrained(theirs, str(written_once))
    with torch.no_grad():
        assert torch.equal(theirs(IDS).logits, adapted(home).model(IDS).logits)
    assert base_of(written_once) == home


def test_a_folder_merged_into_its_model_is_a_plain_model(home, written_once):
    merged, plain = named(written_once).load(), spec(home).load()
    torch.testing.assert_close(logprobs(merged), logprobs(adapted(home)), rtol=1e-5, atol=1e-5)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert merged.lora is None
    assert all(weight.requires_grad for weight in merged.parameters())
    # Merged in float32 and then rounded once.
    short = named(written_once, "bfloat16").load().state_dict()
    assert all(torch.equal(short[name], weight.bfloat16()) for name, weight in merged.state_dict().items())


def change(folder: Path, **fields: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def tensors(folder: Path, drop: int = 0, more: str | None = None, cut: int | None = None) -> None:
    held = dict(list(load_file(folder / "adapter_model.safetensors").items())[drop:])
    if more is not None:
        held[more] = torch.zeros(4, 4)
    held = {name: value[:, :cut].contiguous() for name, value in held.items()}
    save_file(held, folder / "adapter_model.safetensors")


DAMAGED = {
    "another method": (lambda f: change(f, peft_type="IA3"), "says peft_type=IA3; only LORA is supported"),
    "no base": (lambda f: change(f, base_model_name_or_path=None), "names no base_model_name_or_path"),
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "it is not JSON"),
    "lost base": (
        lambda f: change(f, base_model_name_or_path="/nowhere"),
        "model.path=/nowhere: no such folder",
    ),
    "itself": (lambda f: change(f, base_model_name_or_path=str(f)), "an adapter of an adapter"),
    "other rank": (lambda f: change(f, r=5), "not an adapter of"),
    "other layers": (lambda f: change(f, target_modules=["w1"]), "not an adapter of"),
    "too few": (lambda f: tensors(f, drop=3), "3 tensors too many or too few"),
    "too many": (
        lambda f: tensors(f, more="base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"),
        "1 tensors too many or too few",
    ),
    "other shapes": (lambda f: tensors(f, cut=2), "not an adapter of"),
    "no weights": (
        lambda f: (f / "adapter_model.safetensors").unlink(),
        "adapter_model.safetensors is missing",
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_is_wrong_with_a_folder_is_named_in_one_line(folder, what):
    damage, message = DAMAGED[what]
    damage(folder)
    with pytest.raises((ConfigError, ModelError), match=re.escape(message)) as caught:
        named(folder).load()
    assert "\n" not in str(caught.value)
