"""Which prompts an iteration gets."""

from __future__ import annotations

import pytest

from pipo.errors import ConfigError
from pipo.tasks.base import Example
from pipo.tasks.datamodule import IterationDataset, IterationLoader

EXAMPLES = [Example(uid=str(i), question=str(i), answer="") for i in range(10)]
PROMPTS = [(i,) for i in range(10)]


def dataset(**changes) -> IterationDataset:
    options = {"prompts_per_iteration": 3, "iterations": 9, "seed": 5}
    return IterationDataset(EXAMPLES, PROMPTS, **{**options, **changes})


def uids(data: IterationDataset, iteration: int) -> list[str]:
    return [example.uid for example in data[iteration].first.examples]


def test_no_prompt_repeats_within_an_epoch_and_epochs_differ():
    data = dataset()
    # 10 problems, 3 per iteration: 3 iterations are an epoch, one problem is left out of each.
    epochs = [[uid for i in range(3 * e, 3 * e + 3) for uid in uids(data, i)] for e in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == 9
    assert epochs[0] != epochs[1]


def test_prompts_belong_to_their_examples():
    batch = dataset()[4].first
    assert [ids[0] for ids in batch.prompt_ids] == [int(e.uid) for e in batch.examples]


def test_an_iteration_is_a_pure_function_of_seed_and_number():
    assert uids(dataset(), 7) == uids(dataset(), 7)
    assert uids(dataset(), 7) != uids(dataset(seed=6), 7)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_what_one_process_would_take(ranks):
    whole = dataset(prompts_per_iteration=4)
    parts = [dataset(prompts_per_iteration=4) for _ in range(ranks)]
    for rank, part in enumerate(parts):
        part.share_between(rank, ranks)
    for iteration in range(4):
        joined = [uid for part in parts for uid in uids(part, iteration)]
        assert joined == uids(whole, iteration)


def test_the_loader_goes_on_where_it_was():
    loader = IterationLoader(dataset())
    iterator = iter(loader)
    seen = [next(iterator).first for _ in range(4)]
    again = IterationLoader(dataset())
    again.load_state_dict(loader.state_dict())
    rest = [prompts.first for prompts in again]
    assert seen + rest == [prompts.first for prompts in IterationLoader(dataset())]


def test_refill_rounds_differ_and_can_be_drawn_again():
    prompts = dataset()[4]
    assert prompts.refill(1) == dataset()[4].refill(1)
    assert prompts.refill(1) != prompts.refill(2)
    assert prompts.refill(1) != dataset()[5].refill(1)


def test_too_few_problems_are_refused_before_training():
    with pytest.raises(ConfigError, match="10 training problems, but an iteration takes 11"):
        dataset(prompts_per_iteration=11)


def test_an_iteration_that_ranks_cannot_share_evenly_is_refused():
    with pytest.raises(ConfigError, match=r"algo\.prompts=3 cannot be shared evenly by 2 processes"):
        dataset().share_between(0, 2)
