"""Base class of environments, which answer the policy between its turns: one object for each episode."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pipo.records.problems import Reply, Transcript


class Environment(ABC):
    """One episode of one problem. It may hold state, such as a process or a simulator.

    It is made by :meth:`pipo.tasks.base.Task.environment` when the policy's first turn has ended, and nothing
    of it outlives the episode. The same transcript must get the same reply, so that a resumed run repeats
    itself: randomness comes from the problem (its ``uid``), and never from a clock.
    """

    @abstractmethod
    def step(self, transcript: Transcript) -> Reply:
        """Answer the policy's newest turn.

        Asked for every turn that ended by itself, the last allowed one included (its messages then go
        nowhere, its reward counts), and never for a turn that was cut. Environments of other episodes may be
        asked at the same time in other threads; this one is asked by one at a time.

        What the policy got wrong, such as a call that cannot be read, is for the reply to say. An error that
        is raised costs the episode: it scores 0, and ``Reward.error`` says why.

        Args:
            transcript: all that was said after the prompt; ``transcript[-1]`` is the policy's newest turn.
        """

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Release what is held; called once, however the episode ended."""
