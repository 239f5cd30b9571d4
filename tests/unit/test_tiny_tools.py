"""The warm-up of the tiny model that calls a calculator: what it imitates."""

from __future__ import annotations

import random

from pipo.lm.tiny_tools import Recipe, Stage, demonstrate
from pipo.tasks.calculator import SHAPES, draw, split_of

CHARACTERS = set("0123456789+-*#[]=\n") | set("abcdefghijklmnopqrstuvwxyz: ")
CLEAN = Stage(steps=1, rate=1.0, last_rate=1.0)


def test_a_clean_demonstration_by_hand() -> None:
    """347 * 856 = 297,032, and 1,234 more are 298,266."""
    assert demonstrate(random.Random(0), "1234+347*856", CLEAN) == [
        ("1234+347*856=", False),
        ("[347*856]", True),
        ("\n297032\n", False),
        ("[1234+297032]", True),
        ("\n298266\n", False),
        ("#298266", True),
    ]


def test_demonstrations_are_of_the_training_split_and_in_the_models_characters() -> None:
    rng = random.Random(1)
    _, blur = Recipe().stages
    kinds = set()
    for level in SHAPES:
        for _ in range(60):
            expression = draw(rng, level, "train")
            assert split_of(expression) == "train"
            turns = demonstrate(rng, expression, blur)
            assert set("".join(text for text, _ in turns)) <= CHARACTERS
            kinds.add(("error" in turns[2][0]) if len(turns) > 2 else None)
            assert [says for _, says in turns] == [False, *[True, False] * (len(turns) // 2)][: len(turns)]
    assert kinds == {None, True, False}  # guesses, unreadable calls, calls
