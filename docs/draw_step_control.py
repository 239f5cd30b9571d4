"""Draw docs/step_control.png: the rule of step control on a gain and a cost that are known.

python docs/draw_step_control.py
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import matplotlib as mpl
from omegaconf import OmegaConf

from pipo.analysis.plotting.style import DARK, STYLE, look, new_figure, save
from pipo.config.cli import CONF
from pipo.functional.improvement import Improvement
from pipo.functional.step_control import StepRule, StepSize, followed

# A step of length eta gains .02 eta and has a cost of .0025 eta^2 before its price of 8, so that 1 is the
# point of rest; a prompt's own error is .1 eta.
GAIN, COST, ERROR, PROMPTS = 0.02, 0.0025, 0.1, (4, 16, 128, 1024)


def rates(rule: StepRule, start: float, prompts: int, gain: float, iterations: int) -> list[float]:
    """Step lengths from a start, over the iterations."""
    noise, size, seen = random.Random(prompts), StepSize(log_factor=math.log(start)), []
    for _ in range(iterations):
        seen.append(size.factor)
        error = ERROR * size.factor / math.sqrt(prompts)
        found = Improvement(
            change=noise.gauss(gain * size.factor, error),
            error=error,
            cost=COST * size.factor**2,
            distance=0.0,
            spread=0.0,
            prompts=prompts,
        )
        size = followed(size, found.evidence_above(rule.price), rule)
    return seen


def main() -> None:
    """Both panels."""
    values = OmegaConf.to_container(OmegaConf.load(CONF / "pipo/step_control/default.yaml"))
    assert isinstance(values, dict)
    rule = StepRule(**{str(k): v for k, v in values.items() if k != "rejection"})
    figure = new_figure(2.6)
    with mpl.rc_context(STYLE):
        left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
        for n, prompts in enumerate(PROMPTS):
            for start in (0.01, 100.0):
                style = look(n) | {"marker": ""}
                label = f"{prompts} prompts" if start < 1 else None
                left.plot(rates(rule, start, prompts, GAIN, 200), **style, lw=1.2, label=label)
            right.plot(rates(rule, 1.0, prompts, 0.0, 3000), **look(n) | {"marker": ""}, lw=1.2)
        left.axhline(1, color=DARK, lw=0.7)
        left.set(title="From 100 times too short or long", yscale="log", xlabel="iteration", ylabel="rate")
        right.set(title="With nothing left to gain", xscale="log", yscale="log", xlabel="iteration")
        left.legend(loc="upper right")
    save(figure, Path(__file__).with_name("step_control.png"))


if __name__ == "__main__":
    main()
