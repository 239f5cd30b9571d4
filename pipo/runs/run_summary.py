"""``summary.json``: results of a finished run, and which of its products are still missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipo.runs.run_folder import write_json

SUMMARY_FILE = "summary.json"
MODEL_FOLDER = "model"
ADAPTER_FOLDER = "adapter"
CURVES_FILE = "curves.png"
REPORT_FILE = "report.html"
CARD_FILE = f"{MODEL_FOLDER}/README.md"
_MISSING = "missing"


def write_summary(
    folder: Path,
    *,
    iterations: int,
    ended_by: str | None,
    seconds: float,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    missing: Sequence[str],
) -> None:
    """Write it; a run that has its summary, with nothing missing, is finished.

    Args:
        folder: the run folder.
        iterations: that were made.
        ended_by: what ended the run before its budget; named in the file only if something did.
        seconds: that they took.
        before: the evaluation before training.
        after: the evaluation after it.
        missing: files and folders of the run that are not there yet; named in the file only if there are any.
    """
    content: dict[str, Any] = {
        "iterations": iterations,
        **({} if ended_by is None else {"ended_by": ended_by}),
        "seconds": round(seconds, 1),
        "before": before,
        "after": after,
    }
    if missing:
        content[_MISSING] = list(missing)
    write_json(folder / SUMMARY_FILE, content)


def missing_products(folder: Path, iterations: int) -> list[str] | None:
    """What a run still owes after so many iterations; None when it has no summary of them."""
    path = folder / SUMMARY_FILE
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["iterations"] != iterations:
        return None
    missing = list(content.get(_MISSING, []))
    if not (folder / MODEL_FOLDER / "config.json").is_file() and f"{MODEL_FOLDER}/" not in missing:
        missing.append(f"{MODEL_FOLDER}/")
    return missing
