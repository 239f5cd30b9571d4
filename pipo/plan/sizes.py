"""Read off a configuration what memory and time depend on: rows, tokens, models, engine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers import AutoConfig, PreTrainedConfig

from pipo.callbacks.pipo_options import PipoOptions
from pipo.config.models import find_model
from pipo.config.tree import ModelConfig, TrainConfig
from pipo.errors import ConfigError
from pipo.lm.model_files import read_config
from pipo.modules.objectives.base import Objective
from pipo.modules.options import Place
from pipo.plan.options import Assumptions, Machine, known_shapes
from pipo.rollout.local import LocalEngineConfig
from pipo.rollout.vllm import VllmConfig


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Numbers of a model."""

    layers: int
    """Decoder layers."""
    width: int
    """Of the hidden states."""
    vocabulary: int
    """Rows of the output head."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of a head."""
    tied: bool
    """Whether the head is the embedding."""
    positions: int | None
    """Longest row; None where it does not say."""

    @staticmethod
    def of(config: PreTrainedConfig) -> Shape:
        """The shape that a configuration of transformers describes."""
        text = config.get_text_config()
        heads = text.num_attention_heads
        return Shape(
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            vocabulary=text.vocab_size,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            tied=bool(text.tie_word_embeddings),
            positions=getattr(text, "max_position_embeddings", None),
        )

    def cache_bytes(self, of_number: int) -> int:
        """Keys and values of one token, in numbers of so many bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * of_number


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A run as one of its processes sees it."""

    processes: int
    """In all."""
    per_node: int
    """On each node, one for each GPU that is used."""
    nodes: int
    """Machines."""
    rows: int
    """Responses of an iteration in this process."""
    group: int
    """Responses to one prompt."""
    step_rows: int
    """Responses of an optimiser step in this process."""
    budget: int
    """Tokens of a micro-batch."""
    longest_prompt: int
    """Tokens, as the task lets in."""
    longest_response: int
    """Tokens, at which a response is cut."""
    prompt: float
    """Mean tokens of a prompt, assumed."""
    response: float
    """Mean tokens of a response, assumed."""
    rounds: float
    """Rounds of sampling per iteration."""
    numbers: int
    """Bytes of a weight that is not trained; of trained ones it is always 4."""
    products: int
    """Bytes of a number in products."""
    sharded: bool
    """Weights are in shards over all processes."""
    lora: bool
    """Adapters are trained, and nothing else."""
    scorings: int
    """Forward passes over the batch before the update: old, reference, critic, teacher."""
    reference: bool
    """A frozen model of the KL penalty is held; with adapters it is the same model."""
    critic: bool
    """A second model is trained."""
    teacher: bool
    """An averaged teacher is held."""
    distils: bool
    """The update has a teacher's forward pass beside its own."""
    look_back: Place | None
    """Where the measurement's copy of the weights is."""
    retrospective: float
    """Rows of the retrospective update, of the batch; 0 without one."""
    engine: LocalEngineConfig | VllmConfig
    """Of sampling."""

    @property
    def tokens(self) -> float:
        """Tokens of a batch in this process, prompts once."""
        return self.rows * (self.prompt / self.group + self.response)

    def full_micro_batch(self) -> tuple[int, tuple[int, ...]]:
        """The longest prompt, and responses that fill a micro-batch, or all of a step, beside it."""
        responses: list[int] = []
        left = self.budget
        while len(responses) < self.step_rows:
            if len(responses) % self.group == 0:
                left -= self.longest_prompt
            length = min(self.longest_response, left)
            if length < 1:
                break
            responses.append(length)
            left -= length
        # A row that is longer than the budget has a micro-batch of its own.
        return self.longest_prompt, tuple(responses) or (self.longest_response,)


def model_config(config: ModelConfig) -> PreTrainedConfig:
    """The model's configuration: of the table of shapes, a folder, the hub or its cache.

    Raises:
        ConfigError: there is none.
    """
    shapes = known_shapes()
    if isinstance(config.path, str) and config.path in shapes:
        return AutoConfig.for_model(**shapes[config.path])
    return read_config(find_model(config).path)


def sizes(config: TrainConfig, objective: Objective, on: Machine, assume: Assumptions) -> Sizes:
    """The sizes of a run on these GPUs.

    Raises:
        ConfigError: naming the key, when it is no run on GPUs.
    """
    hardware, strategy, pipo = config.trainer, config.strategy, config.pipo
    if hardware.accelerator == "cpu":
        raise ConfigError("trainer.accelerator=cpu: a plan is made for GPUs; leave it out")
    per_node = on.count if hardware.devices == "auto" else hardware.devices
    processes = per_node * hardware.num_nodes
    responses = config.algo.prompts * config.algo.group_size
    products = strategy.compute_dtype or config.model.dtype
    engine = engine_options(config)
    scores_again = isinstance(engine, VllmConfig) or products != "float32" or config.rollout.cuts
    loop = pipo if isinstance(pipo, PipoOptions) else None
    acts = pipo.step_control is not None or (loop is not None and loop.feedback == "paired")
    distils = objective.distillation is not None
    lora = config.model.lora is not None and config.model.lora.rank is not None
    return Sizes(
        processes=processes,
        per_node=per_node,
        nodes=hardware.num_nodes,
        rows=math.ceil(responses / processes),
        group=config.algo.group_size,
        step_rows=math.ceil(min(config.recipe.mini_batch, responses) / processes),
        budget=strategy.tokens_per_micro_batch,
        longest_prompt=config.task.max_prompt_tokens,
        longest_response=config.task.max_response_tokens,
        prompt=assume.prompt_share * config.task.max_prompt_tokens,
        response=assume.response_share * config.task.max_response_tokens,
        rounds=assume.dynamic_rounds if config.algo.dynamic_sampling_rounds else 1.0,
        numbers=4 if config.model.dtype == "float32" else 2,
        products=4 if products == "float32" else 2,
        sharded=strategy.sharding is not None,
        lora=lora,
        scorings=scores_again
        + objective.needs_reference
        + (objective.critic is not None)
        + distils
        + objective.recalls,
        reference=objective.needs_reference and not lora,
        critic=objective.critic is not None,
        teacher=objective.distillation is not None and objective.distillation.teacher_average < 1,
        distils=distils,
        look_back=config.improvement or ("device" if acts else None),
        retrospective=0.0 if loop is None else loop.row_fraction,
        engine=engine,
    )


def engine_options(config: TrainConfig) -> LocalEngineConfig | VllmConfig:
    """The engine's options, without the engine: vLLM need not be installed here.

    Raises:
        ConfigError: an engine of somebody else's.
    """
    node = config.rollout.engine
    kinds = {
        "pipo.rollout.local.local_engines": LocalEngineConfig,
        "pipo.rollout.vllm.vllm_engines": VllmConfig,
    }
    if node.target not in kinds:
        raise ConfigError(
            f"{node.key}._target_={node.target}: its needs are not known, but of {', '.join(kinds)}"
        )
    return kinds[node.target](**node.node["config"])
