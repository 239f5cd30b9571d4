"""The W&B run beside the metrics files."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from wandb.errors import CommError

from pipo.files import replace_text

_LOG = logging.getLogger(__name__)


class WandbRunLogger(WandbLogger):
    """One W&B run per run folder, however often it is resumed; without its server the run goes on offline.

    A row's W&B step is its iteration. The server ignores a step that it has seen, so the iterations that a
    resumed run makes again do not appear twice.

    Args:
        save_dir: the run folder; ``wandb_id.txt`` there names the W&B run.
        init_timeout: seconds to wait for the server at the start.
        finish_timeout: seconds to wait at the end for what is not uploaded yet; it stays on the disk.
        **options: Lightning's own.
    """

    def __init__(self, *, save_dir: str, init_timeout: float, finish_timeout: float, **options: Any) -> None:
        settings = wandb.Settings(init_timeout=init_timeout, finish_timeout=finish_timeout)
        super().__init__(save_dir=save_dir, settings=settings, **options)
        self.folder = Path(save_dir)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, begun or gone on with at the first use."""
        if self._experiment is not None:
            return super().experiment
        self._wandb_init["id"] = self._id = self._run_id()
        if self._offline:
            return super().experiment
        try:
            return super().experiment
        except CommError as error:
            _LOG.warning(
                "W&B cannot be reached (%s); this run is logged offline and can be uploaded with "
                "wandb sync %s",
                str(error).splitlines()[0],
                self.folder / "wandb" / "offline-run-*",
            )
        wandb.teardown()  # the failed attempt still holds the run's name
        self._offline, self._wandb_init["mode"] = True, "offline"
        return super().experiment

    def _run_id(self) -> str:
        """The name that ties all parts of the run together; made by the first of them."""
        path = self.folder / "wandb_id.txt"
        if not path.exists():
            replace_text(path, secrets.token_hex(4) + "\n")
        return path.read_text(encoding="utf-8").strip()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send one row."""
        # Committed at once: the row of the newest checkpoint must not wait for the iteration after it.
        self.experiment.log({**metrics, "trainer/global_step": step}, step=step, commit=True)

    @rank_zero_only
    def log_table(
        self,
        key: str,
        columns: list[Any] | None = None,
        data: list[Any] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Send a table that becomes part of the row of its iteration."""
        table = wandb.Table(columns=columns, data=data, dataframe=dataframe)
        self.experiment.log({key: table}, step=step, commit=False)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Called by Lightning at the end, also after an error: end what this program adds to the run."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=int(status != "success"))
