"""Peak memory of a GPU by phase and part, main memory of a node, and disk of a run, by arithmetic.

What stands always (weights, moments, further models) is counted; what comes and goes in the passes is taken
from :mod:`pipo.plan.passes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipo.config.tree import CheckpointConfig
from pipo.lm.options import Sharding
from pipo.plan.lengths import Lengths
from pipo.plan.options import Assumptions, Gpu
from pipo.plan.passes import GRADIENTS, PassPeaks
from pipo.plan.sizes import Shape, Sizes
from pipo.rollout.vllm import VllmConfig

GIB = 2**30
WEIGHTS, MOMENTS, REFERENCE, CRITIC, TEACHER, COPY = (
    "weights",
    "moments",
    "reference",
    "critic",
    "teacher",
    "copy for the measurement",
)
ENGINE_WEIGHTS, CACHE, ENGINE, GATHERED, LOGITS = (
    "engine's weights",
    "key-value cache",
    "engine's activations",
    "gathered weights",
    "logits",
)
BUCKETS, STEP, FRAGMENTS, CONTEXT = "exchange buffers", "optimiser's step", "fragments", "context"


@dataclass(frozen=True, kw_only=True)
class Held:
    """Models that a run holds, and how."""

    policy: PassPeaks
    """The policy's passes in its update."""
    retrospective: PassPeaks
    """The same without a teacher."""
    critic: PassPeaks | None
    """The critic's."""
    sharding: Sharding | None
    """None for whole weights."""
    exchanges: bool
    """Whole weights whose gradients are averaged (DDP)."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of an iteration and what is in a GPU's memory at its peak."""

    name: str
    """What happens."""
    parts: Mapping[str, int]
    """What for -> bytes."""

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())


def model_bytes(model: PassPeaks, sizes: Sizes) -> int:
    """Bytes of a whole model; what is trained is float32."""
    return (model.parameters - model.trained) * sizes.numbers + 4 * model.trained


def standing(held: Held, sizes: Sizes) -> dict[str, int]:
    """Bytes per process of what stands always."""
    share = sizes.processes if held.sharding is not None else 1
    weights, trained = model_bytes(held.policy, sizes) // share, 4 * held.policy.trained // share
    critic, values = 0, 0
    if held.critic is not None:
        critic, values = model_bytes(held.critic, sizes) // share, 4 * held.critic.trained // share
    parts = {
        WEIGHTS: weights,
        MOMENTS: 2 * trained,
        REFERENCE: weights * sizes.reference,
        CRITIC: critic + 2 * values,
        TEACHER: (trained if sizes.lora else weights) * sizes.teacher,
        COPY: trained * (sizes.look_back is not None),
        # A bucket for every gradient, from the beginning on.
        BUCKETS: (trained + values) * held.exchanges,
    }
    return {name: size for name, size in parts.items() if size}


def on_gpu(held: Held, sizes: Sizes) -> dict[str, int]:
    """Of what stands always, what is in the GPU's memory."""
    if held.sharding is not None and held.sharding.cpu_offload:
        return {}
    parts = standing(held, sizes)
    if sizes.look_back == "cpu":
        del parts[COPY]
    return parts


def phases(held: Held, sizes: Sizes, shape: Shape, gpu: Gpu, assume: Assumptions) -> list[Phase]:
    """Every phase of an iteration in its order."""
    stays = on_gpu(held, sizes)
    asleep = (
        {}
        if not isinstance(sizes.engine, VllmConfig) or sizes.engine.sleep
        else _engine(sizes, held, gpu, assume)
    )
    found = [Phase(name="sampling", parts=_sampling(stays, held, sizes, shape, gpu, assume))]

    def add(name: str, more: Mapping[str, int]) -> None:
        found.append(Phase(name=name, parts=_joined(stays, asleep, more)))

    if sizes.scorings:
        add("scoring", held.policy.scoring)
    if sizes.look_back is not None:
        add("look-back", held.policy.scoring)
    if sizes.retrospective:
        add("retrospective update", _update(held, held.retrospective, sizes))
    add("update", _update(held, held.policy, sizes))
    if held.critic is not None:
        add("critic's update", _update(held, held.critic, sizes))
    if isinstance(sizes.engine, VllmConfig):
        largest = shape.vocabulary * shape.width * _engine_number(sizes.engine)
        awake = asleep or {ENGINE_WEIGHTS: _engine_weights(sizes, held)}
        sent = 4 * held.policy.trained if sizes.lora else largest
        found.append(Phase(name="sync", parts=_joined(stays, awake, {"weights on their way": sent})))
    return [_with_overhead(phase, assume) for phase in found]


def _sampling(
    stays: Mapping[str, int], held: Held, sizes: Sizes, shape: Shape, gpu: Gpu, assume: Assumptions
) -> dict[str, int]:
    if isinstance(sizes.engine, VllmConfig):
        return _joined(stays, _engine(sizes, held, gpu, assume))
    rows = min(sizes.rows, max(sizes.group, sizes.engine.max_rows // sizes.group * sizes.group))
    capacity = sizes.longest_prompt + sizes.longest_response
    layer = rows * capacity * shape.cache_bytes(sizes.products) // shape.layers
    parts = {
        # One layer once more while finished rows are dropped.
        CACHE: layer * (shape.layers + 1),
        # Of this step, of the last one and probabilities, in float32; before that in the products' format.
        LOGITS: rows * shape.vocabulary * (12 + (sizes.products if sizes.products != 4 else 0)),
    }
    if held.sharding is not None or sizes.products != 4:  # with whole weights, the casts that autocast keeps
        parts[GATHERED] = held.policy.parameters * sizes.products
    return _joined(stays, parts)


def _engine(sizes: Sizes, held: Held, gpu: Gpu, assume: Assumptions) -> dict[str, int]:
    """What vLLM takes: its share of the memory, whatever else is there; the cache gets what is left of it."""
    config = sizes.engine
    assert isinstance(config, VllmConfig)
    weights, other = _engine_weights(sizes, held), round(assume.engine_gib * GIB)
    return {ENGINE_WEIGHTS: weights, ENGINE: other, CACHE: cache_room(held, sizes, gpu, assume)}


def cache_room(held: Held, sizes: Sizes, gpu: Gpu, assume: Assumptions) -> int:
    """Bytes of vLLM's key-value cache; negative when its share does not even hold the weights."""
    assert isinstance(sizes.engine, VllmConfig)
    share = round(sizes.engine.gpu_memory_utilization * gpu.memory)
    return share - _engine_weights(sizes, held) - round(assume.engine_gib * GIB)


def cache_needs(sizes: Sizes, shape: Shape) -> tuple[int, int, int]:
    """Bytes of key-value cache: of one longest row, of the batch as expected, of all rows at their limit."""
    assert isinstance(sizes.engine, VllmConfig)
    config = sizes.engine
    token = shape.cache_bytes(_engine_number(config)) // config.tensor_parallel_size
    rows = min(sizes.rows * config.tensor_parallel_size, config.max_num_seqs)
    lengths = Lengths.of(sizes.response, sizes.longest_response)
    expected = rows * lengths.most_held(sizes.prompt)
    longest = config.max_model_len or shape.positions or sizes.longest_prompt + sizes.longest_response
    return (
        longest * token,
        round(expected * token),
        rows * (sizes.longest_prompt + sizes.longest_response) * token,
    )


def _engine_number(config: VllmConfig) -> int:
    return 4 if config.dtype == "float32" else 2


def _engine_weights(sizes: Sizes, held: Held) -> int:
    assert isinstance(sizes.engine, VllmConfig)
    # Adapters are too small to count.
    weights = held.policy.parameters - held.policy.trained * sizes.lora
    return weights * _engine_number(sizes.engine) // sizes.engine.tensor_parallel_size


def sent_to_engine(held: Held, sizes: Sizes) -> int:
    """Bytes that an update sends to an engine with a copy of its own: all weights, or the adapters alone."""
    if not isinstance(sizes.engine, VllmConfig):
        return 0
    return 4 * held.policy.trained if sizes.lora else held.policy.parameters * _engine_number(sizes.engine)


def kept_by_engine(held: Held, sizes: Sizes) -> int:
    """Bytes of main memory in each process where the weights under adapters wait while the engine sleeps."""
    waits = isinstance(sizes.engine, VllmConfig) and sizes.engine.sleep and sizes.lora
    return _engine_weights(sizes, held) if waits else 0


def _update(held: Held, peaks: PassPeaks, sizes: Sizes) -> Mapping[str, int]:
    """The passes, or AdamW's step behind them, whichever takes more."""
    if held.sharding is not None and held.sharding.cpu_offload:
        return peaks.update
    share = sizes.processes if held.sharding is not None else 1
    gradients = 4 * peaks.trained // share
    step = {GRADIENTS: gradients, STEP: gradients}  # on a GPU, square roots of all second moments at a time
    return max(peaks.update, step, key=lambda parts: sum(parts.values()))


def _with_overhead(phase: Phase, assume: Assumptions) -> Phase:
    """The same with what is lost between tensors (not in vLLM's share, which is fixed) and the context."""
    own = {ENGINE_WEIGHTS, ENGINE} | ({CACHE} if ENGINE in phase.parts else set())
    tensors = sum(size for name, size in phase.parts.items() if name not in own)
    lost = {FRAGMENTS: round(assume.fragments * tensors), CONTEXT: round(assume.context_gib * GIB)}
    return Phase(name=phase.name, parts=_joined(phase.parts, lost))


def _joined(*many: Mapping[str, int]) -> dict[str, int]:
    out: dict[str, int] = {}
    for parts in many:
        for name, size in parts.items():
            out[name] = out.get(name, 0) + size
    return {name: size for name, size in out.items() if size}


def host_memory(held: Held, sizes: Sizes, assume: Assumptions) -> dict[str, int]:
    """Main memory of a node: while models are loaded, one whole in each process, and while it trains."""
    base = sizes.per_node * round(assume.host_gib * GIB)
    parts = standing(held, sizes)
    stays = sum(parts.values()) - sum(on_gpu(held, sizes).values())
    return {
        "loading": base + sizes.per_node * (model_bytes(held.policy, sizes) + stays),
        # The first process puts the model together to write it.
        "training": base
        + sizes.per_node * (stays + kept_by_engine(held, sizes))
        + 4 * held.policy.parameters,
    }


def checkpoint_bytes(held: Held, sizes: Sizes) -> int:
    """Of one checkpoint: what is trained with its moments, an averaged teacher, the measurement's copy.

    As :func:`pipo.callbacks.disk_room.needed_bytes` counts it on the models themselves.
    """
    trained = 4 * held.policy.trained
    critic = 0 if held.critic is None else 4 * held.critic.trained
    return 3 * (trained + critic) + trained * (sizes.teacher + (sizes.look_back is not None))


def disk(held: Held, sizes: Sizes, checkpoint: CheckpointConfig) -> dict[str, int]:
    """Disk of a run: checkpoints that stay, the one that is being written, the exported model."""
    one = checkpoint_bytes(held, sizes)
    return {
        "checkpoints that stay": one * (checkpoint.keep + checkpoint.best),
        "a checkpoint being written": one,
        "exported model": 4 * held.policy.parameters,
    }
