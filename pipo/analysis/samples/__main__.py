"""Look at what was sampled, in the terminal: ``python -m pipo samples RUN_FOLDER...``.

On a terminal it is a screen with keys, of which ``?`` tells. Anywhere else, or with ``--plain``, the
responses are printed.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipo.analysis.samples.changes import earlier
from pipo.analysis.samples.filters import Filters, Numbers
from pipo.analysis.samples.page import printed, printed_change
from pipo.analysis.samples.sources import Entry, Source, open_sources
from pipo.analysis.samples.view import response_of, siblings
from pipo.errors import ConfigError

_BUDGET = 2_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipo samples", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="of a run or an evaluation, or a .jsonl file"
    )
    parser.add_argument("--reward", default="", help="only these: 1, '<1', '>=0.5', 0.2..0.8")
    parser.add_argument("--iteration", default="", help="only these: 10, 10..40, '>=20'")
    parser.add_argument(
        "--text", default="", help="only those with these words in prompt, response or verdict"
    )
    parser.add_argument("--part", help="only training, held-out, or one part of an evaluation")
    parser.add_argument("--changes", action="store_true", help="what changed in the responses to a problem")
    parser.add_argument("--plain", action="store_true", help="print, also on a terminal")
    options = parser.parse_args(arguments)
    try:
        filters = Filters(
            reward=_numbers("--reward", options.reward),
            iteration=_numbers("--iteration", options.iteration),
            part=options.part,
            text=options.text,
        )
        sources = open_sources(options.folders)
        if options.plain or not _on_terminal():
            _print(sources, [str(folder) for folder in options.folders], filters, changes=options.changes)
        else:
            from pipo.analysis.samples.app import SamplesApp

            names = [str(folder) for folder in options.folders]
            SamplesApp(sources, names, filters, changes=options.changes).run()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)


def _numbers(option: str, typed: str) -> Numbers | None:
    try:
        return Numbers(typed.strip()) if typed else None
    except ConfigError as error:
        raise ConfigError(f"{option} {error}") from error


def _on_terminal() -> bool:
    """Whether there is a screen and a keyboard."""
    return sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


def _print(sources: Sequence[Source], folders: Sequence[str], filters: Filters, *, changes: bool) -> None:
    """What the screen would show, as text.

    Raises:
        ConfigError: nothing is as asked for.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    for source in sources:
        while source.grow(_BUDGET):
            pass
    entries = [entry for source in sources for entry in source.entries]
    of_problem: dict[str, list[Entry]] = {}
    for entry in entries:
        of_problem.setdefault(entry.uid, []).append(entry)
    count = 0
    for entry in filter(filters.passes, entries):
        response = response_of(sources, entry)
        if filters.text and not response.contains(filters.text):
            continue
        if not changes:
            print(printed(entry, response, siblings(entry, sources[entry.source]), folders))
        elif (other := earlier(entry, of_problem[entry.uid])) is not None:
            print(printed_change(entry, other, response, response_of(sources, other), folders))
        else:
            continue
        count += 1
    sys.stdout.flush()
    for source in sources:
        for line in source.damaged:
            print(f"left out: {line}", file=sys.stderr)
    if not count:
        asked = "has an earlier one to compare it with" if changes else "is as asked for"
        raise ConfigError(f"none of {len(entries)} responses {asked}" if entries else "there are no samples")


if __name__ == "__main__":
    main()
