"""The head of the table that Lightning's profiler has written, for the terminal."""

from __future__ import annotations

from pathlib import Path

PROFILE_FILE = "fit-profile.txt"
_MOST = 12


def profile_head(path: Path) -> list[str]:
    """The lines of the actions that took longest, in 80 columns.

    Args:
        path: the file that ``SimpleProfiler`` wrote; another profiler's, which has no such table, gives none.
    """
    lines = []
    # Every start of the run adds a report.
    newest = path.read_text(encoding="utf-8").rpartition("Profiler Report")[2]
    for line in newest.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        # Action, mean, calls, total, share; below the titles, the first is the run as a whole.
        if len(cells) == 5 and cells[2].isdigit():
            name = cells[0].rpartition("]")[2]
            lines.append(f"{name[:48]:<48} {cells[2]:>7} times {float(cells[3]):>9.2f} s")
    return lines[:_MOST]
