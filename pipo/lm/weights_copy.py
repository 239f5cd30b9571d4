"""A copy of the weights that are trained, to look back at the policy that they were, or to go back to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from pipo.lm.sharding import is_sharded, reshard


class WeightsCopy(nn.Module):
    """One more set of the trained weights, in the same shards, on their device or on the CPU.

    A module, so that checkpoints hold it, in shards where the weights are. Only what is trained is copied: of
    a model with adapters, the adapters.

    Args:
        model: whose weights are copied.
        on_cpu: keep the copy in the CPU's memory; it crosses over, one tensor at a time, when it is used.
    """

    def __init__(self, model: nn.Module, *, on_cpu: bool) -> None:
        super().__init__()
        self.on_cpu = on_cpu
        place = torch.device("cpu") if on_cpu else None
        self.weights = nn.ParameterList(
            nn.Parameter(weight.detach().to(place, copy=True), requires_grad=False)
            for weight in _trained(model)
        )
        #: Whether the model was trained since :meth:`take`, so that the two differ.
        self.register_buffer("moved", torch.zeros((), dtype=torch.bool))
        self.moved: Tensor

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Self:
        """Stay on the CPU when the module around it moves, if that is where the copy belongs."""
        return self if self.on_cpu else super()._apply(fn, recurse)

    @torch.no_grad()
    def take(self, model: nn.Module) -> None:
        """Copy the weights as they are now."""
        for copy, weight in zip(self.weights, _trained(model), strict=True):
            copy.copy_(weight)
        self.moved.fill_(False)

    @torch.no_grad()
    def give_back(self, model: nn.Module) -> None:
        """Make the weights what they were."""
        reshard(model)
        for copy, weight in zip(self.weights, _trained(model), strict=True):
            weight.copy_(copy)
        self.moved.fill_(False)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """The model with the copied weights, for as long as the context lasts; then, bit for bit, as before.

        Weights and copy change places, one tensor at a time, so that no third set is held; where both are on
        one device nothing is copied for it.
        """
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        reshard(model)  # what is still gathered would hide the exchange
        in_memory = not (self.on_cpu or is_sharded(model))  # in plain tensors of one device
        for copy, weight in zip(self.weights, _trained(model), strict=True):
            if in_memory:
                weight.data, copy.data = copy.data, weight.data
                continue
            present = weight.detach().clone()
            weight.copy_(copy)
            copy.copy_(present)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]
