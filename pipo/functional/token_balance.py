"""Token balance: rows of an optimiser step over processes, so that none has many more tokens than the mean.

Sorted greedy partition (longest processing time first, Graham 1969, SIAM J. Appl. Math. 17) of the prompts
with all of their rows, which keeps together what reads a prompt once; then single rows leave the process with
most tokens, alone or in exchange for shorter ones, for as long as that helps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# So close to the mean a share is even enough. What is left is less than forward passes vary by.
EVEN = 1.01


class RowCost(NamedTuple):
    """What training on a row costs, in tokens."""

    prompt: int
    """Number of its prompt, which is read once for all of its rows on a process."""
    prompt_tokens: int
    """Tokens of the prompt."""
    tokens: int
    """Tokens of the row besides."""


@dataclass
class _Share:
    """The rows of one process."""

    rows: list[int] = field(default_factory=list)
    prompts: Counter[int] = field(default_factory=Counter)
    tokens: int = 0

    def after(self, taken: RowCost | None, given: RowCost | None) -> int:
        """Tokens after taking one row, giving one away, or both."""
        tokens = self.tokens
        if taken is not None:
            tokens += taken.tokens
        if given is not None:
            tokens -= given.tokens
        if taken is not None and given is not None and taken.prompt == given.prompt:
            return tokens
        if taken is not None and not self.prompts[taken.prompt]:
            tokens += taken.prompt_tokens
        if given is not None and self.prompts[given.prompt] == 1:
            tokens -= given.prompt_tokens
        return tokens

    def take(self, number: int, row: RowCost) -> None:
        """Add a row."""
        self.tokens = self.after(row, None)
        self.prompts[row.prompt] += 1
        self.rows.append(number)

    def give(self, number: int, row: RowCost) -> None:
        """Remove one."""
        self.tokens = self.after(None, row)
        self.prompts[row.prompt] -= 1
        self.rows.remove(number)


def token_shares(rows: Sequence[RowCost], processes: int) -> list[list[int]]:
    """Deal rows to processes; the same answer for the same rows.

    Args:
        rows: of all processes together.
        processes: how many there are.

    Returns:
        For each process the numbers of its rows, rising.

    Example:
        Two prompts of 2 tokens. With all of their rows they have 12 and 4 tokens; the row of 3 tokens moves,
        and makes it 9 and 9, its prompt being read twice.

        >>> rows = [RowCost(0, 2, 7), RowCost(0, 2, 3), RowCost(1, 2, 1), RowCost(1, 2, 1)]
        >>> token_shares(rows, 2)
        [[0], [1, 2, 3]]
    """
    shares = [_Share() for _ in range(processes)]
    for numbers in _prompts(rows):
        least = min(shares, key=lambda share: share.tokens)
        for number in numbers:
            least.take(number, rows[number])
    while max(share.tokens for share in shares) * processes > EVEN * sum(share.tokens for share in shares):
        *others, most = sorted(shares, key=lambda share: share.tokens)
        if not any(_relieved(rows, most, other) for other in others):
            break
    return [sorted(share.rows) for share in shares]


def _prompts(rows: Sequence[RowCost]) -> list[list[int]]:
    """The rows of each prompt; prompts with most tokens first."""
    groups: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.prompt, []).append(number)

    def tokens(numbers: list[int]) -> int:
        return rows[numbers[0]].prompt_tokens + sum(rows[number].tokens for number in numbers)

    return sorted(groups.values(), key=tokens, reverse=True)


def _relieved(rows: Sequence[RowCost], most: _Share, other: _Share) -> bool:
    """Make the move or exchange that leaves both shares smallest, if it leaves them below the larger one."""
    best, found = most.tokens, None
    for given in most.rows:
        for taken in (None, *other.rows):
            row = None if taken is None else rows[taken]
            larger = max(most.after(row, rows[given]), other.after(rows[given], row))
            if larger < best:
                best, found = larger, (given, taken)
    if found is None:
        return False
    given, taken = found
    most.give(given, rows[given])
    other.take(given, rows[given])
    if taken is not None:
        other.give(taken, rows[taken])
        most.take(taken, rows[taken])
    return True
