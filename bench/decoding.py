"""The decode step that is written out against the library's own forward pass, by rows side by side.

    python bench/decoding.py [--rounds 5] [--tokens 100] [--rows 1 8 128] [--model FOLDER]

Both sample the same responses on one thread, in turn within a round: the same tokens, and on a CPU the same
bits of every log-probability, which is checked. Milliseconds of processor time per step, sampling included.
Each row has a prompt of its own, as responses that are the same so far would be decoded as one.
"""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from bench import ruler
from pipo.lm import policy as policy_module
from pipo.lm.policy import load_policy
from pipo.lm.spec import embedded_model
from pipo.records.rollouts import Completions
from pipo.rollout.local import LocalEngine, LocalEngineConfig
from pipo.rollout.options import SamplingParams

WRITTEN_OUT = policy_module.plain_decoder


def main() -> None:
    """Measure and print."""
    parser = ruler.parser(__doc__)
    parser.add_argument("--tokens", type=int, default=100, help="sampled in each row")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 128], help="responses side by side")
    parser.add_argument("--model", default=embedded_model("tiny"), help="folder of a Llama, Qwen2 or Qwen3")
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = load_policy(options.model, "float32")
    engine = LocalEngine(policy, LocalEngineConfig(max_rows=max(options.rows), compact_below=0.75))
    sampling = SamplingParams(
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        max_response_tokens=options.tokens,
        stop_token_ids=frozenset(),  # so that every row has its full length
    )
    drawn: dict[bool, Completions] = {}

    def sample(rows: int, *, written_out: bool) -> float:
        def work() -> None:
            prompts = [(3 + row % 60, 3 + row // 60, *range(3, 11)) for row in range(rows)]
            drawn[written_out] = engine.generate(prompts, 1, sampling, 1)

        policy_module.plain_decoder = WRITTEN_OUT if written_out else lambda *_: None
        return ruler.cpu_seconds(work) / options.tokens * 1000

    table = Table("rows", "written out, ms", "the library's, ms", "ratio")
    figures: dict[str, ruler.Spread] = {}
    for rows in options.rows:
        pairs = [
            (sample(rows, written_out=True), sample(rows, written_out=False)) for _ in range(options.rounds)
        ]
        ours, theirs = drawn[True], drawn[False]
        assert torch.equal(ours.response_ids, theirs.response_ids)
        assert torch.equal(ours.logprobs, theirs.logprobs)
        columns = [
            ruler.Spread.of([mine for mine, _ in pairs]),
            ruler.Spread.of([its for _, its in pairs]),
            ruler.Spread.of([its / mine for mine, its in pairs]),
        ]
        table.add_row(str(rows), *(column.show(2) for column in columns))
        names = (f"{rows} rows, {side}" for side in ("written out", "the library's", "ratio"))
        figures |= dict(zip(names, columns, strict=True))
    Console().print(table)
    ruler.write(options.out, figures)


if __name__ == "__main__":
    main()
