"""Seeds: the values of finished runs, apart from one another, with room for other people's."""

import numpy as np
import pytest

from pipo.distributed.seeds import FIRST_FREE, Purpose, derive_seed, numbered_seed


@pytest.mark.parametrize(
    ("purpose", "chosen", "seed"),
    [  # of run seed 1; the upper 63 bits of NumPy's SeedSequence((1, purpose, *chosen)), noted once
        (Purpose.SHUFFLE, (3,), 3982963915557413359),
        (Purpose.ROLLOUT, (7, 1), 6479424835579523248),
        (Purpose.REFILL, (2, 1), 1479504034556577163),
        (Purpose.GLOBAL, (1,), 5649510497728070889),
        (Purpose.SIGN, (9,), 5670224064376209410),
        (Purpose.ROWS, (9, 0), 2823912970617599862),
        (Purpose.TURN, (2,), 6879377032975323232),
    ],
)
def test_every_purpose_keeps_the_seeds_of_runs_that_are_finished(
    purpose: Purpose, chosen: tuple[int, ...], seed: int
) -> None:
    assert derive_seed(1, purpose, *chosen) == seed


def test_a_numbered_seed_is_mixed_from_the_seed_above_it_and_its_number() -> None:
    above = derive_seed(1, Purpose.ROLLOUT, 0, 0)

    assert numbered_seed(above, 1) == 5193946901012446264  # noted once, as above
    words = np.random.SeedSequence((above, 1)).generate_state(2)  # 64 bits as two halves, the lower one first
    assert numbered_seed(above, 1) == (int(words[1]) << 32 | int(words[0])) // 2


def test_the_same_choice_under_two_purposes_has_two_seeds() -> None:
    purposes = [*Purpose, FIRST_FREE, FIRST_FREE + 1]

    assert len({derive_seed(1, purpose, 5) for purpose in purposes}) == len(purposes)


def test_a_stranger_cannot_take_a_purpose_that_is_ours_or_may_become_it() -> None:
    for taken in (int(Purpose.SIGN), FIRST_FREE - 1):
        with pytest.raises(ValueError, match=f"{taken} is kept for pipo itself, take 1000 or more"):
            derive_seed(1, taken, 5)
