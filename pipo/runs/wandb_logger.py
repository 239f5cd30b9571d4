"""Lightning logger for Weights & Biases, beside the metrics files; a resumed run goes on in its W&B run."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger
from wandb.errors import CommError, Error, UsageError
from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

from pipo.errors import ConfigError, reason
from pipo.runs.files import replace_text

_LOG = logging.getLogger(__name__)

# What ending a run raises: its own errors, the connection to its process, the disk, time.
_NOT_FINISHED = (Error, HandleAbandonedError, MailboxClosedError, OSError)

RUN_FILE = "wandb_run.json"
ITERATION = "iteration"
# What W&B shows of a metric beside its newest value; it takes the newest alone of all others.
SUMMARIES = {
    "eval/pass@1": "max,last",
    "train/reward": "max,last",
    "train/accuracy": "max,last",
    "rollout/logprob_diff_max": "max,last",
    "policy/grad_norm": "max,last",
    "policy/skipped_steps": "mean,max",
    "pipo/applied": "mean,last",
    "pipo/sign_agreement": "mean,last",
    "time/iteration": "mean,last",
}


class WandbRunLogger(WandbLogger):
    """One W&B run per run folder, however often it is resumed; without its server the run goes on offline.

    A row's W&B step is its iteration. The server ignores a step that it has seen, so the iterations that a
    resumed run makes again do not appear twice. Only the first process makes one.

    Args:
        save_dir: the run folder; ``wandb_run.json`` there names the W&B run.
        name: of the run, None for W&B to make one up; like group and job_type, settled by its first start.
        group: runs that belong together, a sweep or a study; None for a run by itself.
        job_type: what kind of run within its group.
        table_characters: longer texts are cut in tables.
        init_timeout: seconds to wait for the server at the start.
        finish_timeout: seconds to wait at the end for what is not uploaded yet; it stays on the disk.
        **options: Lightning's own.
    """

    def __init__(
        self,
        *,
        save_dir: str,
        name: str | None,
        group: str | None,
        job_type: str,
        table_characters: int,
        init_timeout: float,
        finish_timeout: float,
        **options: Any,
    ) -> None:
        settings = wandb.Settings(init_timeout=init_timeout, finish_timeout=finish_timeout)
        super().__init__(save_dir=save_dir, settings=settings, **options)
        if table_characters < 1:
            raise ValueError(f"table_characters must be >= 1, got {table_characters}")
        self.folder, self.table_characters = Path(save_dir), table_characters
        self._described = False
        self._waiting: dict[int | None, dict[str, float]] = {}
        self._newest = -1
        self._place = {"name": name, "group": group, "job_type": job_type}

    @property
    def experiment(self) -> Any:
        """The W&B run, begun or gone on with at the first use."""
        if self._experiment is None:
            self._wandb_init |= self._identity()
            self._id = self._wandb_init["id"]
            self._experiment = self._begin()
        return self._experiment

    def _begin(self) -> Any:
        """Start the run; Lightning's own way would make the optimiser step the x axis of every metric.

        Raises:
            ConfigError: it is to be sent, and nobody has logged in.
        """
        if not self._offline:
            try:
                return wandb.init(**self._wandb_init)
            except UsageError as error:
                raise ConfigError(
                    f"logger.wandb.offline=false: W&B refused ({str(error).splitlines()[0]}); log in with "
                    "wandb login, or leave the key out to log offline"
                ) from error
            except CommError as error:
                _LOG.warning(
                    "W&B cannot be reached (%s); this run is logged offline and can be uploaded with "
                    "wandb sync %s",
                    str(error).splitlines()[0],
                    self.folder / "wandb" / "offline-run-*",
                )
            wandb.teardown()  # the failed attempt still holds the run's name
            self._offline = True
        return wandb.init(**self._wandb_init, mode="offline")

    def _identity(self) -> dict[str, str | None]:
        """What ties all parts of the run together; settled by the first of them.

        An agent of a W&B sweep has chosen the id already.
        """
        path = self.folder / RUN_FILE
        if not path.exists():
            chosen = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
            replace_text(path, json.dumps({"id": chosen, **self._place}, indent=2) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))

    def _describe_metrics(self) -> None:
        """Every metric is drawn over the iteration; some have more in the run's summary than the newest."""
        if self._described:
            return
        self._described, run = True, self.experiment
        run.define_metric(ITERATION, hidden=True)
        run.define_metric("*", step_metric=ITERATION, step_sync=False)
        for name, summary in SUMMARIES.items():
            run.define_metric(name, step_metric=ITERATION, step_sync=False, summary=summary)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """What others log waits for the row of its iteration; W&B takes nothing for one that it has."""
        if step is None or step > self._newest:
            self._waiting.setdefault(step, {}).update(metrics)

    def log_row(self, row: Mapping[str, float], iteration: int) -> None:
        """Send one row, with what was logged for it before and what was logged without a step."""
        self._describe_metrics()
        others = {**self._waiting.pop(None, {}), **self._waiting.pop(iteration, {})}
        # Committed at once: the row of the newest checkpoint must not wait for the iteration after it.
        self.experiment.log({**others, ITERATION: iteration, **row}, step=iteration, commit=True)
        self._newest = iteration

    def log_table(
        self,
        key: str,
        columns: list[Any] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Send a table that becomes part of the row of its iteration."""
        cut: Any = None if data is None else [[self._cut(value) for value in row] for row in data]
        table = wandb.Table(columns=columns, data=cut, dataframe=dataframe)
        self.experiment.log({key: table}, step=step, commit=False)

    def _cut(self, value: Any) -> Any:
        """A text as long as a table takes it, with a word on what is missing."""
        if not isinstance(value, str) or len(value) <= self.table_characters:
            return value
        return f"{value[: self.table_characters]} [+{len(value) - self.table_characters} characters]"

    def finalize(self, status: str) -> None:
        """Called by Lightning at the end, also after an error: end what this program adds to the run."""
        if self._experiment is None:
            return
        try:
            self._experiment.finish(exit_code=int(status != "success"))
        except _NOT_FINISHED as error:
            # The run itself is whole, and so are the files that W&B keeps until they are uploaded.
            _LOG.warning(
                "the W&B run could not be ended (%s); what is not uploaded is in %s, for wandb sync",
                reason(error),
                self.folder / "wandb",
            )


def log_evaluation(logger: WandbLogger, record: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """One row: the numbers of every part and the average in the run's summary, and as a small table."""
    rows = {**content["results"], "average": content["average"]}
    scalars = {
        f"eval/{name}/{key}": value
        for name, row in rows.items()
        for key, value in row.items()
        if isinstance(value, int | float) and key != "confidence"
    }
    metrics = [key for key, value in content["average"].items() if isinstance(value, float)]
    table = wandb.Table(
        columns=["part", *metrics],
        data=[[name, *(row[key] for key in metrics)] for name, row in rows.items()],
    )
    logger.log_hyperparams({"config": record, "metadata": content["metadata"]})
    run = logger.experiment
    run.log({**scalars, "eval/table": table})  # the last values logged are the run's summary
    run.finish()
