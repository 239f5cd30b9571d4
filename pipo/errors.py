"""Errors that end a program with one line instead of a trace, because the user can mend them."""

from __future__ import annotations

from collections.abc import Sequence


class ConfigError(ValueError):
    """A mistake in the configuration, the data or on the command line. The message names it.

    Args:
        message: what is wrong and what to do.
        details: a line each for several things that are wrong in the same way.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)


class ModelError(ConfigError):
    """A model cannot be loaded or is of a kind that is not supported. The message says what to do."""


class TaskError(ConfigError):
    """A task cannot be built (a bad option, a bad data file) or grades against its contract; it is named."""


class RunFailed(Exception):
    """The run cannot go on: a full disk, a grader that cannot start, numbers that are not finite.

    Args:
        message: what happened, what is left, and how to go on.
        agreed: whether all processes of the run raise it at the same point.
    """

    def __init__(self, message: str, *, agreed: bool = False) -> None:
        super().__init__(message)
        self.agreed = agreed


class Diverged(RunFailed):
    """Too many optimiser steps in a row met numbers that are not finite; every process raises it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, agreed=True)


class RunStopped(Exception):
    """A signal ended the run in good order.

    Args:
        message: what happened and how to go on.
        code: exit status, 128 plus the signal's number.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def reason(error: BaseException) -> str:
    """An error in a few words, for a message that says what it was about."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__
