"""A rollout engine that breaks in the middle of a run, for ``rollout=breaking`` on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from pipo.distributed.collectives import world
from pipo.lm.policy import Policy
from pipo.rollout.vllm import VllmConfig, VllmEngine


class BreakingEngine(VllmEngine):
    """The real engine, whose network raises after some updates on one rank."""

    updates, rank = 0, 0

    def sync_weights(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        super().sync_weights(parameters)
        self.updates -= 1
        if self.updates == 0 and self.rank == world()[0]:
            self._llm.apply_model(lambda model: setattr(model, "compute_logits", _break))


def _break(*_: object, **__: object) -> None:
    raise RuntimeError("the device is gone")


def engines(config: VllmConfig, updates: int, rank: int) -> Callable[[Policy], VllmEngine]:
    def make(policy: Policy) -> VllmEngine:
        engine = BreakingEngine(policy, config)
        # The first time, the engine takes the weights that the run begins with.
        engine.updates, engine.rank = updates + 1, rank
        return engine

    return make
