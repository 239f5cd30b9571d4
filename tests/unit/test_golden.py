"""The golden vectors as a whole: every number in the file is read, and each result is compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit import (
    test_functional,
    test_functional_ppo,
    test_functional_sdpo,
    test_shaping,
    test_statistics,
    test_theory,
)

# Case of the file -> the tests that compare with it.
READERS = {
    "gae": [test_functional_ppo.test_gae_and_whitening_match_the_golden_vectors],
    "group_relative": [test_functional.test_group_relative_advantages_match_the_golden_vectors],
    "pi_reward": [
        test_functional.test_attribution_matches_the_golden_vectors,
        test_functional.test_feedback_matches_the_golden_vectors,
    ],
    "surrogate": [test_functional.test_surrogate_matches_the_golden_values_and_gradients],
    "kl_k3": [test_functional.test_k3_matches_the_golden_values_and_gradients],
    "value_loss": [test_functional_ppo.test_value_loss_matches_the_golden_value_and_gradient],
    "self_distillation": [
        test_functional_sdpo.test_reverse_kl_matches_the_golden_values_and_gradient,
        test_functional_sdpo.test_attribution_matches_the_golden_vectors,
    ],
    "pass_at_k": [test_statistics.test_pass_at_k_matches_the_golden_values],
    "overlong_penalty": [test_shaping.test_overlong_penalty_matches_the_golden_vectors],
    "eta": [test_theory.test_group_scaling_matches_the_golden_values],
}
# Names of what comes out of a function; the other entries go in.
RESULTS = {
    *("advantages", "returns", "whitened", "attribution", "mu_his", "sigma_his", "xi", "phi", "loss", "grad"),
    *("per_token", "token_mean", "reverse_kl", "value", "penalty", "eta"),
}
GIVEN = {("pi_reward", "advantages"), ("surrogate", "advantages")}

Path = tuple[str | int, ...]


class Watched(dict[str, Any]):
    """A dictionary that remembers which of its entries were asked for."""

    def __init__(self, plain: dict[str, Any], path: Path, seen: set[Path]) -> None:
        super().__init__({key: watch(value, (*path, key), seen) for key, value in plain.items()})
        self.path, self.seen = path, seen

    def __getitem__(self, key: str) -> Any:
        self.seen.add((*self.path, key))
        return super().__getitem__(key)


def watch(value: Any, path: Path, seen: set[Path]) -> Any:
    if isinstance(value, dict):
        return Watched(value, path, seen)
    if isinstance(value, list):
        return [watch(item, (*path, i), seen) for i, item in enumerate(value)]
    return value


def entries(value: Any, path: Path = ()) -> Iterator[Path]:
    """Where the numbers are: every entry of a dictionary that holds no further dictionary."""
    if isinstance(value, dict):
        for key, item in value.items():
            inner = list(entries(item, (*path, key)))
            yield from inner or [(*path, key)]
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from entries(item, (*path, i))


def test_every_golden_entry_is_read(golden):
    assert set(READERS) == set(golden)
    seen: set[Path] = set()
    read_all(Watched(golden, (), seen))
    assert [path for path in entries(golden) if path not in seen] == []


def read_all(cases: dict[str, Any]) -> None:
    for case in cases:
        for reader in READERS[case]:
            reader(cases)


def first_number_moved(value: Any) -> Any:
    """The vector with its first number, which belongs to a response token, a little off."""
    if isinstance(value, list):
        return [first_number_moved(value[0]), *value[1:]]
    return value + 0.01 * (1 + abs(value))


@pytest.mark.parametrize("case", READERS)
def test_each_golden_result_that_is_off_is_noticed(golden, case):
    names = {name for name in RESULTS if (case, name) not in GIVEN}
    results = [path for path in entries(golden[case]) if path[-1] in names]
    assert results
    for path in results:
        changed = copy.deepcopy(golden[case])
        holder = changed
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = first_number_moved(holder[path[-1]])
        with pytest.raises(AssertionError):
            read_all({case: changed})


@pytest.mark.parametrize("reader", READERS["self_distillation"])
def test_what_stands_on_padding_is_not_compared(golden, reader):
    """Nobody defines it: a file in which it is anything is as good."""
    case = copy.deepcopy(golden["self_distillation"])
    logits = [9.0, -9.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    padding = {"mask": 0.0, "tokens": 2, "student_logits": logits, "teacher_logits": logits[::-1]}
    for name, junk in {**padding, "reverse_kl": 1e6, "attribution": -1e6, "grad": [0.0] * 7}.items():
        for row in case[name]:
            row.append(junk)
    reader({"self_distillation": case})
