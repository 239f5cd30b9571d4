"""Set up a task for a model: tokenised prompts, grader and sampling, for ``train.py`` and ``eval.py``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from pipo.errors import ConfigError, TaskError
from pipo.lm.spec import ModelSpec
from pipo.records.problems import Dropped, Example, Split
from pipo.records.rollouts import TokenIds
from pipo.rollout.options import SamplingParams
from pipo.tasks.base import Task
from pipo.tasks.prompts import check_lengths, encode_examples, trainable

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Problems:
    """A split with its tokenised prompts."""

    examples: Sequence[Example]
    """Problems of the split."""
    prompt_ids: Sequence[TokenIds]
    """Tokenised prompt of each problem."""
    dropped: Sequence[Dropped]
    """Rows that were left out, and why."""


@dataclass(frozen=True, kw_only=True)
class TaskSetup:
    """A model at a task: what training and evaluation both need."""

    model: ModelSpec
    """Specification of the model."""
    tokenizer: PreTrainedTokenizerBase
    """Tokenizer of the model."""
    key: str
    """Key of the task in the configuration: ``task``, or a part of a benchmark."""
    task: Task
    """Problems and grader."""
    sampling: SamplingParams
    """How tokens are drawn."""
    max_prompt_tokens: int
    """Longest prompt, in tokens."""

    def problems(self, split: Split, limit: int | None = None) -> Problems:
        """A split of the task, tokenised; the first ``limit`` problems, None for all.

        Rows without a problem are left out. So are, for training, those that are held out too or whose
        prompt is too long; the held-out problems define the result, so there a long prompt is an error.

        Raises:
            ConfigError: the split cannot be read, a held-out prompt is too long, or nothing is left.
        """
        try:
            all_examples = self.task.examples(split)
            examples = list(all_examples)[:limit]
            prompt_ids = encode_examples(self.tokenizer, self.task, examples)
            dropped = list(self.task.dropped(split))
            if split == "test":
                check_lengths(examples, prompt_ids, self.max_prompt_tokens)
                self._report(split, dropped, len(all_examples))
                return Problems(examples=examples, prompt_ids=prompt_ids, dropped=dropped)
            held_out = self.task.examples("test")
        except TaskError as error:
            raise ConfigError(f"{self.key}: {error}") from error
        fit = trainable(examples, prompt_ids, held_out, self.max_prompt_tokens)
        kept = [i for i, problem in enumerate(fit) if problem is None]
        dropped += [
            Dropped(place=e.uid, reason=problem) for e, problem in zip(examples, fit, strict=True) if problem
        ]
        if not kept:
            raise ConfigError(
                f"{self.key}: no training problem is left; {dropped[0].place}: {dropped[0].reason}"
            )
        self._report(split, dropped, len(kept))
        return Problems(
            examples=[examples[i] for i in kept], prompt_ids=[prompt_ids[i] for i in kept], dropped=dropped
        )

    def scored(self, limit: int | None) -> Problems:
        """The held-out problems that ``evaluation.problems`` asks for; said when there are fewer."""
        problems = self.problems("test", limit)
        if limit is not None and len(problems.examples) < limit:
            _LOG.warning(
                "evaluation.problems=%d: %s has %d held-out problems, all of them are scored",
                limit,
                self.task.name,
                len(problems.examples),
            )
        return problems

    def check_room(self, problems: Problems) -> None:
        """Refuse a response limit that the model cannot reach after the longest prompt.

        A longer row would fail in the middle of a run, or be read in a way that the model never learnt.
        """
        longest, limit = max(map(len, problems.prompt_ids), default=0), self.sampling.max_response_tokens
        positions = self.model.positions
        if positions is not None and longest + limit > positions:
            raise ConfigError(
                f"{self.key}.max_response_tokens={limit}: {self.model.path} reads at most {positions} "
                f"tokens, and the longest prompt has {longest}; lower the limit, or use a model that "
                "reads more"
            )

    def _report(self, split: Split, dropped: Sequence[Dropped], used: int) -> None:
        """Count and name what was left out or is doubtful: a few on the terminal, all in the log file."""
        # Of held-out problems only: to look at all training references takes algebra minutes.
        doubtful = self.task.doubtful(split) if split == "test" else ()
        for said, rows, total in (
            ("rows left out", dropped, used + len(dropped)),
            ("problems used although in doubt", doubtful, len(self.task.examples(split))),
        ):
            for row in rows:
                _LOG.info("%s %s: %s: %s: %s", self.task.name, split, said, row.place, row.reason)
            if rows:
                named = "; ".join(f"{row.place}: {row.reason}" for row in rows[:3])
                more = f"; {len(rows) - 3} more are in the log" if len(rows) > 3 else ""
                _LOG.warning(
                    "%s %s: %d of %d %s (%s%s)", self.task.name, split, len(rows), total, said, named, more
                )
