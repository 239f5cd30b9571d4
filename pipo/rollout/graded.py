"""Sample responses and grade them, by worker processes while others are still being sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipo.records.problems import Example, Reward, Transcript
from pipo.records.rollouts import Completions, TokenIds
from pipo.rollout.engine import RolloutEngine
from pipo.rollout.options import SamplingParams
from pipo.rollout.turns import Episode, Timer, converse, untimed
from pipo.tasks.base import Task
from pipo.tasks.prompts import Decode, EncodeReply
from pipo.tasks.verdicts import verdicts_of, verdicts_of_episodes


@dataclass(frozen=True, kw_only=True)
class Graded:
    """N responses, group by group, and what the task says to them."""

    completions: Completions
    """N rows of tokens."""
    texts: tuple[str, ...]
    """N decoded responses without special tokens, replies of environments included."""
    episodes: tuple[Episode, ...] | None
    """N episodes; None for a task without environments."""
    verdicts: tuple[Reward, ...]
    """N verdicts."""

    @property
    def transcripts(self) -> tuple[Transcript, ...] | None:
        """N conversations; None for a task without environments."""
        return None if self.episodes is None else tuple(episode.transcript for episode in self.episodes)


def sample_and_grade(
    engine: RolloutEngine,
    task: Task,
    examples: Sequence[Example],
    prompt_ids: Sequence[TokenIds],
    *,
    group_size: int,
    sampling: SamplingParams,
    seed: int,
    decode: Decode,
    encode_reply: EncodeReply,
    timer: Timer = untimed,
) -> Graded:
    """Sample ``group_size`` responses per prompt and grade them all.

    The verdicts are those that grading at the end would give: the task is asked about all responses at once
    and in order, after sampling. Before, it is only told what is coming
    (:meth:`pipo.tasks.base.Task.begin_grading`).

    Args:
        engine: samples.
        task: makes environments, if it has some, and grades.
        examples: the problem of each prompt.
        prompt_ids: B prompts.
        group_size: G.
        sampling: how tokens are drawn.
        seed: of the draws.
        decode: token ids to text.
        encode_reply: what an environment said to token ids.
        timer: measures "generate", "environment", and "score" for what is waited for then.
    """
    known: dict[int, str] = {}

    def begin(row: int, text: str) -> None:
        known[row] = text
        task.begin_grading([examples[row // group_size]], [text])

    try:
        spoken = converse(
            engine,
            task,
            examples,
            prompt_ids,
            group_size=group_size,
            sampling=sampling,
            seed=seed,
            decode=decode,
            encode_reply=encode_reply,
            on_answer=begin if task.begins_early() else None,
            timer=timer,
        )
        with timer("score"):
            if spoken.episodes is not None:
                known.clear()  # what was said last is not all of the text
            drawn = spoken.completions
            rows, lengths = drawn.response_ids.tolist(), drawn.lengths.tolist()
            tokens = [row[:length] for row, length in zip(rows, lengths, strict=True)]
            texts = tuple(
                known[i] if i in known else decode(row, prompt_ids[i // group_size])
                for i, row in enumerate(tokens)
            )
            asked = [example for example in examples for _ in range(group_size)]
            if not asked:
                verdicts = ()
            elif spoken.episodes is None:
                verdicts = verdicts_of(task, asked, texts, tokens)
            else:
                said = [episode.transcript for episode in spoken.episodes]
                given = [episode.reward for episode in spoken.episodes]
                verdicts = verdicts_of_episodes(task, asked, said, given)
    except BaseException:
        task.close()  # what was begun would go on
        raise
    return Graded(completions=drawn, texts=texts, episodes=spoken.episodes, verdicts=verdicts)
