r"""ToolRL's reward for tool use (Qian et al., "ToolRL: Reward is All Tool Learning Needs", arXiv 2504.13958).

For the reference calls :math:`G`, the predicted calls :math:`P` and one-to-one pairs :math:`(g, p)` of calls
of the same tool, chosen for the greatest total,

.. math::

    x = \frac{J(N_G, N_P) + \sum_{(g, p)} \bigl[ J(K_g, K_p) + |\{k \in K_g : g_k = p_k\}| \bigr]}
             {1 + |G| + \sum_{g \in G} |K_g|}, \qquad C = 6x - 3,

where :math:`N` are the names of the tools, counted as often as they are called, :math:`K` the names of a
call's parameters and :math:`J(A, B) = |A \cap B| / |A \cup B|`, which is 1 for two empty sets. If no call is
expected, :math:`C = 3` when none is made and :math:`-3` otherwise. :math:`F = 1` when the response has
exactly the fields of the reference, in order, with nothing around them, else 0. ToolRL trains on
:math:`F + C`, which lies in :math:`[-3, 4]`; the score here is that moved to :math:`[0, 1]`:

.. math:: \text{score} = \frac{F + C + 3}{7}.

So the score is 1 exactly when the format is right and every call is. Calls that cannot be read give
:math:`C = -3`, as in ToolRL's code. That code pairs calls greedily and gives 0 for :math:`C` wherever no call
is expected; here the pairing is the best one and such a row is worth as much as any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import networkx

from pipo.graders.tool_calls import (
    RESPONSE,
    TOOL_CALL,
    Reading,
    ToolCall,
    equal_values,
    read_response,
    same_calls,
)
from pipo.records.problems import Reward

RewardKind = Literal["graded", "calls"]

_BEST, _WORST = 3.0, -3.0
# A report needs the start of what was called, not a megabyte of it.
_SHOWN_CHARS = 2000


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a response is compared with."""

    fields: tuple[str, ...]
    """Fields that a response should have, in order."""
    calls: tuple[ToolCall, ...]
    """Calls that a response should make, in whatever order."""


def grade(response: str, reference: Reference, kind: RewardKind) -> Reward:
    """The verdict on one response.

    Args:
        response: the decoded text.
        reference: what is expected.
        kind: ``graded`` for ToolRL's reward in [0, 1]; ``calls`` for 1.0 if every call is right, else 0.0.
    """
    reading = read_response(response)
    if kind == "calls":
        score = float(calls_right(reading, reference))
    else:
        score = (format_reward(reading, reference) + correctness(reading, reference) - _WORST) / 7
    return Reward(
        score=score,
        answer=reading.text[:_SHOWN_CHARS] or None,
        feedback=_feedback(reading, reference),
    )


def format_reward(reading: Reading, reference: Reference) -> float:
    """F: 1.0 if exactly the expected fields are there, in order, with nothing around them."""
    return float(reading.clean and reading.fields == reference.fields)


def correctness(reading: Reading, reference: Reference) -> float:
    """C, in [-3, 3]."""
    if not reference.calls:
        return _WORST if TOOL_CALL in reading.fields else _BEST
    if reading.problem is not None:
        return _WORST
    return (_BEST - _WORST) * overlap(reading.calls, reference.calls) + _WORST


def calls_right(reading: Reading, reference: Reference) -> bool:
    """Accuracy: every call right, none too many. Where none is expected, the user gets a response instead.

    The format counts no further: a thought may be missing, and words may stand between the fields.
    """
    if not reference.calls:
        return TOOL_CALL not in reading.fields and RESPONSE in reading.fields
    return reading.problem is None and same_calls(reading.calls, reference.calls)


def overlap(predicted: Sequence[ToolCall], expected: Sequence[ToolCall]) -> float:
    """x, in [0, 1]; there must be an expected call."""
    left, right = Counter(c.name for c in expected), Counter(c.name for c in predicted)
    names = (left & right).total() / (left | right).total()
    best = 1 + len(expected) + sum(len(call.parameters) for call in expected)
    return (names + best_pairing(predicted, expected)) / best


def best_pairing(predicted: Sequence[ToolCall], expected: Sequence[ToolCall]) -> float:
    """The greatest sum of :func:`pair_score` over one-to-one pairs of calls of the same tool."""
    graph = networkx.Graph()
    for i, gold in enumerate(expected):
        scores = [(pair_score(c, gold), j) for j, c in enumerate(predicted) if c.name == gold.name]
        # Of the calls that suit it best, one for each expected call, at least one is left over for it by
        # the others in some best pairing, so further ones change nothing; this keeps the graph small.
        scores.sort(key=lambda pair: (-pair[0], pair[1]))
        for score, j in scores[: len(expected)]:
            graph.add_edge(("expected", i), ("predicted", j), weight=score)
    pairs = networkx.max_weight_matching(graph)
    return float(sum(graph.edges[pair]["weight"] for pair in pairs))


def pair_score(predicted: ToolCall, expected: ToolCall) -> float:
    """Jaccard overlap of the parameter names, plus the number of expected values that are right."""
    given, wanted = predicted.parameters, expected.parameters
    if not given and not wanted:
        return 1.0
    shared = given.keys() & wanted.keys()
    right = sum(equal_values(given[name], wanted[name]) for name in shared)
    return len(shared) / len(given.keys() | wanted.keys()) + right


def _feedback(reading: Reading, reference: Reference) -> str | None:
    """What a reader of the response would complain about, without giving away the calls."""
    if reading.problem is not None:
        return f"The tool calls cannot be read: {reading.problem}."
    if not format_reward(reading, reference):
        wanted = " then ".join(f"<{field}>" for field in reference.fields)
        return f"The response should consist of {wanted} and nothing else."
    return None
