"""Our verdicts on BFCL's multi-turn conversations beside those of the official evaluation.

Each problem of the four categories gives its right conversation and altered ones, of kinds and with seeds
that its place decides. They are read, run and judged here as a policy's are; the official evaluation decodes
and judges the same texts in another process (``bfcl_official``). Needs the package bfcl-eval. Usage::

    python bench/bfcl_verdicts.py [--problems 200] [--altered 1]
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipo.graders.bfcl_turns import executable
from pipo.graders.bfcl_worker import package_folder
from pipo.graders.bfcl_worlds import Case, Simulators, Step
from pipo.tasks.bfcl_multi_turn import CATEGORIES
from pipo.tasks.bfcl_multi_turn_rows import function_docs

Turns = list[list[list[str]]]
"""Calls of each step of each turn, as a policy writes them."""
Alteration = Callable[[Turns, dict[str, Any], random.Random], None]
# As in conf/task/bfcl_multi_turn.yaml.
OPTIONS: dict[str, Any] = {
    "workers": 2,
    "seconds": 5.0,
    "wall_s": 120.0,
    "memory_mb": 2048,
    "output_kb": 4096,
}
OFFICIAL = Path(__file__).with_name("bfcl_official.py")


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A problem and what a policy says to it."""

    entry: dict[str, Any]
    """The row."""
    truth: list[list[str]]
    """The right calls of each turn."""
    kind: str
    """How the right conversation was altered."""
    said: list[list[str]]
    """Responses of each turn."""


def problems(category: str, count: int) -> list[tuple[dict[str, Any], list[list[str]]]]:
    """The first rows of a category, in the package's files, each with the right calls."""
    data = package_folder() / "data"
    name = f"BFCL_v4_{category}.json"
    rows, answers = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (data / name, data / "possible_answer" / name)
    )
    truths = {answer["id"]: answer["ground_truth"] for answer in answers}
    return [(row, truths[row["id"]]) for row in rows[:count]]


def named(call: str, entry: dict[str, Any]) -> str:
    """A call with every argument by name, as the prompt asks for."""
    tree = ast.parse(call, mode="eval").body
    assert isinstance(tree, ast.Call)
    assert isinstance(tree.func, ast.Name)
    wanted = tree.func.id
    document = next((d for d in function_docs(entry["involved_classes"]) if d["name"] == wanted), None)
    names = list(document["parameters"]["properties"]) if document else []
    given = [ast.keyword(arg=name, value=value) for name, value in zip(names, tree.args, strict=False)]
    return ast.unparse(ast.Call(func=tree.func, args=[], keywords=[*given, *tree.keywords]))


def _places(turns: Turns) -> list[tuple[int, int, int]]:
    return [
        (t, s, c) for t, turn in enumerate(turns) for s, step in enumerate(turn) for c in range(len(step))
    ]


def _dropped(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    t, s, c = rng.choice(_places(turns))
    del turns[t][s][c]


def _changed(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    """Another value of one argument."""
    places = [(t, s, c) for t, s, c in _places(turns) if "=" in turns[t][s][c]]
    t, s, c = rng.choice(places)
    tree = ast.parse(turns[t][s][c], mode="eval").body
    assert isinstance(tree, ast.Call)
    chosen = rng.choice(tree.keywords)
    match chosen.value:
        case ast.Constant(value=bool() as value):
            chosen.value = ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            chosen.value = ast.Constant(value + rng.choice([1, 0.5]))
        case ast.Constant(value=str() as value):
            chosen.value = ast.Constant(rng.choice([value + "x", value.upper(), value + " ", value[:-1]]))
        case _:
            chosen.value = ast.Constant(rng.choice([None, "x", 0]))
    turns[t][s][c] = ast.unparse(tree)


def _argument_dropped(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    places = [(t, s, c) for t, s, c in _places(turns) if "=" in turns[t][s][c]]
    t, s, c = rng.choice(places)
    tree = ast.parse(turns[t][s][c], mode="eval").body
    assert isinstance(tree, ast.Call)
    tree.keywords.pop(rng.randrange(len(tree.keywords)))
    turns[t][s][c] = ast.unparse(tree)


def _swapped(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    """Two calls in each other's place."""
    places = _places(turns)
    (t, s, c), (u, r, d) = rng.sample(places, 2) if len(places) > 1 else (places[0], places[0])
    turns[t][s][c], turns[u][r][d] = turns[u][r][d], turns[t][s][c]


def _neighbours_swapped(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    steps = [step for turn in turns for step in turn if len(step) > 1]
    step = rng.choice(steps) if steps else ["", ""]
    i = rng.randrange(len(step) - 1)
    step[i], step[i + 1] = step[i + 1], step[i]


def _repeated(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    t, s, c = rng.choice(_places(turns))
    turns[t][s].insert(c, turns[t][s][c])


def _any_call(entry: dict[str, Any], rng: random.Random, *, wanted: bool) -> str:
    """A documented function of the problem, with arguments (``wanted``) or without any."""
    documents = function_docs(entry["involved_classes"])
    fitting = [d for d in documents if bool(d["parameters"]["required"]) is wanted] or documents
    document = rng.choice(fitting)
    values = {
        "string": "'x'",
        "integer": "1",
        "float": "1.5",
        "boolean": "True",
        "array": "[]",
        "tuple": "()",
    }
    arguments = (
        f"{name}={values.get(document['parameters']['properties'][name]['type'], 'None')}"
        for name in document["parameters"]["required"]
    )
    return f"{document['name']}({', '.join(arguments)})"


def _harmless_added(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    """A function without required arguments; most of them only look."""
    rng.choice(turns).append([_any_call(entry, rng, wanted=False)])


def _harmful_added(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    rng.choice(turns).insert(0, [_any_call(entry, rng, wanted=True)])


def _unknown_added(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    odd = [
        "no_such(a=1)",
        "_load_scenario(scenario=1)",
        "exit()",
        "Files.pwd()",
        "pwd(pwd=pwd(a=1))",
        "echo(content=nan)",
    ]
    rng.choice(turns).append([rng.choice(odd)])


def _one_by_one(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    """Every call in a step of its own."""
    for turn in turns:
        turn[:] = [[call] for step in turn for call in step]


def _turn_emptied(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    rng.choice(turns).clear()


def _moved(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    """All calls of a turn in the turn before or after it."""
    t = rng.randrange(len(turns))
    other = turns[t - 1 if t and rng.random() < 0.5 else (t + 1) % len(turns)]
    other.extend([list(step) for step in turns[t]])
    turns[t].clear()


def _odd_text(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    """Texts in arguments that the official code does something to."""
    odd = ["say hello (twice)", "pwd (now)", "it's", 'a "quoted" word', "line\nline", "ls()", "\\", ""]
    names = [
        "echo(content={}, file_name='odd.txt')",
        "touch(file_name={})",
        "post_tweet(content={})",
        "send_message(receiver_id='USR001', message={})",
    ]
    rng.choice(turns).append([rng.choice(names).format(repr(rng.choice(odd)))])


def _nested(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    odd = [
        "touch(file_name=pwd())",
        "touch(file_name=pwd(x=1))",
        "mean(numbers=[1, 2.5])",
        "f(a={'b': {'c': 1}})",
        "f(a={})",
        "f(a={'b': 1, 2: 'c'})",
        "f(**{'a': 1})",
        "pwd(*[])",
        "mean(numbers=(1, -2))",
    ]
    rng.choice(turns).append([rng.choice(odd)])


def _turn_missing(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    turns.pop()


def _turn_added(turns: Turns, entry: dict[str, Any], rng: random.Random) -> None:
    turns.append([])


ALTERATIONS: dict[str, Alteration] = {
    "a call dropped": _dropped,
    "an argument changed": _changed,
    "an argument dropped": _argument_dropped,
    "two calls swapped": _swapped,
    "neighbours swapped": _neighbours_swapped,
    "a call repeated": _repeated,
    "a call without arguments added": _harmless_added,
    "a call with arguments added": _harmful_added,
    "an unknown call added": _unknown_added,
    "a step for each call": _one_by_one,
    "a turn without calls": _turn_emptied,
    "calls in another turn": _moved,
    "odd text in an argument": _odd_text,
    "odd values": _nested,
    "the last turn missing": _turn_missing,
    "a turn too many": _turn_added,
}


def conversations(category: str, count: int, altered: int) -> Iterator[Conversation]:
    """Of each problem the right conversation, and altered ones."""
    kinds = list(ALTERATIONS)
    for number, (entry, truth) in enumerate(problems(category, count)):
        right = [[[named(call, entry) for call in calls]] if calls else [] for calls in truth]
        yield Conversation(entry=entry, truth=truth, kind="", said=_said(right))
        for i in range(altered):
            kind = kinds[(number + i) % len(kinds)]
            turns = json.loads(json.dumps(right))
            ALTERATIONS[kind](turns, entry, random.Random(f"{entry['id']}/{i}"))
            yield Conversation(entry=entry, truth=truth, kind=kind, said=_said(turns))


def _said(turns: Turns) -> list[list[str]]:
    return [[*(f"[{', '.join(step)}]" for step in turn), "That is done."] for turn in turns]


def ours(simulators: Simulators, conversation: Conversation) -> tuple[bool, list[Step]]:
    """Our verdict, and the calls of every response that makes some."""
    entry, truth = conversation.entry, conversation.truth
    kept = {name: entry[name] for name in ("id", "initial_config", "involved_classes")}
    world = simulators.world(Case(world=json.dumps(kept), truth=tuple(map(tuple, truth))))
    read = [[executable(text) for text in turn] for turn in conversation.said]
    for step in (step for turn in read for step in turn if step):
        world.step(step)
    found = world.verdict([[step for step in turn if step] for turn in read])
    world.close()
    return found.right, [step for turn in read for step in turn if step]


def official(conversations: Sequence[Conversation]) -> list[tuple[bool, list[Step]]]:
    """The official verdicts, with the calls that the official decoder read."""
    lines = [json.dumps({"entry": c.entry, "truth": c.truth, "result": c.said}) for c in conversations]
    command = [sys.executable, str(OFFICIAL)]
    answered = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in answered.stdout.splitlines()]
    return [(each["right"], [tuple(step) for step in each["decoded"] if step]) for each in found]


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=200, help="of each category")
    parser.add_argument("--altered", type=int, default=1, help="altered conversations for each problem")
    options = parser.parse_args()
    with closing(Simulators(**OPTIONS)) as simulators:
        totals = _totals(simulators, options.problems, options.altered)
    for name, count in totals.items():
        print(f"{name}: {count}")


def _totals(simulators: Simulators, count: int, altered: int) -> Counter[str]:
    totals: Counter[str] = Counter()
    for category in CATEGORIES:
        told = list(conversations(category, count, altered))
        began = time.perf_counter()
        mine = [ours(simulators, each) for each in told]
        took_ms = 1000 * (time.perf_counter() - began) / len(told)
        for conversation, own, theirs in zip(told, mine, official(told), strict=True):
            kind = "altered" if conversation.kind else "right"
            totals[f"{kind} conversations"] += 1
            totals[f"{kind}, right by the official checker"] += theirs[0]
            totals[f"{kind}, same verdict"] += own[0] == theirs[0]
            if own != theirs and (own[0] != theirs[0] or theirs[1]):
                print(f"{conversation.entry['id']} ({conversation.kind}): {own}, official {theirs}")
        print(f"{category}: {len(told)} conversations, {took_ms:.0f} ms each")
    return totals


if __name__ == "__main__":
    main()
