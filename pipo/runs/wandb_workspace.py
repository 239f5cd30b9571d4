"""``python -m pipo dashboard ENTITY/PROJECT``: a saved W&B workspace, PIPO's panels first.

The workspace that W&B makes by itself has a section per prefix of the metrics' names; this one says which
panels stand where, and that everything is drawn over the iteration, without smoothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from pipo.errors import ConfigError
from pipo.runs.files import writing
from pipo.runs.wandb_logger import ITERATION

NAME = "PIPO"
#: Section -> panel -> the metrics that it draws, in the order of the screen.
SECTIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "PIPO": {
        "progress xi (standard deviations)": ("pipo/progress",),
        "coefficient phi(xi)": ("pipo/coefficient",),
        "retrospective update applied": ("pipo/applied",),
        "gradient norm, base and retrospective": ("policy/grad_norm", "pipo/grad_norm"),
        "sign agreement with the probe": ("pipo/sign_agreement", "pipo/evidence_agreement"),
        "what the last iteration did (reward)": ("pipo/improvement", "pipo/improvement_se"),
        "slope of the reward at both ends of the step": ("pipo/slope_before", "pipo/slope_after"),
        "evidence (standard errors)": ("pipo/evidence", "pipo/step_evidence"),
        "factor on the learning rate": ("pipo/rate_factor",),
        "undone iterations": ("pipo/undone",),
        "how far responses moved (nats)": ("pipo/spread", "pipo/distance"),
        "change on the probe": ("probe/change",),
        "window of mean rewards": ("pipo/history_mean", "train/reward"),
        "standard deviation of the window": ("pipo/history_std",),
        "retrospective clip fraction": ("pipo/clip_fraction",),
        "distance from the policy of the previous batch": ("pipo/kl_old",),
    },
    "Accuracy": {
        "held-out pass@1": ("eval/pass@1",),
        "held-out pass@1 and its interval": ("eval/pass@1", "eval/pass@1_low", "eval/pass@1_high"),
        "accuracy of sampled responses": ("train/accuracy",),
    },
    "Reward": {
        "mean reward": ("train/reward",),
        "reward on the probe": ("probe/reward",),
        "groups that teach nothing": ("rollout/zero_variance_groups",),
        "shaping": ("train/shaping",),
    },
    "Lengths": {
        "response length (tokens)": ("train/response_length", "eval/response_length"),
        "cut responses": ("rollout/truncated",),
    },
    "Turns": {
        "turns of a response": ("rollout/turns",),
        "calls of a response": ("rollout/tool_calls",),
        "calls that failed": ("rollout/tool_errors",),
        "tokens of a response, by who said them": (
            "train/response_length",
            "rollout/user_tokens",
            "rollout/tool_tokens",
        ),
    },
    "Optimisation": {
        "loss": ("policy/loss",),
        "retrospective loss": ("pipo/loss",),
        "gradient norm": ("policy/grad_norm",),
        "clip fraction": ("policy/clip_fraction",),
        "entropy (nats)": ("policy/entropy",),
        "distance from the policy that sampled (nats)": ("policy/kl_old",),
        "distance from the initial model (nats)": ("policy/kl_ref", "pipo/kl_ref"),
        "learning rate": ("policy/lr", "pipo/lr"),
        "critic's loss": ("value/loss",),
        "variance that the critic explains": ("value/explained_variance",),
    },
    "Health": {
        "sampler against trainer, mean (nats)": ("rollout/logprob_diff",),
        "sampler against trainer, largest (nats)": ("rollout/logprob_diff_max",),
        "importance weight": ("rollout/importance_weight",),
        "importance weights at the cap": ("rollout/importance_capped",),
        "skipped optimiser steps": ("policy/skipped_steps", "pipo/skipped_steps", "value/skipped_steps"),
        "grader errors": ("train/grader_errors",),
        "the machine's errors in grading": ("train/infrastructure_errors",),
        "rounds of sampling": ("rollout/rounds",),
        "responses that can teach": ("policy/trained_rows",),
    },
    "Time": {
        "iteration (s)": ("time/iteration",),
        "phases (s)": (
            "time/generate",
            "time/environment",
            "time/score",
            "time/annotate",
            "time/retrospective",
            "time/update",
            "time/critic",
            "time/sync",
        ),
        "held-out scoring (s)": ("time/evaluate", "time/probe"),
        "sampled tokens per second": ("train/tokens_per_second", "rollout/tokens_per_second"),
    },
}


def workspace(entity: str, project: str) -> ws.Workspace:
    """The dashboard as an object; nothing is sent."""
    sections = [
        ws.Section(
            name=name,
            is_open=True,
            panels=[_panel(title, metrics) for title, metrics in panels.items()],
        )
        for name, panels in SECTIONS.items()
    ]
    sections.append(ws.Section(name="Samples", panels=[wr.WeavePanelSummaryTable(table_name="samples")]))
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=ITERATION, smoothing_type="none", smoothing_weight=0),
    )


def _panel(title: str, metrics: Sequence[str]) -> wr.LinePlot:
    return wr.LinePlot(
        title=title, x=ITERATION, y=[*metrics], title_x=ITERATION, smoothing_type="none", smoothing_factor=0
    )


def specification(board: ws.Workspace) -> dict[str, Any]:
    """What the library would send to the server."""
    return json.loads(board._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Save the workspace, or write what would be sent."""
    parser = argparse.ArgumentParser(prog="python -m pipo dashboard", description=__doc__)
    parser.add_argument("project", metavar="ENTITY/PROJECT")
    parser.add_argument("--spec", type=Path, help="write what would be sent to this file instead")
    options = parser.parse_args(arguments)
    entity, _, project = options.project.partition("/")
    if not entity or not project or "/" in project:
        parser.error(f"{options.project}: not of the form ENTITY/PROJECT")
    board = workspace(entity, project)
    if options.spec is not None:
        try:
            with writing(options.spec):
                text = json.dumps(specification(board), indent=2)
                options.spec.write_text(text + "\n", encoding="utf-8")
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        print(options.spec)
        return
    try:
        board.save()
    except (wandb.Error, ValueError) as error:
        print(f"error: {options.project}: the workspace was not saved: {error}", file=sys.stderr)
        sys.exit(1)
    print(board.url)


if __name__ == "__main__":
    main()
