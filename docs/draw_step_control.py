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
from pipo.functional.improvement import Improvement
from pipo.functional.step_control import StepRule, StepSize, followed
from pipo.home import CONF

# Along a step of length eta the slope falls from .02 eta by .002 eta^2, so that 1 is the point of rest. One
# prompt sees both slopes with the same noise of .1 eta, and the second with .05 eta^2 more.
GAIN, CURVATURE, NOISE, MORE_NOISE, PROMPTS = 0.02, 0.002, 0.1, 0.05, (4, 16, 128, 1024)


def rates(rule: StepRule, start: float, prompts: int, gain: float, iterations: int) -> list[float]:
    """Step lengths from a start, over the iterations."""
    noise, size, seen = random.Random(prompts), StepSize(log_factor=math.log(start)), []
    for _ in range(iterations):
        seen.append(size.factor)
        found = shown(size.factor, gain, noise, prompts)
        size = followed(size, found.evidence_of_slope(rule.slope_left), rule)
    return seen


def shown(eta: float, gain: float, noise: random.Random, prompts: int) -> Improvement:
    """What a step of length eta shows of itself."""
    both, more = NOISE * eta / math.sqrt(prompts), MORE_NOISE * eta**2 / math.sqrt(prompts)
    before = noise.gauss(gain * eta, both)
    after = before + noise.gauss(-CURVATURE * eta**2, more)
    return Improvement(
        change=(before + after) / 2,
        error=both,
        slope_before=before,
        slope_after=after,
        variance_before=both**2,
        variance_after=both**2 + more**2,
        covariance=both**2,
        distance=0.0,
        spread=0.0,
        prompts=prompts,
    )


def main() -> None:
    """Both panels."""
    values = OmegaConf.to_container(OmegaConf.load(CONF / "pipo/step_control/default.yaml"))
    assert isinstance(values, dict)
    rule = StepRule(**{str(k): v for k, v in values.items() if k != "rejection"})
    figure = new_figure(2.6)
    with mpl.rc_context(STYLE):
        left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
        for n, prompts in enumerate(PROMPTS):
            for start in (0.01, 10.0):
                style = look(n) | {"marker": ""}
                label = f"{prompts} prompts" if start < 1 else None
                left.plot(rates(rule, start, prompts, GAIN, 200), **style, lw=1.2, label=label)
            right.plot(rates(rule, 1.0, prompts, 0.0, 3000), **look(n) | {"marker": ""}, lw=1.2)
        left.axhline(1, color=DARK, lw=0.7)
        left.set(
            title="From 100 times too short, 10 times too long",
            yscale="log",
            xlabel="iteration",
            ylabel="rate",
        )
        right.set(title="With nothing left to gain", xscale="log", yscale="log", xlabel="iteration")
        left.legend(loc="lower right")
    save(figure, Path(__file__).with_name("step_control.png"))


if __name__ == "__main__":
    main()
