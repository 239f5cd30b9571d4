"""Push a run's model with its card to the Hugging Face hub: ``python -m pipo push RUN_FOLDER org/name``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipo.analysis.card.card import name_repository
from pipo.config.cli import register_resolvers
from pipo.errors import ConfigError
from pipo.runs.places import check_run
from pipo.runs.push import check_push, push
from pipo.runs.run_summary import MODEL_FOLDER


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipo push", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="whose model/ is pushed")
    parser.add_argument("repository", metavar="org/name", help="on the hub; a new one is private")
    parser.add_argument(
        "--update", action="store_true", help="the repository may exist; its files are replaced"
    )
    parser.add_argument("--public", action="store_true", help="a new repository is for all to see")
    options = parser.parse_args(arguments)
    register_resolvers()
    try:
        check_run(options.run)
        if not (options.run / MODEL_FOLDER / "config.json").is_file():
            raise ConfigError(f"{options.run}: has no model yet (model/ is missing)")
        check_push(options.repository)
        name_repository(options.run, options.repository)
        model = options.run / MODEL_FOLDER
        print(push(model, options.repository, update=options.update, public=options.public))
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
