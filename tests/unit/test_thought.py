"""What a model thinks before its answer counts for no grader, whatever it writes there."""

from __future__ import annotations

import pytest

from pipo.graders import rlla
from pipo.graders.bfcl_calls import UndecodableResponse, decode
from pipo.graders.choice import read_choice
from pipo.graders.math import MathGrader
from pipo.graders.thought import TAGS, answer_part, opened_at_end
from pipo.graders.tool_calls import ToolCall, read_response
from pipo.tasks.program import complete_function, find_program

# What stands around a draft and around the answer proper, and which of the two counts.
DRAFT, ANSWER, NOTHING = "draft", "answer", "nothing"
SHAPES = [
    ("{draft}", DRAFT),  # no thought at all
    ("{draft}\n{answer}", ANSWER),
    ("<think>{draft}</think>{answer}", ANSWER),
    ("<think>\n{draft}\n</think>\n\n{answer}", ANSWER),
    ("{draft}</think>{answer}", ANSWER),  # the prompt opened it
    ("<think>{draft}</think>", NOTHING),
    ("{draft}</think>", NOTHING),
    ("<think>{draft}", NOTHING),  # cut at the length limit
    ("<think>\n{draft}\n\n{answer}", NOTHING),
    ("Well.\n<think>{draft}", NOTHING),
    ("<think>a</think>{answer}\n<think>{draft}", ANSWER),  # opened again and cut
    ("<think>a</think>\n<think>{draft}</think>\n{answer}", ANSWER),
    ("<think>a</think>{draft}<think>b</think>", NOTHING),  # all up to the last end
    ("<think>a <think>{draft}</think> b {draft}</think>{answer}", ANSWER),
    ("<think>{draft}</think></think>{answer}", ANSWER),
    ("<thinking>{draft}</thinking>\n{answer}", ANSWER),
    ("<thinking>{draft}", NOTHING),
    ("<thinking>{draft}</think>{answer}", ANSWER),
    ("<thought>{draft}</thought>{answer}", ANSWER),
    ("<|begin_of_thought|>{draft}<|end_of_thought|>{answer}", ANSWER),
    ("<|begin_of_thought|>{draft}", NOTHING),
    ("[THINK]{draft}[/THINK]{answer}", ANSWER),
    ("[THINK]{draft}", NOTHING),
    ("◁think▷{draft}◁/think▷{answer}", ANSWER),
    ("<|channel|>analysis<|message|>{draft}assistant<|channel|>final<|message|>{answer}", ANSWER),
    ("<|channel|>analysis<|message|>{draft}", NOTHING),
    # The tag is spoken about in the thought; its end is still to come.
    ('<think>It ends with "</think>". {draft}</think>{answer}', ANSWER),
    ("<think>It ends with `</think>`. {draft}", NOTHING),
    # Quotes that do not belong together: the tag ends the thought.
    ('<think>{draft} So "no"</think>"Yes": {answer}', ANSWER),
    ("<think>{draft}\n```\nx\n```</think>```\ny\n```\n{answer}", ANSWER),
]


def shape(text: str, draft: str, answer: str) -> str:
    return text.replace("{draft}", draft).replace("{answer}", answer)


@pytest.mark.parametrize(("text", "counts"), SHAPES)
def test_a_box_in_the_thought_does_not_count(text: str, counts: str) -> None:
    grader = MathGrader(workers=1, cpu_s=5.0, wall_s=60.0)
    reward = grader.grade(shape(text, "\\boxed{7}", "\\boxed{8}"), "7")
    assert (
        reward.answer == {DRAFT: "7", ANSWER: "8", NOTHING: None}[counts]
    )  # so maj@k counts no draft either
    assert reward.score == float(counts == DRAFT)


@pytest.mark.parametrize(("text", "counts"), SHAPES)
def test_a_letter_in_the_thought_does_not_count(text: str, counts: str) -> None:
    response = shape(text, "<answer>A</answer>", "<answer>B</answer>")
    assert read_choice(response, ["x", "y"]) == {DRAFT: "A", ANSWER: "B", NOTHING: None}[counts]


@pytest.mark.parametrize(("text", "counts"), SHAPES)
def test_a_program_in_the_thought_does_not_count(text: str, counts: str) -> None:
    if text == "{draft}\n{answer}":
        return  # which of two blocks counts is another question
    response = shape(text, "\n```python\nprint(1)\n```\n", "\n```python\nprint(2)\n```\n")
    program = {DRAFT: "print(1)", ANSWER: "print(2)", NOTHING: None}[counts]
    assert find_program(response) == program
    begun = "def f():\n"
    body = None if program is None else f"{begun}    {program}"
    assert complete_function(begun, response, "f") == body


@pytest.mark.parametrize(("text", "counts"), SHAPES)
def test_calls_in_the_thought_do_not_count(text: str, counts: str) -> None:
    def block(name: str) -> str:
        return f'<tool_call>\n{{"name": "{name}", "parameters": {{}}}}\n</tool_call>'

    names = [call.name for call in read_response(shape(text, block("f"), block("g"))).calls]
    wanted = {DRAFT: ["f"], ANSWER: ["g"], NOTHING: []}[counts]
    assert names == (["f", "g"] if text == "{draft}\n{answer}" else wanted)


@pytest.mark.parametrize(
    ("response", "names"),
    [
        ("<think>[f()]</think>[g()]", ["g"]),
        ("[f()]</think>\n[g()]", ["g"]),
        ("[THINK][f()][/THINK][g()]", ["g"]),
        ("[g()]\n<think>[f()]", ["g"]),
        ("<think>[f()]</think>", []),
    ],
)
def test_functions_in_the_thought_are_not_called(response: str, names: list[str]) -> None:
    assert [call.name for call in decode(response, "Python")] == names


def test_a_thought_that_never_ends_calls_no_function() -> None:
    # Nothing is left, which is a list without calls; the thought itself was no list of calls either.
    assert decode("<think>[f()]", "Python") == ()
    with pytest.raises(UndecodableResponse):
        decode("I think [f()]", "Python")


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("<reasoning>no <answer>A</answer></reasoning><answer>B</answer>", "B"),
        ("no <answer>A</answer></reasoning>\n<answer>B</answer>", "B"),  # the plain prompt opened it
        ("<reasoning>so <answer>A</answer></reasoning>", None),
        ("so <answer>A</answer></reasoning>", None),
        ("<answer>A</answer><reasoning>for <answer>B</answer> is wrong</reasoning>", "A"),
        ("<reasoning>a</reasoning><answer>A</answer></reasoning>", "A"),
        ("<reasoning>never closed, and yet <answer>A</answer>", "A"),
        ("<think><answer>B</answer></think><reasoning>so</reasoning><answer>A</answer>", "A"),
    ],
)
def test_a_letter_in_the_reasoning_does_not_count(response: str, letter: str | None) -> None:
    assert read_choice(response, ["x", "y"]) == letter


@pytest.mark.parametrize(
    ("thought", "graded"),
    [
        ("<think>so</think>", 1.0),
        ("so</think>", 1.0),  # the prompt opened it
        ("\nso\n</think>", 1.0),
        ("</think>", 1.0),
        ("<think>\n\n</think>", 1.0),
        ("Hm. <think>so</think>", 6 / 7),  # words around the fields
        ("<thinking>so</thinking>", 6 / 7),  # another tag than the one that is asked for
        ("<think>so</think><think>so</think>", 6 / 7),
        ("<think>so</think> hm </think>", 6 / 7),
        ("", 6 / 7),
        ("<think>so", 0.0),
    ],
)
def test_a_thought_that_the_prompt_opened_keeps_the_format(thought: str, graded: float) -> None:
    call = '\n<tool_call>\n{"name": "f", "parameters": {"a": 1}}\n</tool_call>'
    reference = rlla.Reference(
        fields=("think", "tool_call"), calls=(ToolCall(name="f", parameters={"a": 1}),)
    )
    assert rlla.grade(thought + call, reference, "graded").score == pytest.approx(graded, abs=1e-12)
    assert rlla.grade(thought + call, reference, "calls").score == float(graded > 0)


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_every_tag_opens_and_closes(opening: str, closing: str) -> None:
    assert answer_part(f"{opening}a{closing}b") == "b"
    assert answer_part(f"a{closing}b") == "b"
    assert answer_part(f"a{opening}b") == "a"
    assert opened_at_end(f"Question{opening}\n") == f"{opening}\n"
    assert opened_at_end(f"Question{opening}\n\n{closing}\n\n") == ""
    assert opened_at_end(f"Write {opening} first.") == ""


def test_a_response_without_a_thought_is_all_answer() -> None:
    for text in ("", "x\n", "a < b > c </b>", "[1, 2]", 'It said "<think>" and `</think>`.'):
        assert answer_part(text) == text
