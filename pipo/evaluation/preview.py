"""Prompts as the model reads them, before anything is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipo.errors import ConfigError
from pipo.evaluation.parts import Part

_ANSWER_CHARS = 300


def print_preview(parts: Sequence[Part], count: Any) -> None:
    """The first prompts of each part with their reference answers; special tokens are visible.

    Raises:
        ConfigError: the count is not a whole number above 0.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"preview must be a whole number above 0 or null, got {count!r}")
    for part in parts:
        task, problems = part.setup.task, part.problems
        print(
            f"== {part.name}: {len(problems.examples)} problems, {len(problems.dropped)} rows left out; "
            f"task {task.name} version {task.version}, template {task.template}"
        )
        shown = list(zip(problems.examples, problems.prompt_ids, strict=True))[:count]
        for example, ids in shown:
            prompt = part.setup.tokenizer.decode(list(ids), skip_special_tokens=False)
            answer = example.answer
            if len(answer) > _ANSWER_CHARS:
                answer = f"{answer[:_ANSWER_CHARS]} ... ({len(example.answer)} characters)"
            print(f"\n-- {example.uid}: {len(ids)} tokens\n{prompt}\n-- reference: {answer}")
        print()
