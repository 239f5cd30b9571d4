"""Training under top-k, top-p and min-p: the sampling mask that a batch keeps, and what is computed over it.

The toy of the first tests has responses of two tokens from a vocabulary of 48, of which top-k keeps two each
time: four responses in all, so that every expectation is a sum over them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipo.callbacks.checkpoint import IterationCheckpoint
from pipo.lm import logprobs as head
from pipo.lm.logprobs import cut_logprobs, token_logprobs
from pipo.modules.annotation import cut_responses, score_responses, unflatten
from pipo.modules.batching import micro_batches
from pipo.modules.objectives.gspo import GSPO
from pipo.plan.ledger import Ledger
from pipo.records.batches import PolicyBatch
from pipo.records.cut import Cut
from pipo.records.kept import KeptTokens
from pipo.records.problems import Example, Reward
from pipo.records.rollouts import Completions, PromptBatch, Rollouts
from pipo.runs.checkpoints import finished_checkpoints
from tests import toy
from tests.unit.batches import policy_batch

PROMPT = (2, 3)
TWO = Cut(top_p=1.0, top_k=2, min_p=0.0)
PLACE = {"temperature": 1.0, "token_budget": 64, "device": torch.device("cpu"), "passes": lambda own: own}
VERDICT = Reward(score=0.0, answer="")
#: Rewards of the four responses: of first and second best token, twice.
REWARDS = torch.tensor([1.0, 0.0, 0.25, 0.5])


def next_logprobs(policy, ids: tuple[int, ...]) -> torch.Tensor:
    """Of every token after some tokens, by the library's own forward pass."""
    return policy.model(torch.tensor([ids])).logits[0, -1].double().log_softmax(0)


def best(policy, ids: tuple[int, ...]) -> list[int]:
    return next_logprobs(policy, ids).topk(2).indices.tolist()


def all_responses(policy) -> list[tuple[int, int]]:
    return [(first, second) for first in best(policy, PROMPT) for second in best(policy, (*PROMPT, first))]


def truncated(policy, response: tuple[int, int], sets: dict[tuple[int, ...], list[int]]) -> torch.Tensor:
    """Log-probability of a response where each token comes from a set, with gradient."""
    total = torch.zeros((), dtype=torch.float64)
    for place, token in enumerate(response):
        seen = (*PROMPT, *response[:place])
        logprobs = next_logprobs(policy, seen)
        total = total + logprobs[token] - logprobs[sets[seen]].logsumexp(0)
    return total


def sets_of(policy) -> dict[tuple[int, ...], list[int]]:
    first = best(policy, PROMPT)
    return {PROMPT: first} | {(*PROMPT, each): best(policy, (*PROMPT, each)) for each in first}


def rollouts_of(responses: list[tuple[int, int]]) -> Rollouts:
    ids, count = torch.tensor(responses), len(responses)
    everything = torch.ones_like(ids, dtype=torch.bool)
    return Rollouts(
        prompts=PromptBatch(examples=(Example(uid="x", question="", answer=""),), prompt_ids=(PROMPT,)),
        completions=Completions(
            response_ids=ids,
            response_mask=everything,
            sampled=everything,
            logprobs=torch.zeros(ids.shape),
            finished=torch.ones(count, dtype=torch.bool),
        ),
        texts=("",) * count,
        verdicts=(VERDICT,) * count,
        rewards=REWARDS,
        shaping=torch.zeros(count),
        group_size=count,
        reward_sum=float(REWARDS.sum()),
        reward_count=count,
        varied_groups=1,
    )


def gradient_of_the_objective(policy) -> dict[str, torch.Tensor]:
    """Of J = sum over all responses of their probability times their reward."""
    policy.zero_grad()
    sets = sets_of(policy)
    value = sum(
        truncated(policy, y, sets).exp() * r for y, r in zip(all_responses(policy), REWARDS, strict=True)
    )
    value.backward()
    return {name: weight.grad.clone() for name, weight in policy.named_parameters()}


def gradient_of_the_update(policy, objective, *, replayed: bool) -> dict[str, torch.Tensor]:
    """Of one optimiser step, on average over what could have been sampled.

    The surrogate is linear in the advantages, so that a response's probability multiplies its own.
    """
    responses, sets = all_responses(policy), sets_of(policy)
    rollouts = rollouts_of(responses)
    old, kept = cut_responses(policy, rollouts, TWO, **PLACE)
    if not replayed:
        old, kept = score_responses(policy, rollouts, **PLACE), None
    chances = torch.stack([truncated(policy, y, sets).exp().detach() for y in responses]).float()
    assert chances.sum().item() == pytest.approx(1, abs=1e-6)
    done = rollouts.completions
    batch = PolicyBatch(
        prompt_ids=(PROMPT,),
        group_size=4,
        response_ids=done.response_ids,
        response_mask=done.response_mask,
        sampled=done.sampled,
        old_logprobs=old,
        advantages=(chances * REWARDS)[:, None].expand(4, 2).contiguous(),
        attribution=torch.zeros(4, 2),
        ref_logprobs=None,
        kl_coef=0.0,
        teacher_prompt_ids=None,
        value_targets=None,
        kept=kept,
    )
    policy.zero_grad()
    for micro in micro_batches(batch, torch.arange(4), 8):
        logprobs = unflatten(policy(micro.rows, 1.0), micro.sampled)
        objective.loss(logprobs, micro, 1.0).value.backward()
    return {name: -weight.grad for name, weight in policy.named_parameters()}


OBJECTIVES = [
    toy.grpo(),
    # The mean over a response's two tokens is half of their sum, and a response has twice the gradient then.
    GSPO(
        advantage_eps=1e-6,
        clip_low=0.2,
        clip_high=0.2,
        dual_clip=None,
        aggregation="token-mean",
        kl_coef=0.0,
    ),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["grpo", "gspo"])
def test_with_the_mask_the_gradient_is_that_of_the_truncated_policys_objective(objective):
    """Exactly, weight by weight; without it the gradient is another: it pulls at all tokens that were cut."""
    policy = toy.make_policy()
    wanted = gradient_of_the_objective(policy)
    replayed = gradient_of_the_update(policy, objective, replayed=True)
    ignored = gradient_of_the_update(policy, objective, replayed=False)
    size = torch.cat([each.flatten() for each in wanted.values()]).norm()
    for name, value in wanted.items():
        torch.testing.assert_close(replayed[name], value, rtol=1e-3, atol=1e-6 * size.item())
    off = torch.cat([(ignored[name] - value).flatten() for name, value in wanted.items()]).norm()
    assert off > 0.3 * size


def test_other_weights_are_scored_over_the_mask_of_those_that_sampled():
    """So that the ratios of a later update, and weights of the measured improvement, are of distributions."""
    policy, other = toy.make_policy(), toy.make_policy()
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.05 * torch.randn(
                weight.shape, generator=torch.Generator().manual_seed(weight.numel())
            )
    responses, sets = all_responses(policy), sets_of(policy)
    assert sets != sets_of(other)
    rollouts = rollouts_of(responses)
    old, kept = cut_responses(policy, rollouts, TWO, **PLACE)
    assert kept.counts.tolist() == [[2, 2]] * 4
    for model, found in ((policy, old), (other, score_responses(other, rollouts, kept=kept, **PLACE))):
        expected = torch.stack([truncated(model, y, sets) for y in responses])
        torch.testing.assert_close(found.double().sum(dim=1), expected, rtol=0, atol=1e-5)
        assert found.sum(dim=1).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("cut", [TWO, Cut(top_p=0.8, top_k=0, min_p=0.0), Cut(top_p=0.9, top_k=9, min_p=0.2)])
def test_blocks_of_the_head_and_the_whole_head_agree_on_values_and_gradients(cut, monkeypatch):
    """Against a softmax in float64 in which what is not kept was put to minus infinity."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(23, 6, generator=generator, dtype=torch.float64)
    tokens = (hidden @ weight.T).argmax(dim=1)
    tokens[0] = (hidden @ weight.T)[0].argmin()  # outside of every cut, but drawn, and so kept
    results = []
    for size in (10**9, 3 * 23 * 2):
        monkeypatch.setattr(head, "BLOCK_LOGITS", size)
        old, ids, counts = cut_logprobs(hidden, weight, tokens, 0.7, cut)
        places = torch.arange(10).repeat_interleave(counts.long())
        kept = head.KeptSets(ids=ids, places=places)
        inputs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        found = token_logprobs(*inputs, tokens, 0.7, kept)
        torch.testing.assert_close(found.detach(), old, rtol=1e-12, atol=1e-12)
        results.append((found, *torch.autograd.grad((found * torch.arange(10)).sum(), inputs)))
    assert 10 < counts.sum() < 230
    inputs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    mask = torch.zeros(10, 23, dtype=torch.bool)
    mask[places, ids.long()] = True
    logits = (inputs[0] @ inputs[1].T / 0.7).masked_fill(~mask, float("-inf"))
    plain = logits.log_softmax(1)[torch.arange(10), tokens]
    expected = (plain, *torch.autograd.grad((plain * torch.arange(10)).sum(), inputs))
    for result in results:
        for got, want in zip(result, expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_to_find_what_a_cut_keeps_takes_no_more_than_two_blocks_of_logits(monkeypatch):
    """Orders and double sums beside the logits were five blocks, 10 GiB on a GPU; a trained block is 1.4."""
    monkeypatch.setattr(head, "BLOCK_LOGITS", 64 * 1000)
    hidden, weight, tokens = torch.zeros(256, 8), torch.zeros(1000, 8), torch.zeros(256, dtype=torch.int64)
    with Ledger("cut") as held:
        cut_logprobs(hidden, weight, tokens, 1.0, Cut(top_p=0.001, top_k=0, min_p=0.0))
    assert sum(held.peak.values()) < 2 * 4 * 64 * 1000


def test_a_process_without_a_token_has_float32_log_probabilities_too():
    """As a batch must have them; dynamic sampling may leave a process without any group."""
    hidden, weight = torch.zeros(0, 6, dtype=torch.bfloat16), torch.zeros(23, 6)
    found, ids, counts = cut_logprobs(hidden, weight, torch.zeros(0, dtype=torch.int64), 1.0, TWO)
    assert (found.dtype, ids.dtype, counts.dtype) == (torch.float32, torch.int32, torch.int32)


def test_rows_parts_and_files_keep_each_row_its_own_sets():
    batch = policy_batch(prompts=2, group_size=2, width=4)
    counts = torch.randint(1, 4, (4, 4), generator=torch.Generator().manual_seed(0)).int() * batch.sampled
    ids = torch.arange(int(counts.sum()), dtype=torch.int32)
    batch = replace(batch, kept=KeptTokens(ids=ids, counts=counts.int()))
    ends = counts.sum(dim=1).cumsum(0).tolist()
    own = [ids[start:end].tolist() for start, end in zip([0, *ends], ends, strict=False)]
    part = batch.rows(torch.tensor([3, 0]))
    assert part.kept.ids.tolist() == own[3] + own[0]
    joined = PolicyBatch.join([part, batch.rows(torch.tensor([1]))])
    assert joined.kept.ids.tolist() == own[3] + own[0] + own[1]
    again = PolicyBatch.from_plain(batch.reweighted(batch.attribution, kl_coef=0.0).to_plain())
    assert torch.equal(again.kept.ids, ids)
    assert torch.equal(again.kept.counts, batch.kept.counts)
    with pytest.raises(ValueError, match="where one was sampled"):
        replace(batch, kept=KeptTokens(ids=ids[:0], counts=torch.zeros_like(batch.kept.counts)))


DRAW = {"top_k": 3}


def test_a_run_trains_what_it_draws_and_resumes_bit_for_bit(tmp_path):
    """The previous batch's mask is in the checkpoint: the retrospective update after it needs it."""

    def run(iterations, checkpoint=None):
        record, loop = toy.Record(), toy.pipo(window=2)
        folder = tmp_path / ("whole" if checkpoint is None else "resumed")
        saves = IterationCheckpoint(every=3, keep=9, best=False, folder=str(folder))
        module = toy.module(look_back="device", draw=DRAW)
        toy.fit(module, [loop, record, saves], iterations, checkpoint)
        return record

    whole = run(6)
    row = whole.metrics[-1]
    assert row["pipo/applied"] == 1
    assert row["rollout/kept_tokens"] == 3
    # Sampler and trainer are the same weights, and both speak of the same three tokens.
    assert row["rollout/logprob_diff_max"] < 1e-5
    assert all(batch.kept is not None for batch in whole.batches)
    later = run(6, finished_checkpoints(tmp_path / "whole")[0])
    for name, value in whole.weights[-1].items():
        assert torch.equal(later.weights[-1][name], value), name


def test_without_replay_the_whole_distribution_is_trained():
    record = toy.Record()
    toy.fit(toy.module(draw=DRAW, replay=False), [record], 1)
    assert record.batches[0].kept is None
    # What was cut off is in the difference then.
    assert record.metrics[0]["rollout/logprob_diff"] > 0.5
    assert "rollout/kept_tokens" not in record.metrics[0]
