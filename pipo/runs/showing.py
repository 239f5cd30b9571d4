"""Sampled responses and figures in loggers that can show them: W&B, TensorBoard, MLflow."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger


def show_table(logger: Logger, name: str, columns: Sequence[str], rows: list[list[Any]], step: int) -> None:
    """Show a table of one iteration; a logger that has no tables is left alone.

    Args:
        logger: Lightning's.
        name: of the table.
        columns: names of its columns.
        rows: values, texts among them.
        step: the iteration.
    """
    if isinstance(logger, WandbLogger):
        logger.log_table(name, columns=list(columns), data=rows, step=step)
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text(name, _markdown(columns, rows), step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_text(logger.run_id, _markdown(columns, rows), f"{name}/{step:06d}.md")


def show_file(logger: Logger, path: Path, step: int) -> None:
    """Show a page or a figure of the run folder; a logger that can do neither is left alone.

    Args:
        logger: Lightning's.
        path: an image or a page.
        step: the last iteration.
    """
    if isinstance(logger, TensorBoardLogger) and path.suffix == ".png":
        from matplotlib.image import imread  # the run has drawn it by now

        logger.experiment.add_image(path.stem, imread(path), step, dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(path))


def _markdown(columns: Sequence[str], rows: list[list[Any]]) -> str:
    """A table whose texts stay as the model wrote them, ends of lines and bars included."""
    lines = [
        " | ".join(columns),
        " | ".join("---" for _ in columns),
        *(" | ".join(_cell(value) for value in row) for row in rows),
    ]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(value: Any) -> str:
    return html.escape(str(value)).replace("|", "&#124;").replace("\n", "<br>")
