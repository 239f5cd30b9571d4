"""maj@n by hand: camps, ties, responses without an answer, and what need not be compared."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipo.evaluation.results import Sample
from pipo.evaluation.voting import majority_values


def votes(text: str) -> list[Sample]:
    """One response per word: a capital letter is right, ``-`` is no answer."""
    return [
        Sample(
            response=word,
            score=float(word.isupper()),
            answer=None if word == "-" else word,
            error=None,
            finished=True,
            length=1,
        )
        for word in text.split()
    ]


class SameFirstLetter:
    """Takes answers for the same that begin with the same letter; counts what it is asked."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, str]]] = []

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        self.calls.append(list(pairs))
        return [a[0] == b[0] for a, b in pairs]


@pytest.mark.parametrize(
    ("responses", "value"),
    [
        ("A A b", 1.0),
        ("A b b", 0.0),
        ("A b", 1 / 2),  # two camps of one
        ("A b c", 1 / 3),  # three camps of one
        ("A A b b c", 1 / 2),  # c is too small to be drawn
        ("A A b b c c c", 0.0),
        ("A A b1 b2 b3", 0.0),  # three forms of one wrong answer
        ("A1 A2 b b", 1 / 2),  # right answers are one camp in whatever form
        ("A X b1 b1 b2", 0.0),
        ("A - - -", 1.0),  # no answer, no vote
        ("- -", 0.0),
        ("b c", 0.0),
        ("A", 1.0),
    ],
)
def test_value_by_hand(responses: str, value: float) -> None:
    assert majority_values([votes(responses)], SameFirstLetter()) == pytest.approx([value])


def test_the_order_of_responses_does_not_matter() -> None:
    values = [majority_values([votes(text)], SameFirstLetter())[0] for text in ("A b c b A", "b b A A c")]
    assert values == [1 / 2, 1 / 2]


def test_only_what_matters_is_compared_and_all_at_once() -> None:
    same = SameFirstLetter()
    problems = ["b c d", "A A b", "A b1 b2 b1", "A A c d e"]
    assert majority_values([votes(p) for p in problems], same) == [0.0, 1.0, 0.0, 1.0]
    # Nobody is right in the first, and the second is decided; each pair of texts once, within a problem.
    assert same.calls == [[("b1", "b2"), ("c", "d"), ("c", "e"), ("d", "e")]]
    assert majority_values([votes("b c")], same) == [0.0]
    assert len(same.calls) == 1


def test_a_right_response_without_an_answer_does_not_vote() -> None:
    silent = Sample(response="", score=1.0, answer=None, error=None, finished=True, length=1)
    assert majority_values([[silent, *votes("b")]], SameFirstLetter()) == [0.0]


def test_an_answer_joins_the_first_camp_whose_first_answer_means_the_same() -> None:
    # ab is like a and like b, which are unlike each other: it joins a's camp, so b stays alone.
    def same(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [bool(set(a) & set(b)) for a, b in pairs]

    assert majority_values([votes("X X a b ab")], same) == [1 / 2]
    assert majority_values([votes("X X ab a b")], same) == [0.0]
