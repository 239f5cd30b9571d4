"""Peak memory of scoring and of an update beyond what stands always, by running them on fake tensors.

The program's own functions run (sharding, forward and backward pass, loss), in a group of as many
processes as the run will have, on tensors that have shapes and no numbers. They say that they are on the CPU:
a GPU's attention keeps the same tensors, but its kernels' own workspace is not seen here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM, PreTrainedConfig

from pipo.functional.value import clipped_value_loss
from pipo.lm import distillation, logprobs
from pipo.lm.adapters import add_adapters
from pipo.lm.attention import ATTENTION_NAME
from pipo.lm.critic import Critic
from pipo.lm.library_names import checkpoint_activations
from pipo.lm.options import Lora, Sharding
from pipo.lm.packing import PackedRows, pack
from pipo.lm.policy import Policy
from pipo.lm.sharding import exchanges_each_pass, reshard, shard, sync_gradients
from pipo.modules.annotation import unflatten
from pipo.modules.objectives.base import MicroBatch, Objective
from pipo.plan.ledger import Ledger
from pipo.records.batches import ValueTargets
from pipo.records.movable import Movable

ACTIVATIONS, HEAD, GRADIENTS = "activations", "head blocks", "gradients"


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What decides the memory of a forward and backward pass."""

    processes: int
    """Over which weights are sharded; all of the run."""
    sharding: Sharding | None
    """None for whole weights."""
    compute_dtype: Literal["float32", "bfloat16"] | None
    """Of products; None for that of the weights."""
    gradient_checkpointing: bool
    """Activations of a layer are computed again."""
    model: Literal["policy", "critic"]
    """Which model is trained."""
    prompt: int
    """Tokens of the prompt of a full micro-batch."""
    responses: tuple[int, ...]
    """Tokens of each of its responses."""
    group_size: int
    """Responses to one prompt; further ones answer a further prompt."""
    teacher_prompt: int | None
    """Tokens of the self-teacher's prompt; None without one."""
    accumulates: bool
    """An optimiser step takes several micro-batches, so that gradients wait for the next one."""
    on_gpu: bool
    """On a GPU or, to compare with real runs, on a CPU."""
    memory: int | None
    """Bytes of the GPU, which may decide when gradients are exchanged; None where nothing depends on it."""


@dataclass(frozen=True, kw_only=True)
class PassPeaks:
    """Part -> bytes at the peak, without weights and moments, which stand always."""

    parameters: int
    """Parameters of the model with its adapters, each counted once."""
    trained: int
    """Those of them that are trained."""
    exchanges_each_pass: bool
    """Shards of gradients are exchanged with every micro-batch."""
    scoring: Mapping[str, int]
    """Of a forward pass without gradient."""
    update: Mapping[str, int]
    """Of an optimiser step."""


def pass_peaks(
    config: PreTrainedConfig, objective: Objective, passes: Passes, dtype: torch.dtype, lora: Lora | None
) -> PassPeaks:
    """Run the passes of a full micro-batch on fake tensors.

    Args:
        config: of the model.
        objective: the algorithm.
        passes: what else decides.
        dtype: of the model's weights.
        lora: its adapters; None for none.
    """
    rows, lengths, mask = _rows(passes)
    with torch.device("meta"):
        model = _model(config, passes, dtype, lora)
    with _group(passes) as mesh, _few_blocks(passes), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        _bring_to_cpu(model)
        parameters = sum(each.numel() for each in model.parameters())
        trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
        if passes.sharding is not None and mesh is not None:
            # Where shards live, the passes do not ask; and there is no GPU that they could visit.
            options = passes.sharding.model_copy(update={"cpu_offload": False})
            shard(model, mesh, options, _dtype(passes))
        each_pass = passes.sharding is not None and exchanges_each_pass(
            passes.sharding, trained, passes.memory
        )
        micro: MicroBatch = _fake(mode, _micro_batch(passes, rows, lengths, mask))
        standing = [*model.parameters(), *model.buffers(), *_tensors(micro)]
        scoring, update = Ledger(ACTIVATIONS), Ledger(ACTIVATIONS)
        _mark_head(model, scoring)
        scoring.ignore(standing)
        with scoring, torch.no_grad():
            _forward(model, micro)
            reshard(model)
        _mark_head(model, update)
        update.ignore(standing)
        with update:
            _step(model, objective, micro, update, accumulates=passes.accumulates, each_pass=each_pass)
    return PassPeaks(
        parameters=parameters,
        trained=trained,
        exchanges_each_pass=each_pass,
        scoring=scoring.peak,
        update=update.peak,
    )


def _step(
    model: Policy | Critic,
    objective: Objective,
    micro: MicroBatch,
    ledger: Ledger,
    *,
    accumulates: bool,
    each_pass: bool,
) -> None:
    """Forward and backward passes of an optimiser step; what AdamW adds is known without."""
    for last in (False, True) if accumulates else (True,):
        ledger.part = ACTIVATIONS
        sync_gradients(model, wanted=last or each_pass)
        if isinstance(model, Critic):
            targets = micro.value_targets
            assert targets is not None
            values = unflatten(_forward(model, micro), micro.sampled)
            loss = clipped_value_loss(values, targets.old_values, targets.returns, 0.5).sum()
        elif micro.teacher_rows is not None:
            assert objective.distillation is not None
            target = model.distillation_target(micro.teacher_rows, objective.distillation.form)
            divergence = model(micro.rows, 1.0, target)
            loss = objective.loss(unflatten(divergence, micro.sampled), micro, 1.0).value
        else:
            loss = objective.loss(unflatten(_forward(model, micro), micro.sampled), micro, 1.0).value
        loss.backward()
        del loss
        ledger.settle(GRADIENTS)
    # Clipping is left out. It scales shards where they are, but they would first try the operation on whole
    # tensors, to know what comes out of it, and those would be counted.
    reshard(model)


def _forward(model: Policy | Critic, micro: MicroBatch) -> Tensor:
    return model(micro.rows) if isinstance(model, Critic) else model(micro.rows, 1.0)


def _mark_head(model: Policy | Critic, ledger: Ledger) -> None:
    """What is made after the layers, and before their gradient comes back, is the head's."""
    backbone = model.model if isinstance(model, Critic) else model.backbone

    def begin(module: nn.Module, args: Any, out: Any) -> None:
        ledger.part = HEAD
        hidden = out.last_hidden_state
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: setattr(ledger, "part", ACTIVATIONS))

    backbone.register_forward_hook(begin)


def _model(
    config: PreTrainedConfig, passes: Passes, dtype: torch.dtype, lora: Lora | None
) -> Policy | Critic:
    """The model as a process of the run loads it."""
    whole = AutoModelForCausalLM.from_config(
        config, attn_implementation=ATTENTION_NAME, dtype=dtype, trust_remote_code=False
    )
    if passes.gradient_checkpointing:
        checkpoint_activations(whole)
    policy = Policy(whole).train()
    if lora is not None:
        add_adapters(policy, lora, 0)
    if passes.sharding is None:
        policy.compute_dtype = _dtype(passes)
    return Critic(policy) if passes.model == "critic" else policy


def _bring_to_cpu(model: nn.Module) -> None:
    """Fake tensors in place of those without a device; what is shared stays so."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            if id(weight) not in made:
                empty = torch.empty_like(weight, device="cpu")
                made[id(weight)] = nn.Parameter(empty, requires_grad=weight.requires_grad)
        for buffer in module.buffers(recurse=False):
            made.setdefault(id(buffer), torch.empty_like(buffer, device="cpu"))
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                if tensor is not None:
                    held[key] = made[id(tensor)]  # type: ignore[assignment]


def _dtype(passes: Passes) -> torch.dtype | None:
    return None if passes.compute_dtype is None else getattr(torch, passes.compute_dtype)


def _rows(passes: Passes) -> tuple[PackedRows, Tensor, Tensor]:
    lengths = torch.tensor(passes.responses)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return _packed(passes, passes.prompt, passes.group_size, lengths, mask), lengths, mask


def _packed(passes: Passes, prompt: int, group_size: int, lengths: Tensor, mask: Tensor) -> PackedRows:
    # Prompts and responses all differ, because what rows begin with in common is read once.
    groups = -(-len(lengths) // group_size)
    prompts = [(number,) * prompt for number in range(groups)]
    responses = torch.arange(len(lengths))[:, None].expand_as(mask)
    return pack(prompts, group_size, responses, lengths, mask, range(len(lengths)))


def _micro_batch(passes: Passes, rows: PackedRows, lengths: Tensor, mask: Tensor) -> MicroBatch:
    zeros = torch.zeros(mask.shape)
    taught = passes.teacher_prompt
    return MicroBatch(
        rows=rows,
        sampled=mask,
        old_logprobs=zeros,
        advantages=zeros,
        ref_logprobs=zeros,
        kl_coef=1.0,
        teacher_rows=None if taught is None else _packed(passes, taught, 1, lengths, mask),
        value_targets=ValueTargets(old_values=zeros, returns=zeros) if passes.model == "critic" else None,
    )


def _fake(mode: FakeTensorMode, value: Any) -> Any:
    """The same record with fake tensors."""
    if isinstance(value, Tensor):
        return mode.from_tensor(value)
    if isinstance(value, Movable):
        assert is_dataclass(value)
        return replace(value, **{each.name: _fake(mode, getattr(value, each.name)) for each in fields(value)})
    if isinstance(value, tuple):
        return tuple(_fake(mode, each) for each in value)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Movable):
        assert is_dataclass(value)
        for each in fields(value):
            yield from _tensors(getattr(value, each.name))
    elif isinstance(value, tuple):
        for each in value:
            yield from _tensors(each)


@contextmanager
def _group(passes: Passes) -> Iterator[DeviceMesh | None]:
    """A group of processes of which this is the only one; None where no weights are sharded."""
    if passes.sharding is None:
        yield None
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=passes.processes)
    try:
        yield init_device_mesh("cpu", (passes.processes,))
    finally:
        dist.destroy_process_group()


@contextmanager
def _few_blocks(passes: Passes) -> Iterator[None]:
    """The head in a GPU's way, in blocks as large as there, where one is meant.

    Of equal blocks three stand for all: each gives back what it took before the next begins.
    """
    blocks_of, by_device = logprobs.row_blocks, logprobs.on_gpu

    def few(rows: int, vocabulary: int, device: torch.device) -> list[slice]:
        blocks = blocks_of(rows, vocabulary, device)
        return blocks if len(blocks) <= 3 else [*blocks[:2], blocks[-1]]

    logprobs.row_blocks = distillation.row_blocks = few
    logprobs.on_gpu = lambda _: passes.on_gpu
    try:
        yield
    finally:
        logprobs.row_blocks = distillation.row_blocks = blocks_of
        logprobs.on_gpu = by_device
