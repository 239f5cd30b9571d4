"""Plan a run: what it takes of GPUs, main memory, disk and time, what does not fit, and what would help."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from hydra import compose, initialize_config_dir

from pipo.build import MOST_IN_FLOAT32, build_objective
from pipo.config.models import find_model
from pipo.config.reading import read
from pipo.config.relations import check_relations
from pipo.config.trainer_options import shortened
from pipo.config.tree import TrainConfig
from pipo.home import CONF
from pipo.plan.balance import Work, step_work
from pipo.plan.memory import (
    GIB,
    Held,
    Phase,
    cache_needs,
    cache_room,
    disk,
    host_memory,
    on_gpu,
    phases,
    sent_to_engine,
)
from pipo.plan.options import Assumptions, Machine
from pipo.plan.passes import Passes, PassPeaks, pass_peaks
from pipo.plan.seconds import Clock, Seconds, Update, held_out, iteration
from pipo.plan.sizes import Shape, Sizes, model_config, sizes
from pipo.rollout.vllm import VllmConfig

Settings = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will take."""

    model: str
    """Its path."""
    parameters: int
    """Of the model, with its adapters."""
    trained: int
    """Those of them that are trained."""
    machine: Machine
    """GPUs of each node."""
    sizes: Sizes
    """Rows, tokens and models of a process."""
    assume: Assumptions
    """What could not be known."""
    phases: Sequence[Phase]
    """Memory of a GPU."""
    host: Mapping[str, int]
    """Main memory of a node, bytes."""
    disk: Mapping[str, int]
    """Disk of the run, bytes."""
    sent: int
    """Bytes that an update sends to an engine with weights of its own."""
    work: Work
    """How an optimiser step is cut."""
    seconds: Sequence[Seconds]
    """Of an iteration."""
    updates: Update
    """All updates of an iteration, and what of them is lost."""
    iterations: int
    """Of the run."""
    evaluations: float
    """Seconds of the evaluations before and after training, together."""
    limits: Sequence[str]
    """What does not fit, in the order in which the run would meet it."""
    notes: Sequence[str]
    """What fits, but should be known."""
    changes: Settings = ()
    """Settings under which all of it fits; none where it does, or where none was found."""

    @property
    def iteration_seconds(self) -> float:
        """Of one iteration."""
        return sum(each.seconds for each in self.seconds)


def plan(settings: Settings, machine: Machine, assume: Assumptions) -> Plan:
    """The plan of ``train.py <settings>``; where it does not fit, with what would change that.

    Raises:
        ConfigError: when ``train.py`` would refuse the settings.
    """
    made = _plan(settings, machine, assume)
    if not made.limits:
        return made
    changed: Settings = ()
    for change in _changes(made, settings, machine, assume):
        changed = (*changed, *change)
        if not _plan((*settings, *changed), machine, assume).limits:
            return replace(made, changes=changed)
    return made


@cache
def composed_config(settings: Settings) -> TrainConfig:
    """The configuration that ``train.py`` would read."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("train", overrides=list(settings))
    return read(shortened(cfg, read(cfg, TrainConfig)), TrainConfig)


def _plan(settings: Settings, machine: Machine, assume: Assumptions) -> Plan:
    config = composed_config(settings)
    find_model(config.model).check_trainable()
    objective, model = build_objective(config), model_config(config.model)
    shape, its = Shape.of(model), sizes(config, objective, machine, assume)
    check_relations(config, objective=objective, vocabulary=shape.vocabulary)
    held = _held(settings, machine, assume)
    clock = Clock(held=held, sizes=its, shape=shape, gpu=machine.gpu, assume=assume, on_gpu=machine.is_gpu)
    found, time = phases(held, its, shape, machine.gpu, assume), iteration(clock, config)
    path = config.model.path if isinstance(config.model.path, str) else config.model.name
    return Plan(
        model=path,
        parameters=held.policy.parameters,
        trained=held.policy.trained,
        machine=machine,
        sizes=its,
        assume=assume,
        phases=found,
        host=host_memory(held, its, assume),
        disk=disk(held, its, config.checkpoint),
        sent=sent_to_engine(held, its),
        work=_step(its, assume),
        seconds=time.phases,
        updates=time.updates,
        iterations=config.iterations,
        evaluations=2 * held_out(clock, config, config.evaluation.samples),
        limits=tuple(_limits(config, held, its, shape, machine, assume, found)),
        notes=tuple(_notes(held, its, shape, machine, assume)),
    )


def _held(settings: Settings, machine: Machine, assume: Assumptions) -> Held:
    """The models' passes, on fake tensors."""
    config = composed_config(settings)
    its = sizes(config, build_objective(config), machine, assume)
    prompt, responses = its.full_micro_batch()
    strategy = config.strategy
    # Nothing else asks how large the GPU is.
    left_open = strategy.sharding is not None and strategy.sharding.gradient_exchange is None
    policy = Passes(
        processes=its.processes,
        sharding=strategy.sharding,
        compute_dtype=strategy.compute_dtype,
        gradient_checkpointing=config.model.gradient_checkpointing,
        model="policy",
        prompt=prompt,
        responses=responses,
        group_size=its.group,
        # A successful response of the group stands before it.
        teacher_prompt=prompt + its.longest_response if its.distils else None,
        accumulates=_step(its, assume).passes > 1,
        on_gpu=machine.is_gpu,
        memory=machine.gpu.memory if machine.is_gpu and left_open else None,
    )
    run = _Passing(config)
    return Held(
        policy=_peaks(run, policy),
        retrospective=_peaks(run, replace(policy, teacher_prompt=None)),
        critic=_peaks(run, replace(policy, model="critic")) if its.critic else None,
        sharding=strategy.sharding,
        exchanges=config.trainer.strategy == "ddp" and its.processes > 1,
    )


class _Passing:
    """A run, of which only model and algorithm decide what its passes hold: equal where these are."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._key = repr((config.model, config.algo.objective.node))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Passing) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@cache
def _peaks(run: _Passing, passes: Passes) -> PassPeaks:
    model = run.config.model
    lora = None if model.lora is None or model.lora.rank is None else model.lora
    dtype = getattr(torch, model.dtype)
    return pass_peaks(model_config(model), build_objective(run.config), passes, dtype, lora)


def _step(its: Sizes, assume: Assumptions) -> Work:
    """An optimiser step of the update."""
    return step_work(its, assume, waits=its.sharded, share=assume.trained_share)


def _limits(
    config: TrainConfig,
    held: Held,
    its: Sizes,
    shape: Shape,
    machine: Machine,
    assume: Assumptions,
    found: Sequence[Phase],
) -> Iterator[str]:
    """What does not fit, in the order in which a run meets it."""
    memory = machine.gpu.memory
    if its.per_node > machine.count:
        yield f"trainer.devices={its.per_node}, but a node has {machine.count} GPUs"
    if config.trainer.strategy == "single" and its.processes > 1:
        yield f"{its.processes} processes need strategy=ddp or strategy=fsdp"
    if config.recipe.mini_batch % its.processes:
        size = config.recipe.mini_batch
        yield f"recipe.mini_batch={size} cannot be shared evenly by {its.processes} processes"
    split = its.engine.tensor_parallel_size if isinstance(its.engine, VllmConfig) else 1
    if its.processes % split:
        key = "rollout.engine.config.tensor_parallel_size"
        yield f"{key}={split} does not divide the {its.processes} processes"
    slow = config.strategy.compute_dtype is None and machine.is_gpu
    if slow and held.policy.parameters > MOST_IN_FLOAT32:
        yield (
            f"strategy.compute_dtype=null: products of {held.policy.parameters / 1e9:.1f} billion parameters "
            "would be in float32, which train.py refuses on a GPU"
        )
    if isinstance(its.engine, VllmConfig):
        room, (longest, _, _) = cache_room(held, its, machine.gpu, assume), cache_needs(its, shape)
        if room < longest:
            positions = its.engine.max_model_len or shape.positions
            yield (
                f"vLLM does not start: beside its weights {gib(max(0, room))} are left of its share for keys "
                f"and values, and one row of {positions} tokens takes {gib(longest)}"
            )
    for phase in found:
        if phase.total > memory:
            largest = sorted(phase.parts, key=lambda name: -phase.parts[name])[:3]
            parts = ", ".join(f"{name} {gib(phase.parts[name])}" for name in largest)
            yield f"{phase.name}: {gib(phase.total)} of {gib(memory)} ({parts})"


def _notes(held: Held, its: Sizes, shape: Shape, machine: Machine, assume: Assumptions) -> Iterator[str]:
    """What fits, but should be known."""
    if its.per_node < machine.count:
        idle = machine.count - its.per_node
        yield f"{idle} of {machine.count} GPUs of a node are left idle (trainer.devices)"
    if isinstance(its.engine, VllmConfig):
        room = cache_room(held, its, machine.gpu, assume)
        _, expected, most = cache_needs(its, shape)
        said = f"key-value cache of {gib(max(0, room))}: about {gib(expected)} are filled at a time"
        if most > room:
            yield f"{said}; all rows at their limit would take {gib(most)}, and some would have to wait"
        else:
            yield f"{said}, and {gib(most)} if all rows run to their limit"
    if held.sharding is not None and _step(its, assume).passes > 1:
        whole, each = 4 * held.policy.trained, held.policy.exchanges_each_pass
        when = (
            "exchanged with each, so that no GPU holds a whole one"
            if each
            else "exchanged after the last, until when every GPU holds a whole one"
        )
        yield f"gradients of the micro-batches of an optimiser step are {when} ({gib(whole)} in float32)"


def _changes(made: Plan, settings: Settings, machine: Machine, assume: Assumptions) -> Iterator[Settings]:
    """Settings that may make it fit, the cheapest first; each is tried with those before."""
    config, its = composed_config(settings), made.sizes
    trainer = config.trainer
    if its.per_node > machine.count:
        yield (f"trainer.devices={machine.count}",)
    if trainer.strategy != "fsdp" and machine.count > 1:
        yield ("strategy=fsdp_bf16",)
    if config.strategy.compute_dtype is None:
        yield ("strategy.compute_dtype=bfloat16",)
    sharding = config.strategy.sharding
    if sharding is not None and sharding.gradient_exchange == "step":
        yield ("strategy.sharding.gradient_exchange=micro_batch",)
    if its.look_back == "device":
        yield ("improvement=cpu",)
    if isinstance(its.engine, VllmConfig):
        if not its.engine.sleep:
            yield ("rollout.engine.config.sleep=true",)
        if its.engine.max_model_len is None:
            longest = its.longest_prompt + its.longest_response
            yield (f"rollout.engine.config.max_model_len={longest}",)
        yield (f"rollout.engine.config.gpu_memory_utilization={_utilization(settings, machine, assume):.2f}",)
    if not config.model.gradient_checkpointing:
        yield ("model.gradient_checkpointing=true",)
    budget, longest = its.budget, its.longest_prompt + its.longest_response
    while budget > longest:
        budget = max(longest, budget // 2)
        yield (f"strategy.tokens_per_micro_batch={budget}",)
    if config.strategy.sharding is not None and not config.strategy.sharding.cpu_offload:
        yield ("strategy.sharding.cpu_offload=true",)
        for nodes in (2, 4, 8):
            if nodes > trainer.num_nodes:
                yield ("strategy.sharding.cpu_offload=false", f"trainer.num_nodes={nodes}")


def _utilization(settings: Settings, machine: Machine, assume: Assumptions) -> float:
    """The largest share that leaves room for what stands always."""
    config = composed_config(settings)
    its = sizes(config, build_objective(config), machine, assume)
    stays = sum(on_gpu(_held(settings, machine, assume), its).values())
    free = 1 - (stays * (1 + assume.fragments) + assume.context_gib * GIB) / machine.gpu.memory
    return max(0.01, math.floor(100 * free) / 100)


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB"
