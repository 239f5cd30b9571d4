"""Would PIPO's feedback have helped a run: ``python -m pipo feedback FILE_OR_FOLDER...``.

Reads the rewards of anyone's RL run and says what the published feedback would have been, and how often its
sign would have been right. Files of TRL, verl, prime-rl and this package, and plain CSV, are recognised by
their content.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from pipo.analysis.feedback.curve import check_length
from pipo.analysis.feedback.figure import draw
from pipo.analysis.feedback.forms import FORMS, read
from pipo.analysis.feedback.model import study
from pipo.analysis.feedback.realised import realised
from pipo.analysis.feedback.result import Result, as_object, as_text
from pipo.analysis.plotting.style import save
from pipo.errors import ConfigError
from pipo.home import CONF
from pipo.runs.files import writing

# Of the published method: its window and its lambda.
_PUBLISHED = CONF / "pipo/default.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    published = yaml.safe_load(_PUBLISHED.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(
        prog="python -m pipo feedback",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="FILE_OR_FOLDER", help="of one run each")
    parser.add_argument("--form", choices=list(FORMS), help="how to read them; default: by their content")
    parser.add_argument("--reward", metavar="NAME", help="key or column of the reward; default: the form's")
    parser.add_argument("--prompts", type=int, help="per iteration, where the files do not say")
    parser.add_argument("--window", type=int, default=published["window"], help="K; default %(default)s")
    parser.add_argument(
        "--lambda",
        dest="negative_scale",
        type=float,
        default=published["lambda"],
        help="factor on the feedback after a drop; default %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, default=Path("feedback.png"), help="figure; default %(default)s")
    options = parser.parse_args(arguments)
    if options.window < 2:
        parser.error(f"--window {options.window}: at least 2 values are needed for a standard deviation")
    if not 0 <= options.negative_scale <= 1:
        parser.error(f"--lambda {options.negative_scale}: must lie in [0, 1]")
    if options.prompts is not None and options.prompts < 1:
        parser.error(f"--prompts {options.prompts}: must be at least 1")
    if options.out.suffix.lower() not in (".png", ".pdf", ".svg"):
        parser.error(f"--out {options.out}: the name has to end in .png, .pdf or .svg")
    try:
        results = [_result(path, options) for path in options.runs]
        with writing(options.out):
            save(draw(results), options.out)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if options.json:
        print(json.dumps([as_object(result) for result in results], indent=2, allow_nan=False))
    else:
        print("\n\n".join(as_text(result) for result in results))
        print(f"\n{options.out}")


def _result(path: Path, options: argparse.Namespace) -> Result:
    """Read and study one run."""
    curve = read(path, options.form, options.reward, options.prompts)
    check_length(curve, options.window)
    findings = study(curve, options.window, options.negative_scale)
    return Result(
        curve=curve,
        window=options.window,
        negative_scale=options.negative_scale,
        findings=findings,
        realised=realised(curve, findings.progress, options.window),
    )


if __name__ == "__main__":
    main()
