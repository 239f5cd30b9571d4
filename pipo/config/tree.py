"""The typed configuration: every key that ``train.py``, ``eval.py`` and grading read, declared once.

Closed nodes are :class:`~pipo.records.options.Options`. Open nodes (objective, task, tool, engine,
callback, logger, reward term) name a class by ``_target_`` and become
:class:`~pipo.config.open_nodes.Open`, which builds its object. Imports neither torch nor Lightning: the
command line is checked before they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Tag

from pipo.callbacks.pipo_options import NoPipo, PipoOptions
from pipo.config.open_nodes import Open
from pipo.distributed.hardware import Hardware
from pipo.evaluation.options import EvaluationConfig
from pipo.lm.options import Lora, Sharding
from pipo.modules.options import AdamWConfig, Place
from pipo.records.options import (
    CorrectionLevel,
    Count,
    CountOrNone,
    NotNegative,
    Options,
    Positive,
    Precision,
    Several,
)
from pipo.rollout.options import SamplingWithCorrection
from pipo.tasks.base import Task


class ModelConfig(Options):
    """The model: where it is, and how it is held in memory."""

    name: str
    """Short name of the model, for reports."""
    path: str | Open
    """A Hugging Face folder, a hub id, a run folder or a checkpoint; or what makes the folder."""
    dtype: Precision
    """Dtype of the weights; to train them, float32."""
    gradient_checkpointing: bool
    """Trade compute for activation memory."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the chat template, as TRL's option of that name. Where the model is a run's own, the run's
    hold unless they are given anew. None for none."""
    lora: Lora | None = None
    """Adapters that are trained in place of the weights; None, or a rank of None, for none."""


class TaskConfig(Options):
    """Problems and their grader, with the lengths that they take."""

    name: str
    """Short name of the task, for reports."""
    max_prompt_tokens: Count
    """Longer prompts are left out of training."""
    max_response_tokens: Count
    """A response is cut after this many tokens."""
    source: Open
    """The :class:`~pipo.tasks.base.Task`."""
    tool: Open | None = None
    """What the policy may use before it answers: makes another task of the task. None for nothing."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the task, its grader and its tool."""
        return self.source.node if self.tool is None else {**self.source.node, "tool": self.tool.node}

    def build(self) -> Task:
        """The task, with its tool."""
        task = self.source.build(Task)
        return task if self.tool is None else self.tool.build(Task, task=task)


class RolloutConfig(SamplingWithCorrection):
    """How responses are sampled."""

    engine: Open
    """Policy -> :class:`~pipo.rollout.engine.RolloutEngine`."""


class RecipeConfig(Options):
    """Sizes and learning rate that suit a model."""

    responses: Count
    """Responses sampled per iteration, over all processes."""
    mini_batch: Count
    """Responses per optimiser step, over all processes."""
    learning_rate: Positive
    """Learning rate of the base update."""
    kl_coef: NotNegative
    """Weight of the KL penalty, for the algorithms that have one."""


class AlgoConfig(Options):
    """The base algorithm."""

    name: str
    """Short name of the algorithm, for reports."""
    group_size: Count
    """Responses per prompt."""
    prompts: Count
    """Prompts per iteration, over all processes."""
    dynamic_sampling_rounds: CountOrNone
    """Draw prompts until the batch is full of groups that teach something, at most so often."""
    reward_terms: dict[str, Open]
    """Name -> a :class:`~pipo.rollout.reward_terms.RewardTerm`, added to the reward for training only."""
    importance_correction: CorrectionLevel
    """What ``rollout.importance_correction`` is unless it says otherwise."""
    optimizer: AdamWConfig
    """AdamW, with the recipe's learning rate."""
    objective: Open
    """The :class:`~pipo.modules.objectives.base.Objective`."""


class StrategyConfig(Options):
    """How the processes of a run share the model."""

    compute_dtype: Precision | None
    """Dtype of matrix products; None for that of the weights."""
    sharding: Sharding | None
    """FSDP2 sharding of the weights; None for whole weights."""
    timeout_s: Positive
    """Seconds that processes wait for each other before the run ends."""
    tokens_per_micro_batch: Count
    """Tokens of one forward and backward pass on one device, a prompt counted once for all its responses."""


class CurveConfig(Options):
    """Held-out accuracy during training."""

    every: Count
    """Iterations between two points."""
    samples: Count
    """Responses per problem and point."""


class ProbeConfig(Options):
    """Probe of the feedback: held-out prompts that are scored every iteration."""

    prompts: CountOrNone
    """Number of prompts; 0 for no probe."""
    samples: Count
    """Responses per prompt."""


class CheckpointConfig(Options):
    """Checkpoints: when a run is saved, and which stay."""

    every: Count
    """Iterations between two checkpoints."""
    keep: Count
    """Newest checkpoints that stay."""
    best: bool
    """Save whenever the curve is higher than before, too; the best stays."""


class SamplesConfig(Options):
    """Which responses are kept for people to read."""

    every: Count
    """Iterations between two entries."""
    prompts: Count
    """Prompts per entry, at most, each with all of its responses."""
    held_out: CountOrNone
    """Held-out problems, at most, of which a response before and one after training is kept."""


class _Scored(Options):
    """What training and evaluation have in common."""

    resume: str | None
    """A folder to go on with."""
    data_dir: str | None
    """A folder of local data files in place of the hub."""
    output_dir: str
    """The folder of this run."""
    model: ModelConfig
    """The language model."""
    rollout: RolloutConfig
    """Engine and sampling of responses."""
    evaluation: EvaluationConfig
    """Held-out evaluation: problems, samples, statistics."""
    logger: dict[str, Open]
    """Name -> a Lightning logger."""


def _repository(value: Any) -> Any:
    """TRL's users type a truth value here, and the name under another key."""
    if isinstance(value, bool):
        raise ValueError(f"the name of a repository is needed, as push_to_hub=org/name, got {value}")
    return value


def _loop_or_none(node: Any) -> str:
    """Which of the two a ``pipo`` node is: one with a window has a retrospective update."""
    keys = node if isinstance(node, dict) else vars(node)
    return "pipo" if "window" in keys or "lambda" in keys else "none"


class TrainConfig(_Scored):
    """Everything that ``train.py`` reads."""

    shuffle: bool
    """Whether the training problems are shuffled anew in every epoch, or come in the task's order."""
    seed: CountOrNone
    """Every random number of the run derives from it."""
    iterations: Count
    """Rollouts with their updates; the run's budget."""
    algo: AlgoConfig
    """Base algorithm (GRPO, PPO, ...)."""
    pipo: Annotated[
        Annotated[PipoOptions, Tag("pipo")] | Annotated[NoPipo, Tag("none")], Discriminator(_loop_or_none)
    ]
    """The closed loop, or the base algorithm alone."""
    improvement: Place | None
    """Where the weights before the last iteration are kept, to measure it; None: on the device, and only
    if something acts on it."""
    recipe: RecipeConfig
    """Batch sizes and learning rate that suit the model."""
    task: TaskConfig
    """Problems and their grader."""
    strategy: StrategyConfig
    """DDP or FSDP2 sharding, precision, micro-batches."""
    trainer: Hardware
    """Devices, and whatever else Lightning's trainer is given as it stands."""
    curve: CurveConfig
    """Held-out accuracy during training."""
    probe: ProbeConfig
    """Probe of the feedback, for its sign agreement."""
    checkpoint: CheckpointConfig
    """When checkpoints are saved, and which stay."""
    samples: SamplesConfig
    """Responses that are kept for people to read."""
    push_to_hub: Annotated[str | None, BeforeValidator(_repository)] = None
    """Repository of the Hugging Face hub that the trained model is pushed to; None for none."""
    callbacks: dict[str, Open]
    """Name -> a Lightning callback of the user's own; they act after all others but checkpoints."""


class NotCoveredConfig(Options):
    """Something that a benchmark is known not to hold."""

    name: str
    """Name of what is missing."""
    weight: float
    """Share in the official total, in [0, 1]."""
    why: str
    """Reason, for the report."""


class BenchmarkConfig(Options):
    """Tasks that are scored together."""

    name: str
    """Short name of the benchmark, for reports."""
    parts: dict[str, TaskConfig]
    """Name of a part -> its task, in the order of the report."""
    average: dict[str, Several[str]] | None = None
    """Column of the report -> its parts; None: every part is a column."""
    weights: dict[str, Positive] | None = None
    """Part -> its weight inside its column; None: equal weights."""
    not_covered: list[NotCoveredConfig] | None = None
    """Parts that are known to be missing; None for nothing."""


class EvalConfig(_Scored):
    """Everything that ``eval.py`` reads."""

    device: Literal["auto", "cpu", "cuda"]
    """Device on which the model computes."""
    preview: Count | None
    """Show this many rendered prompts of each part and end; None to score."""
    benchmark: BenchmarkConfig
    """Tasks that are scored."""


class GradeConfig(Options):
    """Everything that ``eval.py grade`` reads."""

    samples: str | None
    """JSON Lines, needed: an evaluation's, or rows of the task with a response each."""
    data_dir: str | None
    """A folder of local data files in place of the hub."""
    output_dir: str
    """The folder of the verdicts."""
    batch: Count
    """Rows graded at a time; what is graded is in the file after each batch."""
    task: TaskConfig | None = None
    """Task whose grader is used."""
    benchmark: BenchmarkConfig | None = None
    """Benchmark in place of the task: each row is graded by the part that it names."""
