"""Who is shown what: the self-teacher's prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipo.records.problems import Prompt, Reward
from pipo.records.rollouts import Completions, PromptBatch, Rollouts
from pipo.rollout.privileged import teacher_prompts
from tests import toy

# Two groups of three: the second and third response of the first group succeeded, nobody in the second.
REWARDS = (0.0, 1.0, 0.5, 0.4, 0.0, 0.0)


class Shown(toy.ToyTask):
    """Notes the privileged information instead of rendering it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, str | None]] = []

    def render_with_hint(self, example, *, solution, feedback):
        self.asked.append((example.uid, solution, feedback))
        return Prompt(messages=(), text=str(len(self.asked)))


def rollouts(feedback: tuple[str | None, ...] = (None,) * 6) -> Rollouts:
    examples = toy.ToyTask().examples("train")[:2]
    ids = torch.arange(6)[:, None]
    return Rollouts(
        prompts=PromptBatch(examples=tuple(examples), prompt_ids=((7,), (8,))),
        completions=Completions(
            response_ids=ids,
            response_mask=torch.ones_like(ids, dtype=torch.bool),
            sampled=torch.ones_like(ids, dtype=torch.bool),
            logprobs=torch.zeros(6, 1),
            finished=torch.ones(6, dtype=torch.bool),
        ),
        texts=tuple(f"response {i}" for i in range(6)),
        verdicts=tuple(Reward(score=r, feedback=f) for r, f in zip(REWARDS, feedback, strict=True)),
        rewards=torch.tensor(REWARDS),
        shaping=torch.zeros(6),
        group_size=3,
        reward_sum=sum(REWARDS),
        reward_count=6,
        varied_groups=2,
    )


def prompts(
    made: Rollouts,
    *,
    siblings: bool = True,
    feedback: bool = False,
    threshold: float = 0.5,
    positions=None,
    **released: bool,
):
    task = Shown()
    result = teacher_prompts(
        made,
        task,
        lambda prompt: (int(prompt.text),),
        from_siblings=siblings,
        from_feedback=feedback,
        success_threshold=threshold,
        positions=positions,
        **released,
    )
    return result, task.asked


def test_a_response_is_never_its_own_demonstration():
    """Response 1 learns from 2 and the others from 1, the first success; the second group has none."""
    result, asked = prompts(rollouts())
    assert result == ((1,), (2,), (3,), None, None, None)
    assert asked == [
        ("toy/train/0", "response 1", None),
        ("toy/train/0", "response 2", None),
        ("toy/train/0", "response 1", None),
    ]


def test_a_teacher_is_not_asked_what_it_cannot_read_to_the_end():
    """A prompt of one token and a response of one."""
    assert prompts(rollouts(), positions=2)[0] == ((1,), (2,), (3,), None, None, None)
    assert prompts(rollouts(), positions=1)[0] == (None,) * 6


def test_a_lone_success_is_not_taught():
    """At threshold 1 only response 1 succeeded: its siblings see it, it sees nothing itself."""
    result, asked = prompts(rollouts(), threshold=1.0)
    assert result == ((1,), None, (2,), None, None, None)
    assert {solution for _, solution, _ in asked} == {"response 1"}


def test_a_success_of_another_group_is_no_demonstration():
    """At threshold 0.4 response 3 is the only success of the second group."""
    result, asked = prompts(rollouts(), threshold=0.4)
    assert result == ((1,), (2,), (3,), None, (4,), (5,))
    assert [entry[:2] for entry in asked[3:]] == 2 * [("toy/train/1", "response 3")]


def test_feedback_is_used_when_asked_for():
    said = ("too large", None, None, "too small", None, None)
    result, asked = prompts(rollouts(said), siblings=False, feedback=True)
    assert result == ((1,), None, None, (2,), None, None)
    assert asked == [("toy/train/0", None, "too large"), ("toy/train/1", None, "too small")]


def test_demonstration_and_feedback_together():
    said = ("too large", None, None, "too small", None, None)
    _, asked = prompts(rollouts(said), siblings=True, feedback=True)
    assert asked[0] == ("toy/train/0", "response 1", "too large")
    assert asked[1:] == [
        ("toy/train/0", "response 2", None),
        ("toy/train/0", "response 1", None),
        ("toy/train/1", None, "too small"),
    ]


def test_feedback_is_ignored_when_not_asked_for():
    said = ("too large",) * 6
    result, asked = prompts(rollouts(said), siblings=True, feedback=False)
    assert result[3:] == (None, None, None)
    assert all(feedback is None for *_, feedback in asked)


@pytest.mark.parametrize(
    ("response", "shown"),
    [
        ("<think>\nsix times seven\n</think>\n\nIt is 42.", "It is 42."),
        ("<think>6 x 7</think>  <think>is 42?</think> 42", "42"),
        ("It is 42.", "It is 42."),
        ("\n42\n", "42\n"),
        ("It is 42. <think>or is it", "It is 42. "),
        ("[THINK]6 x 7[/THINK]42", "42"),
        (
            "<reasoning>6 x 7</reasoning><answer>42</answer>",
            "<reasoning>6 x 7</reasoning><answer>42</answer>",
        ),
    ],
)
def test_a_demonstration_may_be_shown_without_its_thought(response, shown):
    made = rollouts()
    made = replace(made, texts=(made.texts[0], response, *made.texts[2:]))
    assert prompts(made, drop_thoughts=True)[1][0] == ("toy/train/0", shown, None)
    assert prompts(made)[1][0] == ("toy/train/0", response, None)


def test_a_success_that_says_nothing_after_its_thought_is_no_demonstration():
    made = rollouts()
    made = replace(made, texts=(made.texts[0], "<think>42</think>\n", *made.texts[2:]))
    # The first response is shown the next success, and the third, whose only other success it was, none.
    made_prompts, asked = prompts(made, drop_thoughts=True)
    assert asked == [("toy/train/0", "response 2", None), ("toy/train/0", "response 2", None)]
    assert [ids is None for ids in made_prompts] == [False, False, True, True, True, True]


def test_feedback_may_be_kept_for_those_without_a_demonstration():
    said = tuple(f"feedback {i}" for i in range(6))
    _, asked = prompts(rollouts(said), feedback=True, feedback_beside_solution=False)
    assert [(solution, feedback) for _, solution, feedback in asked] == [
        ("response 1", None),
        ("response 2", None),
        ("response 1", None),
        (None, "feedback 3"),
        (None, "feedback 4"),
        (None, "feedback 5"),
    ]
