"""Which prompts an iteration gets."""

from __future__ import annotations

import pytest

from pipo.errors import ConfigError
from pipo.records.problems import Example
from pipo.rollout.datamodule import IterationDataset, IterationLoader

EXAMPLES = [Example(uid=str(i), question=str(i), answer="") for i in range(10)]
PROMPTS = [(i,) for i in range(10)]


def dataset(**changes) -> IterationDataset:
    options = {"prompts_per_iteration": 3, "iterations": 9, "seed": 5, "shuffle": True, "repeat_after": None}
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


def test_without_shuffling_every_epoch_is_in_the_tasks_order():
    data = dataset(shuffle=False)
    assert [uids(data, i) for i in range(4)] == [
        ["0", "1", "2"],
        ["3", "4", "5"],
        ["6", "7", "8"],
        ["0", "1", "2"],
    ]


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
        # Dealt in turn: whatever prefix of the iteration is a mini-batch, the ranks' prefixes make it up.
        dealt = [uid for turn in zip(*(uids(part, iteration) for part in parts), strict=True) for uid in turn]
        assert dealt == uids(whole, iteration)


@pytest.mark.parametrize("ranks", [1, 2])
def test_no_prompt_is_skipped_or_repeated_over_a_resume(ranks):
    """Stopped in the middle of an epoch: what was seen before and after is each epoch's order, once."""

    def loaders() -> list[IterationLoader]:
        parts = [dataset(prompts_per_iteration=2, iterations=10) for _ in range(ranks)]
        for rank, part in enumerate(parts):
            part.share_between(rank, ranks)
        return [IterationLoader(part) for part in parts]

    first, seen = loaders(), []
    iterators = [iter(loader) for loader in first]
    for _ in range(3):
        seen += [e.uid for it in iterators for e in next(it).first.examples]
    second = loaders()
    for loader, earlier in zip(second, first, strict=True):
        loader.load_state_dict(earlier.state_dict())
    for prompts in zip(*second, strict=True):
        seen += [e.uid for each in prompts for e in each.first.examples]
    everything = {example.uid for example in EXAMPLES}
    # 10 problems, 2 per iteration: an epoch is 5 iterations and leaves none out.
    assert len(seen) == 20
    assert set(seen[:10]) == set(seen[10:]) == everything


def test_what_does_not_fill_an_iteration_is_left_out_and_said():
    data = dataset(prompts_per_iteration=4, iterations=6)
    assert data.left_out == 2
    epochs = [{uid for i in range(2 * e, 2 * e + 2) for uid in uids(data, i)} for e in range(3)]
    assert [len(epoch) for epoch in epochs] == [8, 8, 8]
    assert len(set.union(*epochs)) == 10  # others are left out each time


def test_the_loader_goes_on_where_it_was():
    loader = IterationLoader(dataset())
    iterator = iter(loader)
    seen = [next(iterator).first for _ in range(4)]
    again = IterationLoader(dataset())
    again.load_state_dict(loader.state_dict())
    rest = [prompts.first for prompts in again]
    assert seen + rest == [prompts.first for prompts in IterationLoader(dataset())]


def test_the_loader_does_not_go_on_with_other_prompts():
    state = IterationLoader(dataset()).state_dict()
    other = IterationDataset(
        EXAMPLES,
        [*PROMPTS[:-1], (9, 9)],
        prompts_per_iteration=3,
        iterations=9,
        seed=5,
        shuffle=True,
        repeat_after=None,
    )
    for loader, before in ((IterationLoader(other), state), (IterationLoader(dataset()), {"handed_out": 2})):
        with pytest.raises(
            ConfigError, match=r"^resume: the training problems were [\w ]+ when the run began"
        ):
            loader.load_state_dict(before)
    IterationLoader(dataset(iterations=12)).load_state_dict(state)  # a larger budget is no other run


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


def test_the_same_prompts_come_again_in_the_rounds_of_a_refill_too():
    data = dataset(repeat_after=2)
    assert data[0].first != data[1].first
    for iteration in range(2, 9):
        assert data[iteration].first == data[iteration % 2].first
        assert data[iteration].refill(1) == data[iteration % 2].refill(1)
    assert [data[n].first for n in range(2)] == [dataset()[n].first for n in range(2)]
