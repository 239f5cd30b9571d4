"""BFCL's rules: reading of calls in three languages, and the verdict on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipo.graders.bfcl import ExpectedCall, Parameter, Reference, grade, standardized
from pipo.graders.bfcl_calls import Language, UndecodableResponse, decode, render
from pipo.graders.bfcl_literals import convert, express


def arguments(response: str, language: Language = "Python") -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, dict(call.arguments)) for call in decode(response, language)]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("[f(a=1), pkg.mod.g(b='x')]", [("f", {"a": 1}), ("pkg.mod.g", {"b": "x"})]),
        ("f(a=-1.5, b=None, c=True)", [("f", {"a": -1.5, "b": None, "c": True})]),
        ("`f()`", [("f", {})]),
        ("```\n[f()]\n```", [("f", {})]),
        ("<think> f(a=1)? </think>\n[f(a=2)]", [("f", {"a": 2})]),
        ("f(a=[1, (2, 3)], b={'k': {'l': []}})", [("f", {"a": [1, (2, 3)], "b": {"k": {"l": []}}})]),
        # Names, indexing and bare calls stand for variables; a call with arguments is a value.
        (
            "f(a=x, b=x[0], c=g(), d=g(e=1))",
            [("f", {"a": "x", "b": "x[0]", "c": "g()", "d": {"g": {"e": 1}}})],
        ),
        ("f(a=2*3+1, b='a'+'b', c=2**10)", [("f", {"a": 7, "b": "ab", "c": 1024})]),
        ("f(1, 2, c=3)", [("f", {"c": 3})]),
        ("f(**{'a': 1})", [("f", {"**": {"a": 1}})]),
        ("[]", []),
        ("", []),
    ],
)
def test_python_calls(response: str, expected: list[Any]) -> None:
    assert arguments(response) == expected


@pytest.mark.parametrize(
    "response",
    [
        "I cannot help with that.",
        "None",
        "[f(a=1)] is the call",
        "```python\n[f(a=1)]\n```",
        "{'a': 1}",
        "f(a=b.c)",
        "f(a=lambda: 1)",
        "f(a={1, 2})",
        "f(a=f'{1}')",
        "f(a=[x for x in y])",
        "f(a={**b})",
        "f(a={[]: 1})",
        "f(a=9**9**9)",
        "f(a=1/0)",
        "f(a=x+'b')",
        "f(a='b'*1000000000)",
        "f(a=1\0)",
        "f(a=" + "(" * 5000 + ")" * 5000 + ")",
        "f(a=" + "[" * 150 + "]" * 150 + "," + "-" * 100_000 + "1)",
        "f(a=" + "9" * 5000 + ")",
        "f(a='never closed)",
    ],
)
def test_not_calls(response: str) -> None:
    with pytest.raises(UndecodableResponse):
        decode(response, "Python")


def test_nothing_is_run(tmp_path: Any) -> None:
    file = tmp_path / "made"
    assert arguments(f"f(a=open({str(file)!r}, 'w'))") == [("f", {"a": f"open({str(file)!r}, 'w')"})]
    assert not file.exists()
    with pytest.raises(UndecodableResponse):
        decode("f(a=__import__('os').getcwd().x)", "Python")


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
python_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
functions = st.sampled_from(["f", "g_1", "a.b.c"])
parameters = st.sampled_from(["p", "q", "no_such"])


@settings(deadline=None)
@given(st.lists(st.tuples(functions, st.dictionaries(parameters, python_values)), max_size=3))
def test_decoding_gives_back_what_was_rendered(calls: list[tuple[str, dict[str, Any]]]) -> None:
    written = [(name, {key: repr(value) for key, value in given.items()}) for name, given in calls]
    assert arguments(render(written)) == calls


@settings(deadline=None)
@given(st.text(), st.sampled_from(["Python", "Java", "JavaScript"]))
def test_any_text_decodes_or_is_refused(response: str, language: Language) -> None:
    reference = Reference(expectation="no call", calls=(), language=language)
    assert grade(response, reference).score in (0.0, 1.0)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ('[a.B.f(x="s", y=5L)]', [("a.B.f", {"x": "s", "y": "5L"})]),
        (
            "f(m=new HashMap<String, Object>() {{ put(\"a,b\", 1); }}, n='c')",
            [("f", {"m": 'new HashMap<String, Object>() {{ put("a,b", 1); }}', "n": "c"})],
        ),
        ('f(a="x" + "y", b=g(1, c = 2))', [("f", {"a": '"x" + "y"', "b": "g(1, c = 2)"})]),
        ("f(a=1), g(b=2)", [("f", {"a": "1"}), ("g", {"b": "2"})]),
        ('f(a="say \\"hi\\", b=2")', [("f", {"a": 'say \\"hi\\", b=2'})]),
    ],
)
def test_calls_of_other_languages_keep_their_text(response: str, expected: list[Any]) -> None:
    assert arguments(response, "Java") == expected


@pytest.mark.parametrize(
    "response",
    ["no call", "f(a=1", "f(a=1))", "f(a=[1)", 'f(a="1)', "f(a=1) g(b=2)", "f", "f(a=" + "[" * 9999],
)
def test_not_calls_of_other_languages(response: str) -> None:
    with pytest.raises(UndecodableResponse):
        decode(response, "JavaScript")


@pytest.mark.parametrize(
    ("text", "kind", "item", "value"),
    [
        ("-12", "integer", None, -12),
        ("1.5", "integer", None, "1.5"),
        ("123L", "long", None, 123),
        ("123", "long", None, "123"),
        ("1.5f", "float", None, 1.5),
        ("1.5", "float", None, "1.5"),
        ("2e3", "double", None, 2000.0),
        ("1.5f", "double", None, "1.5f"),
        ("true", "boolean", None, True),
        ("True", "boolean", None, "True"),
        ("null", "any", None, "null"),
        ("new int[]{1, 2}", "Array", "integer", [1, 2]),
        ('new String[] {"a, b", "c"}', "Array", "String", ["a, b", "c"]),
        ("new char[]{'a', ','}", "Array", "char", ["a", ","]),
        ("new Object[]{}", "Array", "any", []),
        ('new Object[]{1, 2L, 2.5f, "x", true, v}', "Array", None, [1, 2, 2.5, "x", True, "v"]),
        ("new ArrayList<>()", "ArrayList", "String", []),
        ("new ArrayList<Long>(Arrays.asList(1L, 2L))", "ArrayList", "long", [1, 2]),
        ('new ArrayList<String>() {{ add("a;"); add("b"); }}', "ArrayList", "String", ["a;", "b"]),
        ("List.of(1)", "ArrayList", "integer", "List.of(1)"),
        ("new HashMap<>()", "HashMap", None, {}),
        ("new HashMap<>() {{ }}", "HashMap", None, {}),
        (
            'new HashMap<String, Object>() {{ put("a", 1); put("b", "x"); }}',
            "HashMap",
            None,
            {"a": 1, "b": "x"},
        ),
        ("profile", "HashMap", None, "profile"),
        ("new int[]{1, (}", "Array", "integer", "new int[]{1, (}"),
    ],
)
def test_java_values(text: str, kind: str, item: str | None, value: Any) -> None:
    converted = convert(text, kind, item, "Java")
    assert (converted, type(converted)) == (value, type(value))


@pytest.fixture
def usual_recursion() -> Iterator[None]:
    """Python's own limit: what other tests import may have raised it, and with it how deep a value can be."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    ("text", "kind", "item", "value"),
    [
        ("'x'", "String", None, "x"),
        ("5", "float", None, 5.0),
        ("5e1", "float", None, "5e1"),
        ("5n", "Bigint", None, 5),
        ("5", "Bigint", None, "5"),
        ("false", "Boolean", None, False),
        ("['a', \"b, c\"]", "array", "String", ["a", "b, c"]),
        ("new Array(1, 2)", "array", "integer", [1, 2]),
        ("[[1, 2], [3]]", "array", "array", [[1, 2], [3]]),
        ("[]", "array", "String", []),
        ("{}", "dict", None, {}),
        (
            "{a: 1, 'b': [true, x], \"c\": {d: 'e:f'}}",
            "dict",
            None,
            {"a": 1, "b": [True, "x"], "c": {"d": "e:f"}},
        ),
        ("{...rest}", "dict", None, "{...rest}"),
        ("[" * 5000 + "]" * 5000, "array", "any", "[" * 5000 + "]" * 5000),
        ("undefined", "any", None, "undefined"),
    ],
)
def test_javascript_values(usual_recursion: None, text: str, kind: str, item: str | None, value: Any) -> None:
    converted = convert(text, kind, item, "JavaScript")
    assert (converted, type(converted)) == (value, type(value))


@pytest.mark.parametrize(
    ("value", "kind", "item", "language"),
    [
        (5, "long", None, "Java"),
        (0.5, "float", None, "Java"),
        (["a", "b"], "Array", "String", "Java"),
        ([1, 2], "ArrayList", "long", "Java"),
        ({"a": 1, "b": "x"}, "HashMap", None, "Java"),
        ({}, "HashMap", None, "Java"),
        (True, "Boolean", None, "JavaScript"),
        (7, "Bigint", None, "JavaScript"),
        ([[1, 2], [3]], "array", "array", "JavaScript"),
        ({"a": [1], "b": {"c": "d"}}, "dict", None, "JavaScript"),
    ],
)
def test_what_is_expressed_converts_back(value: Any, kind: str, item: str | None, language: Language) -> None:
    assert convert(express(value, kind, item, language), kind, item, language) == value


def expected(
    required: tuple[str, ...], kinds: dict[str, Any], alternatives: dict[str, list[Any]]
) -> ExpectedCall:
    parameters = {
        name: Parameter(kind=kind, item=None)
        if isinstance(kind, str)
        else Parameter(kind=kind[0], item=kind[1])
        for name, kind in kinds.items()
    }
    return ExpectedCall(name="f", parameters=parameters, required=required, alternatives=alternatives)


def right(response: str, *calls: ExpectedCall) -> bool:
    return grade(response, Reference(expectation="calls", calls=calls, language="Python")).score == 1.0


ONE = expected(
    ("a",),
    {"a": "integer", "b": "string", "c": "float", "unused": "string"},
    {"a": [1, 2], "b": ["New York", ""], "c": [3.0, ""]},
)


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("[f(a=1)]", True),
        ("[f(a=2, b='new-york.', c=3)]", True),
        ("[f(a=3)]", False),
        ("[f(a=1.0)]", False),
        ("[f(a=True)]", False),
        ("[f(a='1')]", False),
        ("[f(b='New York')]", False),
        ("[f(a=1, b='Boston')]", False),
        ("[f(a=1, unused='x')]", False),
        ("[f(a=1, d=1)]", False),
        ("[F(a=1)]", False),
        ("[f(a=1), f(a=1)]", False),
        ("[]", False),
        ("f of 1", False),
    ],
)
def test_one_call(response: str, verdict: bool) -> None:
    assert right(response, ONE) is verdict


@pytest.mark.parametrize(
    ("kind", "alternatives", "value", "verdict"),
    [
        (("array", "string"), [["A b", "c"]], "['ab', 'C']", True),
        (("array", "string"), [["a", "b"]], "['b', 'a']", False),
        (("array", "string"), [["a"], ""], "[]", True),
        (("array", "integer"), [[1, 2]], "[1.0, 2]", False),
        (("array", "float"), [[1, 2]], "[1, 2]", True),
        (("array", "integer"), [[1, 2]], "(1, 2)", False),
        (("tuple", "float"), [[1.0, 2.0]], "(1.0, 2.0)", True),
        (("tuple", "float"), [[1.0, 2.0]], "[1.0, 2.0]", True),
        ("dict", [{"k": ["v", "w"], "o": [1, ""]}], "{'k': 'W'}", True),
        ("dict", [{"k": ["v"], "o": [1, ""]}], "{'k': 'v', 'o': 2}", False),
        ("dict", [{"k": ["v"]}], "{}", False),
        ("dict", [{"k": ["v"]}], "{'k': 'v', 'x': 1}", False),
        (("array", "dict"), [[{"k": [1]}, {"k": [2]}]], "[{'k': 1}, {'k': 2}]", True),
        (("array", "dict"), [[{"k": [1]}, {"k": [2]}]], "[{'k': 2}, {'k': 1}]", False),
        (("array", "dict"), [[{"k": [1]}]], "[{'k': 1}, {'k': 1}]", False),
        ("integer", ["count"], "count", True),
        ("integer", ["count"], "Count", False),
        ("integer", ["count"], "5", False),
        ("string", [None], "None", True),
        ("string", [None], "'None'", False),
        ("float", [3.0], "1" + "0" * 400, False),
    ],
)
def test_values(kind: Any, alternatives: list[Any], value: str, verdict: bool) -> None:
    assert right(f"[f(p={value})]", expected((), {"p": kind}, {"p": alternatives})) is verdict


def test_several_calls_in_any_order() -> None:
    calls = [expected(("p",), {"p": "integer"}, {"p": [i]}) for i in (1, 2, 2)]
    assert right("[f(p=2), f(p=1), f(p=2)]", *calls)
    assert not right("[f(p=2), f(p=1), f(p=1)]", *calls)
    assert not right("[f(p=2), f(p=1)]", *calls)
    assert not right("[f(p=2), f(p=1), f(p=2), f(p=2)]", *calls)


@pytest.mark.parametrize(
    ("response", "calls"), [("Sorry.", False), ("[]", False), ("[f()]", True), ("x(1)", True)]
)
def test_whether_anything_is_called(response: str, calls: bool) -> None:
    for expectation, wanted in (("no call", False), ("any call", True)):
        reference = Reference(expectation=expectation, calls=(), language="Python")
        assert grade(response, reference).score == float(calls is wanted)


def test_strings_are_compared_loosely() -> None:
    assert standardized("April 1, 2024") == standardized("april 1 2024")
    assert standardized("it's a_b-c/d*e^f.") == 'it"sabcdef'
