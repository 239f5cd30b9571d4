"""Several turns against the same tokens in one turn, and what lies between model and environment.

    python bench/turns.py [--rounds 5] [--rows 64] [--turns 3] [--tokens 32] [--reply 12]

The embedded model samples on one thread. All ways sample as many tokens behind as long a prompt in each row:
in one turn, in several turns that go on from the cache, and in several turns that read everything anew. Then
whole episodes of arithmetic, in which an environment puts the expression again after each turn: what the
engine takes, the environment, and what lies between (tokens to text and back, records, threads). Seconds are
processor time of this process, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench import ruler
from pipo.lm.policy import load_policy, load_tokenizer, stop_token_ids
from pipo.lm.spec import embedded_model
from pipo.records.problems import Example, Message, Reply, Transcript
from pipo.records.rollouts import TokenIds
from pipo.rollout.local import LocalEngine, LocalEngineConfig
from pipo.rollout.options import SamplingParams
from pipo.rollout.turns import converse
from pipo.tasks.arithmetic import ArithmeticTask
from pipo.tasks.environment import Environment
from pipo.tasks.prompts import encode_examples, reply_encoder, response_decoder

PROMPT = tuple(range(3, 13))


class Again(ArithmeticTask):
    """Arithmetic in which every expression is put ``turns`` times."""

    def environment(self, example: Example) -> Environment:
        """The same for all."""
        return Repeats(example)


class Repeats(Environment):
    """Puts the expression again."""

    def __init__(self, example: Example) -> None:
        self.text = f"\n{example.question}="

    def step(self, transcript: Transcript) -> Reply:
        """Whatever was said."""
        return Reply(messages=(Message(role="user", content=self.text),), tool_calls=1)


def sampling(tokens: int, stops: frozenset[int] = frozenset()) -> SamplingParams:
    """Of the whole distribution; without stop tokens every turn has its full length."""
    return SamplingParams(
        temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, max_response_tokens=tokens, stop_token_ids=stops
    )


def in_turns(engine: LocalEngine, rows: int, turns: int, tokens: int, reply: TokenIds, *, hold: bool) -> None:
    """``turns`` times ``tokens`` tokens, with a reply between two turns."""
    contexts: list[TokenIds] = [PROMPT] * rows
    known = None
    for turn in range(turns):
        keep = hold and turn + 1 < turns
        drawn = engine.generate(contexts, 1, sampling(tokens), turn, hold=keep, continues=known)
        said = drawn.response_ids.tolist()
        contexts = [(*before, *now, *reply) for before, now in zip(contexts, said, strict=True)]
        known = list(range(rows)) if hold else None


def episodes(policy, engine: LocalEngine, task: Again, rows: int, tokens: int) -> dict[str, float]:
    """Seconds of engine, environment and the rest in episodes of arithmetic."""
    tokenizer = load_tokenizer(embedded_model("tiny"))
    stops = stop_token_ids(embedded_model("tiny"), tokenizer)
    examples = list(task.examples("train"))[:rows]
    prompts = encode_examples(tokenizer, task, examples)
    spent: dict[str, float] = {}

    @contextmanager
    def timer(name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        spent[name] = spent.get(name, 0.0) + time.process_time() - start

    def work() -> None:
        converse(
            engine,
            task,
            examples,
            prompts,
            group_size=4,
            sampling=sampling(tokens, stops),
            seed=1,
            decode=response_decoder(tokenizer, stops),
            encode_reply=reply_encoder(tokenizer),
            timer=timer,
        )

    total = ruler.cpu_seconds(work)
    between = total - sum(spent.values())
    return {**spent, "between": between, "share between": between / total}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=64, help="responses side by side")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="sampled in a turn")
    parser.add_argument("--reply", type=int, default=12, help="tokens between two turns")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = load_policy(embedded_model("tiny"), "float32")
    engine = LocalEngine(policy, LocalEngineConfig(max_rows=options.rows * 4, compact_below=0.75))
    rows, turns, tokens = options.rows, options.turns, options.tokens
    reply = tuple(3 + n % 10 for n in range(options.reply))
    task = Again(seed=0, train_problems=rows, test_problems=1, levels={1: 1.0})
    task.max_turns = turns
    sides: dict[str, Callable[[], object]] = {
        "one turn": lambda: engine.generate(
            [PROMPT + reply * (turns - 1)] * rows, 1, sampling(turns * tokens), 0
        ),
        "several, from the cache": lambda: in_turns(engine, rows, turns, tokens, reply, hold=True),
        "several, read anew": lambda: in_turns(engine, rows, turns, tokens, reply, hold=False),
    }
    for work in sides.values():
        work()
    measured: dict[str, list[float]] = {side: [] for side in sides}
    parts: dict[str, list[float]] = {}
    for number in range(options.rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            measured[side].append(ruler.cpu_seconds(sides[side]))
        for name, value in episodes(policy, engine, task, rows, turns * (tokens + options.reply)).items():
            parts.setdefault(name, []).append(value)
    spreads = {side: ruler.Spread.of(values) for side, values in measured.items()}
    ratios = {
        side: ruler.Spread.of([a / b for a, b in zip(values, measured["one turn"], strict=True)])
        for side, values in measured.items()
    }
    table = Table("way", "seconds", "ratio", title=f"{rows} rows, {turns} x {tokens} sampled tokens")
    for side in sides:
        table.add_row(side, spreads[side].show(3), ratios[side].show(2))
    episodic = {name: ruler.Spread.of(values) for name, values in parts.items()}
    split = Table("episodes", "seconds; share", title=f"{4 * rows} episodes of arithmetic, {turns} turns")
    for name, spread in episodic.items():
        split.add_row(name, spread.show(4))
    console = Console(width=110)
    console.print(table)
    console.print(split)
    if options.out:
        ruler.write(options.out, spreads | {f"ratio, {side}": s for side, s in ratios.items()} | episodic)


if __name__ == "__main__":
    main()
