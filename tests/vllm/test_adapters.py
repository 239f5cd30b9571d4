"""The real engine on a policy with adapters: it gets these alone, and samples what the policy would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipo.lm.adapters import add_adapters
from pipo.lm.options import Lora
from pipo.lm.policy import Policy
from pipo.rollout.vllm import VllmEngine
from tests.toy import sampling
from tests.vllm.conftest import config, full_logprobs, local, rows, tiny_policy
from tests.vllm.test_engine import CLOSE, GREEDY, LONG, PROMPTS


def moved(policy: Policy, seed: int) -> None:
    """Other adapters, whose effect is as large as the weights'."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (weight for weight in policy.parameters() if weight.requires_grad):
            weight += 0.1 * torch.randn(weight.shape, generator=generator)


@pytest.fixture(scope="module")
def shared() -> Iterator[VllmEngine]:
    policy = tiny_policy()
    add_adapters(policy, Lora(rank=4, alpha=8.0, targets="all-linear"), seed=1)
    engine = VllmEngine(policy, config())
    yield engine
    engine.close()


def test_new_adapters_leave_the_model_as_its_files_have_it(shared):
    got = shared.generate(PROMPTS, 2, GREEDY, seed=0)
    expected = local(tiny_policy()).generate(PROMPTS, 2, GREEDY, seed=0)
    assert rows(got) == rows(expected)
    torch.testing.assert_close(got.logprobs, expected.logprobs, rtol=0, atol=CLOSE)


def test_after_each_update_it_samples_with_the_new_adapters_which_are_all_that_is_sent(shared):
    """The same long prompts each time, which the prefix cache knows."""
    policy = shared.policy
    before = rows(shared.generate(LONG, 1, GREEDY, seed=0))
    for step in range(3):
        moved(policy, seed=step)
        assert rows(shared.generate(LONG, 1, GREEDY, seed=0)) == before  # until it is told
        sent = [(name, value) for name, value in policy.named_parameters() if value.requires_grad]
        shared.sync_weights(iter(sent))
        got = shared.generate(LONG, 1, GREEDY, seed=0)
        expected = local(policy).generate(LONG, 1, GREEDY, seed=0)
        assert rows(got) == rows(expected) != before
        torch.testing.assert_close(got.logprobs, expected.logprobs, rtol=0, atol=CLOSE)
        before = rows(got)


def test_logprobs_equal_a_full_forward_pass(shared):
    shared.sync_weights(shared.policy.named_parameters())
    options = sampling(temperature=0.8, max_response_tokens=16)
    got = shared.generate(PROMPTS, 4, options, seed=3)
    expected = full_logprobs(shared.policy, PROMPTS, got, 0.8)
    torch.testing.assert_close(got.logprobs[got.response_mask], expected, rtol=0, atol=CLOSE)
    shared.sleep()
    shared.wake()
    assert rows(shared.generate(PROMPTS, 4, options, seed=3)) == rows(got)
