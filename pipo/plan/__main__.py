"""Plan a run on GPUs: ``python -m pipo plan gpus=8xH100-80 [group=option] [key=value] [assume.name=value]``.

Reads the settings as ``train.py`` does and says, without a GPU and without the model's weights, what the run
takes of GPU memory by phase and part, of main memory and disk, and how long an iteration lasts; what does not
fit first, and what would make it fit. Nothing is refused but what ``train.py`` refuses. Kinds of GPU, known
models and assumptions are in ``conf/plan``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from pipo.config.cli import exit_code, register_resolvers
from pipo.config.command_line import check_command_line, expand_model, expand_paths
from pipo.errors import ConfigError

GPUS, ASSUME, RESUME = "gpus=", "assume.", "resume="


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(
        prog="python -m pipo plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="gpus=, assume.<name>=, train.py's own")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables: bytes and seconds")
    options = parser.parse_intermixed_args(arguments)
    register_resolvers()
    code, _ = exit_code(lambda: _print(options.words, as_json=options.json))
    if code:
        sys.exit(code)


def _print(words: Sequence[str], *, as_json: bool) -> None:
    gpus = [word.removeprefix(GPUS) for word in words if word.startswith(GPUS)]
    assumed = [word.removeprefix(ASSUME) for word in words if word.startswith(ASSUME)]
    settings = [word for word in words if not word.startswith((GPUS, ASSUME))]
    if len(gpus) != 1:
        raise ConfigError("gpus=: name the GPUs of a node, for example gpus=8xH100-80")
    if any(word.startswith(RESUME) for word in settings):
        raise ConfigError("resume=: a plan is made from a run's settings; give those")
    expand_model(settings)
    expand_paths(settings)
    check_command_line(settings, "train")

    # Heavy imports only once the command line is known to be sound.
    from rich.console import Console

    from pipo.plan.options import assumptions, machine
    from pipo.plan.page import as_object, print_plan
    from pipo.plan.plan import plan
    from pipo.runs.quiet import quiet

    on, assume = machine(gpus[0]), assumptions(assumed)
    quiet()
    made = plan(tuple(settings), on, assume)
    if as_json:
        print(json.dumps(as_object(made), indent=2))
    else:
        print_plan(made, Console())


if __name__ == "__main__":
    main()
