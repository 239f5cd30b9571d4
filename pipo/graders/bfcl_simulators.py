"""Run the published simulators and the official checker of BFCL's multi-turn problems, inside the sandbox.

``bfcl_worker`` loads this file there as a program and calls ``begin``, ``step``, ``end`` and ``verdict``.
Simulators, execution and checker are those of the package ``bfcl_eval``; of what that depends on they need
mpmath alone. The official code runs calls by ``eval``, so a call must be harmless before it gets there: a
function of the simulators, or a name that nothing has, with literals and further such calls as arguments.
What it would have run beyond that (built-in functions, its own modules, code that a key of a dictionary
smuggles in) is refused.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import json
import sys
from collections import OrderedDict
from typing import Any

_PACKAGE = "bfcl_eval"
_UTILS = "bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils"
_CHECKER = "bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker"
_WHO = "policy"  # part of the names under which the official code keeps its simulators
_RIGHT_ONES = f"{_WHO}_ground_truth_"  # the beginning of the names of those with the right calls
_MOST_WORLDS = 256
_STANDS_FOR_REFUSED = "refused()"
_REFUSED = "Error during execution: only the functions of this problem can be called"


class _World:
    """The simulated systems of one conversation.

    Each has the package's modules for itself: some simulators hand out, and change, what their modules hold,
    so that one conversation would see what another has done.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == _PACKAGE]:
            del sys.modules[name]
        self._utils: Any = importlib.import_module(_UTILS)
        self._checker: Any = importlib.import_module(_CHECKER)
        self._case = case
        self.steps = 0
        _, instances = self._execute([])
        names = {id(value): name for name, value in vars(self._utils).items()}
        self._functions: dict[str, str] = {
            function: names[id(instance)]
            for instance in instances.values()
            for function, _ in inspect.getmembers(instance, predicate=inspect.ismethod)
            if not function.startswith("_")
        }

    def step(self, calls: list[str]) -> list[str]:
        """Results of calls, in order, as the official code writes them."""
        allowed = [self._is_harmless(call) for call in calls]
        runnable = [call if ok else _STANDS_FOR_REFUSED for call, ok in zip(calls, allowed, strict=True)]
        results, _ = self._execute(runnable)
        self.steps += 1
        return [result if ok else _REFUSED for result, ok in zip(results, allowed, strict=True)]

    def verdict(self, turns: list[list[list[str]]], truth: list[list[str]]) -> dict[str, Any]:
        """The official checker's verdict on all turns, which it runs once more."""
        runnable = [
            [[c if self._is_harmless(c) else _STANDS_FOR_REFUSED for c in step] for step in turn]
            for turn in turns
        ]
        return self._checker.multi_turn_checker(runnable, truth, self._case, "", _WHO)

    def _execute(self, calls: list[str]) -> tuple[list[str], dict[str, Any]]:
        return self._utils.execute_multi_turn_func_call(
            func_call_list=calls,
            initial_config=self._case["initial_config"],
            involved_classes=self._case["involved_classes"],
            model_name=_WHO,
            test_entry_id=self._case["id"],
            long_context="long_context" in self._case["id"],
            is_evaL_run=True,
        )

    def _is_harmless(self, call: str) -> bool:
        """Whether the official ``eval`` of a call can reach the simulators' functions alone."""
        written = self._utils._process_method_calls(call, self._functions)
        try:
            return self._is_plain(ast.parse(written.lstrip(" \t"), mode="eval").body)
        except (SyntaxError, ValueError):
            return True  # for ``eval`` as well, and its message is the result
        except (RecursionError, MemoryError):
            return False

    def _is_plain(self, node: ast.expr | None) -> bool:
        match node:
            case ast.Call(func=function, args=args, keywords=keywords):
                values = [*args, *(keyword.value for keyword in keywords)]
                return self._can_be_called(function) and all(map(self._is_plain, values))
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                return all(map(self._is_plain, items))
            case ast.Dict(keys=keys, values=values):
                return all(map(self._is_plain, [*(key for key in keys if key is not None), *values]))
            case ast.UnaryOp(operand=operand):
                return self._is_plain(operand)
            case ast.BinOp(left=ast.Constant() | ast.UnaryOp(), right=ast.Constant(value=complex())):
                return self._is_plain(node.left)
            case ast.Name(id=name):
                return self._is_unknown(name)
        return isinstance(node, ast.Constant)

    def _can_be_called(self, function: ast.expr) -> bool:
        """A function of the simulators; or a name that nothing has, at which ``eval`` ends."""
        root = function
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(root, ast.Name):
            return False
        if self._is_unknown(root.id):
            return True
        return (
            isinstance(function, ast.Attribute)
            and function.value is root
            and self._functions.get(function.attr) == root.id
        )

    def _is_unknown(self, name: str) -> bool:
        """Whether nothing has a name where the official ``eval`` looks, then or when the checker calls it."""
        if name in self._utils.execute_multi_turn_func_call.__code__.co_varnames:
            return False
        # The checker keeps the systems of the right calls beside the policy's.
        return not (name in vars(self._utils) or name in vars(builtins) or name.startswith(_RIGHT_ONES))


_worlds: OrderedDict[int, _World] = OrderedDict()


def begin(number: int, case: str, history: list[list[str]]) -> None:
    """Build the world of a conversation, with the steps that it has already taken.

    Args:
        number: what it is known by from now on.
        case: JSON with the row's ``id``, ``initial_config`` and ``involved_classes``.
        history: the calls of each step.
    """
    world = _World(json.loads(case))
    for calls in history:
        world.step(calls)
    _worlds[number] = world
    while len(_worlds) > _MOST_WORLDS:
        _worlds.popitem(last=False)


def step(number: int, taken: int, calls: list[str]) -> list[str] | None:
    """Results of the calls of a step; None if that world is not here with so many steps taken."""
    world = _worlds.get(number)
    if world is None or world.steps != taken:
        return None
    _worlds.move_to_end(number)
    return world.step(calls)


def end(number: int) -> None:
    """Forget a world, if it is here."""
    _worlds.pop(number, None)


def verdict(case: str, turns: list[list[list[str]]], truth: list[list[str]]) -> list[Any]:
    """The official verdict: ``[right, kind of error, message]``, in a world of its own."""
    found = _World(json.loads(case)).verdict(turns, truth)
    return [found["valid"], str(found.get("error_type", "")), str(found.get("error_message", ""))]
