"""FSDP2 sharding: wrap layers, gather full weights, sum and clip gradients.

PyTorch's FSDP2 gathers a layer's weights when its forward pass begins and frees them when it ends, a
collective of all processes each time. Two rules follow, and both are kept here and in ``PolicyModule``:
every process makes the same number of forward and backward passes, or the weights are gathered before and
kept until after (:func:`gathered`), when each process may make as many as it likes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from pipo.errors import ConfigError
from pipo.lm.critic import Critic
from pipo.lm.options import Sharding
from pipo.lm.policy import Policy

# Share of a GPU's memory that one whole gradient may take before it is exchanged with every micro-batch.
ROOM_FOR_A_GRADIENT = 1 / 16


def exchanges_each_pass(options: Sharding, parameters: int, memory: int | None) -> bool:
    """Whether gradients are exchanged with every micro-batch, rather than once per optimiser step.

    Left open, it is once per step wherever a whole gradient is a small thing: on a CPU, and on a GPU that it
    takes at most a sixteenth of.

    Args:
        options: see :class:`Sharding`.
        parameters: that are trained, of the whole model.
        memory: bytes of the GPU; None on a CPU.
    """
    if options.gradient_exchange is not None:
        return options.gradient_exchange == "micro_batch"
    gradient = parameters * getattr(torch, options.reduce_dtype).itemsize
    return memory is not None and gradient > ROOM_FOR_A_GRADIENT * memory


def shard(
    model: Policy | Critic, mesh: DeviceMesh, options: Sharding, compute_dtype: torch.dtype | None
) -> None:
    """Cut a model over the processes of a mesh, in place: each decoder layer, and all else together.

    Args:
        model: with the same weights on every process; nothing is sent.
        mesh: one dimension.
        options: see :class:`Sharding`.
        compute_dtype: in which layers get their weights and compute; None for that of the weights.
    """
    precision = MixedPrecisionPolicy(
        param_dtype=compute_dtype, reduce_dtype=getattr(torch, options.reduce_dtype)
    )
    offload = CPUOffloadPolicy() if options.cpu_offload else OffloadPolicy()
    for layer in _decoder_layers(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=precision, offload_policy=offload)
    # What is in no layer (embeddings, head, last norm) stays gathered until backward, which needs it first;
    # so does a teacher's head until its student has used it.
    fully_shard(model, mesh=mesh, reshard_after_forward=False, mp_policy=precision, offload_policy=offload)
    if isinstance(model, Policy):
        # Further ways into the model; only ``__call__`` gathers by itself.
        register_fsdp_forward_method(model, "distillation_target")
        register_fsdp_forward_method(model, "cut_logprobs")
        register_fsdp_forward_method(model, "next_token_logits")


def _decoder_layers(model: Policy | Critic) -> list[nn.Module]:
    """The repeated layers of a model."""
    backbone = cast(PreTrainedModel, model.model.base_model)
    count = backbone.config.get_text_config().num_hidden_layers
    lists = [each for each in backbone.modules() if isinstance(each, nn.ModuleList) and len(each) == count]
    if len(lists) != 1:
        raise ConfigError(
            f"strategy=fsdp: {type(backbone).__name__} has {len(lists)} lists of {count} layers, so it is "
            "not clear what to shard; use strategy=ddp"
        )
    return list(lists[0])


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` has cut this model."""
    return isinstance(model, FSDPModule)


def reshard(model: nn.Module) -> None:
    """Free what a forward pass without backward left gathered; such weights would miss the next step."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Keep a sharded model whole: no collective inside, so processes may make any number of forward passes.

    Every process must enter. It takes the memory of the whole model in the dtype in which it computes. No
    weight may move inside. Must not be entered in inference mode, whose tensors could not be trained later.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    model.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        model.set_reshard_after_forward(True)
        model.set_reshard_after_forward(False, recurse=False)
        reshard(model)


def sync_gradients(model: nn.Module, *, wanted: bool) -> None:
    """Whether the next backward passes of a sharded model exchange gradients, or keep them to add up."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(wanted)


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor as a whole. Every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_parameters(
    parameters: Iterable[tuple[str, Tensor]], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Parameters one at a time, put together from the shards of all ranks where they are sharded.

    Collective for sharded parameters: every rank goes through all of them. No more than one whole parameter
    is held at a time.

    Args:
        parameters: name and value, of any dtype.
        dtype: what the values are cast to, before shards travel.
    """
    for name, parameter in parameters:
        yield name, full_tensor(parameter.detach().to(dtype))


def full_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A model's parameters and saved buffers by name, whole, one after another; a shared one comes once.

    Every process must take all of them, in step; one tensor at a time is held beside the shards.

    Args:
        model: sharded or not.
    """
    reshard(model)
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        yield name, full_tensor(tensor.detach())


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to a norm over all parameters and shards; returns the norm they had."""
    return full_tensor(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
