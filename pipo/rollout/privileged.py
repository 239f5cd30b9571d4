"""Self-teacher's prompts: privileged information from a successful sibling and the task's feedback."""

from __future__ import annotations

from collections.abc import Callable

from pipo.graders.thought import answer_part
from pipo.records.problems import Prompt
from pipo.records.rollouts import Rollouts, TokenIds
from pipo.tasks.base import Task


def teacher_prompts(
    rollouts: Rollouts,
    task: Task,
    encode: Callable[[Prompt], TokenIds],
    *,
    from_siblings: bool,
    from_feedback: bool,
    success_threshold: float,
    positions: int | None,
    drop_thoughts: bool = False,
    feedback_beside_solution: bool = True,
) -> tuple[TokenIds | None, ...]:
    """The teacher's prompt for every response.

    Args:
        rollouts: graded responses.
        task: renders the prompt with the hint.
        encode: prompt to token ids.
        from_siblings: use the first *other* response of the group with a reward of at least
            ``success_threshold``; a response is never its own teacher.
        from_feedback: use the verdict's feedback.
        success_threshold: verifier reward of a success.
        positions: tokens that the teacher can place; None for any number.
        drop_thoughts: show only what the successful response says after its thought, and no response that
            says nothing then.
        feedback_beside_solution: use the feedback also where there is a successful response to show.

    Returns:
        N prompts, None for a response with neither a successful sibling nor feedback, and for one that the
        teacher could not read to its end.
    """
    size = rollouts.group_size
    successful: list[bool] = (rollouts.rewards >= success_threshold).tolist()
    lengths: list[int] = rollouts.completions.lengths.tolist()
    shown = list(rollouts.texts)
    if drop_thoughts:
        shown = [answer_part(text).lstrip() for text in shown]
        successful = [success and text != "" for success, text in zip(successful, shown, strict=True)]
    prompts: list[TokenIds | None] = []
    for row, verdict in enumerate(rollouts.verdicts):
        start = row - row % size
        siblings = [i for i in range(start, start + size) if i != row and successful[i]]
        solution = shown[siblings[0]] if from_siblings and siblings else None
        feedback = verdict.feedback if from_feedback else None
        if solution is not None and not feedback_beside_solution:
            feedback = None
        if solution is None and feedback is None:
            prompts.append(None)
            continue
        example = rollouts.prompts.examples[row // size]
        prompt = encode(task.render_with_hint(example, solution=solution, feedback=feedback))
        fits = positions is None or len(prompt) + lengths[row] <= positions
        prompts.append(prompt if fits else None)
    return tuple(prompts)
