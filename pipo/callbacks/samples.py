"""Log sampled responses every so many iterations, to ``samples.jsonl`` and to loggers that show tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from pipo.distributed.processes import is_first
from pipo.modules.hooks import IterationStats, Learner, RolloutCallback
from pipo.records.batches import PolicyBatch
from pipo.records.problems import as_json, from_json, turn_by_turn
from pipo.records.rollouts import Rollouts
from pipo.records.text import json_text
from pipo.runs.files import replace_text, sync
from pipo.runs.run_log import read_metrics
from pipo.runs.showing import show_table

_COLUMNS = [
    "iteration",
    "uid",
    "level",
    "prompt",
    "response",
    "reference",
    "answer",
    "reward",
    "advantage",
    "tokens",
    "finished",
]
# The loggers' table: its column -> that of the file. Rows of one group are the responses to one prompt.
_TABLE = {
    "iteration": "iteration",
    "group": "uid",
    "prompt": "prompt",
    "response": "response",
    "reference": "reference",
    "answer": "answer",
    "reward": "reward",
    "advantage": "advantage",
    "length": "tokens",
    "finished": "finished",
}


class SampleLog(RolloutCallback):
    """Writes the responses of the first prompts of an iteration.

    Args:
        path: JSON-lines file that grows.
        every: iterations between two entries.
        prompts: how many prompts, each with all of its responses.
        start: first iteration of this program; entries from there on are left over from lost work.
    """

    def __init__(self, *, path: str, every: int, prompts: int, start: int) -> None:
        super().__init__()
        if every < 1 or prompts < 1:
            raise ValueError(f"samples.every and samples.prompts must be >= 1, got {every} and {prompts}")
        self.path, self.every, self.prompts, self.start = Path(path), every, prompts, start

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget what was written after the checkpoint that this run goes on from."""
        if is_first() and self.path.exists():
            kept = [row for row in read_metrics(self.path) if row["iteration"] < self.start]
            replace_text(self.path, "".join(json_text(row) + "\n" for row in kept))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """No checkpoint is ahead of its samples."""
        if is_first() and self.path.exists():
            sync(self.path)

    def on_rollouts_ready(
        self,
        trainer: pl.Trainer,
        module: Learner,
        rollouts: Rollouts,
        batch: PolicyBatch,
        stats: IterationStats,
    ) -> None:
        """Append the entries; a line is complete once it is in the file."""
        if not is_first() or stats.iteration % self.every:
            return
        rows = self._rows(module, rollouts, batch, stats.iteration)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json_text(row) + "\n")
        for logger in trainer.loggers:
            table = [[_shown(row, name) for name in _TABLE.values()] for row in rows]
            show_table(logger, "samples", list(_TABLE), table, stats.iteration)

    def _rows(
        self, module: Learner, rollouts: Rollouts, batch: PolicyBatch, iteration: int
    ) -> list[dict[str, Any]]:
        count = min(self.prompts, len(rollouts.prompts)) * rollouts.group_size
        lengths: list[int] = rollouts.completions.sampled_lengths.tolist()
        # Of a response: the mean over its sampled tokens, which are alike for every method without a critic.
        advantages = (batch.advantages.sum(dim=1) / batch.sampled.sum(dim=1).clamp(min=1)).tolist()
        rows = []
        for i in range(count):
            which = i // rollouts.group_size
            example, verdict = rollouts.prompts.examples[which], rollouts.verdicts[i]
            values = (
                iteration,
                example.uid,
                example.level,
                module.collector.decode(rollouts.prompts.prompt_ids[which]),
                rollouts.texts[i],
                example.answer,
                verdict.answer,
                verdict.score,
                round(advantages[i], 6),
                lengths[i],
                bool(rollouts.completions.finished[i]),
            )
            said = None if rollouts.transcripts is None else as_json(rollouts.transcripts[i])
            # Of a few tasks only.
            seldom = {"rewards": verdict.rewards, "noted": verdict.noted, "messages": said}
            known = {name: value for name, value in seldom.items() if value}
            rows.append({**dict(zip(_COLUMNS, values, strict=True)), **known})
        return rows


def _shown(row: dict[str, Any], name: str) -> Any:
    """What a table shows: of a conversation who speaks, too."""
    return turn_by_turn(from_json(row["messages"])) if name == "response" and "messages" in row else row[name]
