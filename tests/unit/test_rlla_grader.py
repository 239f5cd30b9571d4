"""ToolRL's reward, against numbers worked out by hand from its equation."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipo.graders.rlla import Reference, best_pairing, grade, overlap, pair_score
from pipo.graders.tool_calls import ToolCall, read_response, render_calls, same_calls


def call(tool: str, **parameters: Any) -> ToolCall:
    return ToolCall(name=tool, parameters=parameters)


def respond(*calls: ToolCall, thought: str = "so", answer: str | None = None) -> str:
    block = f"\n<tool_call>\n{render_calls(calls)}\n</tool_call>" if calls else ""
    return f"<think> {thought} </think>{block}" + (f"\n<response> {answer} </response>" if answer else "")


def expect(*calls: ToolCall, answer: bool = False) -> Reference:
    fields = ("think", *(["tool_call"] if calls else []), *(["response"] if answer else []))
    return Reference(fields=fields, calls=calls)


TWO = (call("f", a=1, b="x"), call("g"))


@pytest.mark.parametrize(
    ("response", "score"),
    [
        (respond(*TWO), 1.0),
        (respond(*TWO[::-1]), 1.0),
        # x = (1 + [1 + 2] + [1]) / (1 + 2 + 2) = 1, but the format is wrong: (0 + 3 + 3) / 7.
        (respond(*TWO, answer="done"), 6 / 7),
        ("hm " + respond(*TWO), 6 / 7),
        (respond(*TWO).replace("<think> so </think>", ""), 6 / 7),
        # One call missing: names 1/2, f in full 3, of 5: x = 0.7; (1 + 6 * 0.7) / 7.
        (respond(TWO[0]), 5.2 / 7),
        # A wrong value: names 1, f 1 + 1, g 1, of 5: x = 0.8.
        (respond(call("f", a=1, b="y"), TWO[1]), (1 + 4.8) / 7),
        # true is not 1, and 1.0 is.
        (respond(call("f", a=True, b="x"), TWO[1]), (1 + 4.8) / 7),
        (respond(call("f", a=1.0, b="x"), TWO[1]), 1.0),
        # An additional parameter: overlap of names 2/3, two values: x = (1 + 8/3 + 1) / 5.
        (respond(call("f", a=1, b="x", c=0), TWO[1]), (1 + 6 * (14 / 3) / 5) / 7),
        # A call too many: names 2/3, the rest in full: x = (2/3 + 4) / 5.
        (respond(*TWO, call("g")), (1 + 6 * (14 / 3) / 5) / 7),
        # Another tool of the same parameters is no partner: names 1/3, g 1.
        (respond(call("h", a=1, b="x"), TWO[1]), (1 + 6 * (4 / 3) / 5) / 7),
        (respond(answer="no"), 0.0),
        ("", 0.0),
        ("<think> never ends <tool_call>\n" + render_calls(TWO), 0.0),
    ],
)
def test_score_by_hand(response: str, score: float) -> None:
    assert grade(response, expect(*TWO), "graded").score == pytest.approx(score, abs=1e-12)
    assert (grade(response, expect(*TWO), "graded").score == 1.0) is (score == 1.0)


@pytest.mark.parametrize(
    ("response", "graded", "right"),
    [
        (respond(answer="Good evening."), 1.0, True),
        ("<response> Good evening. </response>", 6 / 7, True),
        ("Good evening.", 6 / 7, False),
        # A call where none is expected: C = -3.
        (respond(call("f"), answer="Good evening."), 0.0, False),
        ("<think></think><tool_call>broken</tool_call><response>x</response>", 0.0, False),
        # Speaking about the tags, in the thought or to the user, calls nothing.
        (respond(thought="no <tool_call> here", answer="hello"), 1.0, True),
        (respond(answer="<tool_call>{}</tool_call>"), 1.0, True),
    ],
)
def test_no_call_expected(response: str, graded: float, right: bool) -> None:
    reference = expect(answer=True)
    assert grade(response, reference, "graded").score == pytest.approx(graded, abs=1e-12)
    assert grade(response, reference, "calls").score == float(right)


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ('{"name": "f", "parameters": {}}\n{"name": "g"', "tool call 2 is not valid JSON"),
        ('{"name": "f", "parameters": {"a": NaN}}', "tool call 1 is not valid JSON"),
        ('{"name": "f", "parameters": {"a": ' + "9" * 5000 + "}}", "tool call 1 is not valid JSON"),
        ('{"name": "f", "parameters": {"a": ' + "[" * 100_000, "tool call 1 is nested too deeply"),
        ("[1]", "tool call 1 is not a JSON object"),
        ('{"parameters": {}}', "tool call 1 has no name"),
        ('{"name": ["f"], "parameters": {}}', "tool call 1 has no name"),
        ('{"name": "f"}', "tool call 1 has no object of parameters"),
        ('{"name": "f", "parameters": [1]}', "tool call 1 has no object of parameters"),
    ],
)
def test_unreadable_calls_score_as_none_and_say_why(block: str, problem: str) -> None:
    reward = grade(f"<think>x</think>\n<tool_call>\n{block}\n</tool_call>", expect(call("f")), "graded")
    assert reward.score == 0.0
    assert reward.feedback == f"The tool calls cannot be read: {problem}."
    assert reward.error is None
    assert reward.answer is not None
    assert len(reward.answer) <= 2000


def test_tags_inside_strings_are_text() -> None:
    tricky = call("f", a="</tool_call> <response> </think>", b="line\nbreak")
    response = respond(tricky).replace("</think>", "", 1).replace("<think> so ", "<think> so </think>", 1)
    assert grade(response, expect(tricky), "graded").score == 1.0


@pytest.mark.parametrize(
    "response",
    [
        "<think>a</think><think>b</think>\n<tool_call>\n" + render_calls(TWO) + "\n</tool_call>",
        respond(*TWO) + "\n<tool_call>\n</tool_call>",
        respond(*TWO) + " and so on",
        respond(*TWO).removesuffix("</tool_call>"),
    ],
)
def test_a_broken_format_costs_the_format(response: str) -> None:
    assert grade(response, expect(*TWO), "graded").score < 1.0


def test_calls_of_all_blocks_count() -> None:
    block = "<tool_call>" + render_calls([call("f")]) + "</tool_call>"
    assert len(read_response("<think>x</think>" + 2 * block).calls) == 2
    assert grade("<think>x</think>" + 2 * block, expect(call("f")), "calls").score == 0.0


def test_pairing_is_the_best_one_not_the_first() -> None:
    # The first expected call fits both predictions equally, the second only the first.
    gold = (call("f", a=1), call("f", a=1, b=2))
    predicted = (call("f", a=1, b=2), call("f", a=1))
    assert best_pairing(predicted, gold) == 2 + 3
    assert overlap(predicted, gold) == 1.0


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
calls = st.builds(
    ToolCall,
    name=st.sampled_from(["f", "g", "two words", "</tool_call>"]),
    parameters=st.dictionaries(st.sampled_from("abc"), values, max_size=3),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(calls, min_size=1, max_size=4))
def test_reading_gives_back_what_was_rendered(made: list[ToolCall]) -> None:
    reading = read_response(respond(*made))
    assert reading.calls == tuple(made)
    assert reading.clean
    assert grade(respond(*made), expect(*made), "graded").score == 1.0


@settings(deadline=None, max_examples=50)
@given(st.lists(calls, min_size=1, max_size=4), st.lists(calls, max_size=4))
def test_full_score_means_every_call_right(gold: list[ToolCall], predicted: list[ToolCall]) -> None:
    response = respond(*predicted) if predicted else respond(answer="none")
    graded, strict = (grade(response, expect(*gold), kind).score for kind in ("graded", "calls"))
    assert (graded == 1.0) is same_calls(predicted, gold) is (strict == 1.0)


@settings(deadline=None, max_examples=50)
@given(st.lists(calls, min_size=1, max_size=4), st.lists(calls, max_size=4))
def test_pairing_equals_trying_all(gold: list[ToolCall], predicted: list[ToolCall]) -> None:
    """All one-to-one maps, counted out; a call of another tool is worth nothing."""
    padded = [*predicted, *([None] * len(gold))]
    best = max(
        sum(
            pair_score(p, g) if p is not None and p.name == g.name else 0.0
            for g, p in zip(gold, chosen, strict=True)
        )
        for chosen in itertools.permutations(padded, len(gold))
    )
    assert best_pairing(predicted, gold) == pytest.approx(best, abs=1e-9)


PIECES = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<response>",
    "</response>",
    "{}",
    '"',
    "x",
    "\n",
]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(PIECES)))
def test_no_text_raises(pieces: list[str]) -> None:
    assert 0 <= grade("".join(pieces), expect(*TWO), "graded").score < 1


def test_many_calls_end() -> None:
    """Trying all pairings of 30 calls would take longer than the universe has existed."""
    made = [call("f", a=i % 7, b=i) for i in range(30)]
    assert grade(respond(*made[::-1]), expect(*made), "graded").score == 1.0
    assert grade("<tool_call>" + json.dumps({"name": "f"}) * 50_000, expect(*made), "graded").score == 0.0
