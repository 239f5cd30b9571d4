"""Verdicts of BFCL's official evaluation on multi-turn conversations, for ``bfcl_verdicts`` to compare with.

Runs in a process of its own, with the official code as it is. What that imports and does not need here
(clients of model vendors, parsers of Java) is stood in for. Reads lines of JSON with ``entry``, ``truth`` and
``result`` and writes one with the verdict and the decoded calls for each.
"""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

_NOT_NEEDED = (
    *("tenacity", "dotenv", "tqdm", "bfcl_eval.utils", "bfcl_eval.constants.model_config"),
    *("bfcl_eval.constants.eval_config", "bfcl_eval.model_handler.base_handler"),
    *(f"bfcl_eval.model_handler.parser.{name}_parser" for name in ("java", "js", "json", "xml")),
    *("bfcl_eval.eval_checker.eval_runner_helper", "bfcl_eval.eval_checker.ast_eval.ast_checker"),
)
_SIMULATORS = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return SimpleNamespace


def _evaluate(line: dict[str, Any], number: int) -> dict[str, Any]:
    # Some simulators change what their modules hold, so that one conversation would see another's doing.
    for name in [name for name in sys.modules if name.startswith(_SIMULATORS)]:
        del sys.modules[name]
    from bfcl_eval.eval_checker import eval_runner
    from bfcl_eval.model_handler.utils import default_decode_execute_prompting

    decoded = []

    def decode_execute(text: str, has_tool_call_tag: bool) -> list[str]:
        decoded.append(())
        decoded[-1] = default_decode_execute_prompting(text, has_tool_call_tag)
        return decoded[-1]

    entry, truth = line["entry"], line["truth"]
    found = eval_runner._evaluate_single_multi_turn_entry(
        SimpleNamespace(decode_execute=decode_execute),
        *(entry["id"], line["result"], truth, entry, f"m{number}", entry["id"].rsplit("_", 1)[0]),
    )
    error = found.get("error", {})
    return {"right": found["valid"], "error": error.get("error_type", ""), "decoded": decoded}


def main() -> None:
    """Answer every line."""
    for name in _NOT_NEEDED:
        sys.modules[name] = _StandIn(name)
    for number, line in enumerate(sys.stdin):
        print(json.dumps(_evaluate(json.loads(line), number)))


if __name__ == "__main__":
    main()
