"""Which lines of a response are the program."""

from __future__ import annotations

import pytest

from pipo.tasks.program import complete_function, find_program, preamble

CODE = "n = int(input())\nprint(n)"


@pytest.mark.parametrize(
    "response",
    [
        f"```python\n{CODE}\n```",
        f"Read the number.\n\n```Python\n{CODE}\n```\nDone.",
        f"Here: ```py\n{CODE}\n```",
        f"```\n{CODE}\n```",
        f"``` python3\r\n{CODE}\n```",
        f"```python\n{CODE}",  # cut at the length limit
        f"```python\n{CODE}```",
        f"1. So:\n\n   ```python\n   {CODE.replace(chr(10), chr(10) + '   ')}\n   ```\n",
        f"```text\n3\n```\n```cpp\nint main() {{}}\n```\n```python\n{CODE}\n```",
        f"```\n3\n```\nprints 3 with\n```python\n{CODE}\n```",
        f"A draft:\n```python\nprint(0)\n```\nSo:\n```python\n{CODE}\n```",
        f"```python\nprint(0)\nNo, once more.\n```python\n{CODE}\n```",  # a draft without an end
        f"```python\nprint(0)\n```\n```py\n{CODE}",
        f"```python\n{CODE}\n```\n```text\n3\n```\n```bash\npython main.py\n```\n```\n3\n```",
        f"```\nprint(0)\n```\nSo:\n```\n{CODE}\n```\nIt prints\n```\n3\n```",
        f"```\n{CODE}\n```\nRun it:\n```\n$ python main.py\n```\n```output\n3\n```",
        f"```\n\n```\n```python\n{CODE}\n```",
        f"<think>\n```python\nprint(0)\n```\n</think>\n```python\n{CODE}\n```",
        f"```python\n{CODE}\n```\n<think>\nOr:\n```python\nprint(0)\n```",
        f"{CODE}\n```\nIt reads and prints.\n```python\nprint(0)\n```",  # the prompt opened the block
        f"\n{CODE}\n",
        CODE,
        *[
            f"```{info}\n{CODE}\n```"
            for info in ("Python3.11", "python run", "{python}", "{.py .numbers}", "pythonCopy")
        ],
        f"````python\n{CODE}\n````\n",
        f"~~~python\n{CODE}\n~~~\n```\n0\n```",
        f"~~~\n{CODE}\n~~~~",
        f"````\n{CODE}\n````",
        f"```\npip install x\npython main.py\n```\n```\n{CODE}\n```",
        f"```pycon\n>>> 1\n1\n```\n```python-repl\n1\n```\n```pytb\nError\n```\n```\n{CODE}\n```",
        f"Not ```python``` but\n```\n{CODE}\n```",
        f"{CODE}\n````\nIt reads and prints.",
    ],
)
def test_whole_programs(response: str) -> None:
    assert find_program(response) == CODE


@pytest.mark.parametrize(
    "response",
    [
        "",
        "Sorry.",
        "Sorry",
        "yes, no",
        "x: int",
        "The answer is 3.",
        "# only a comment",
        "    print(1)",
        "if n is 3 then stop",
        f"The program:\n{CODE}",
        "```text\n3\n```",
        "```python\n\n```",
        "```python print(1)```",
        "```python print(1)```\nIt prints.",
        "```\npip install x\n```\n```cpp\nint main() {}\n```",
        "```\n$ python main.py\n```",
        "Prose ~~~\nx = 1\n~~~",
        "<think>\n```python\nprint(0)\n```\n</think>",
        "<think>\nPerhaps:\n```python\nprint(0)\n```\nor",  # cut before its end
    ],
)
def test_no_program(response: str) -> None:
    assert find_program(response) is None


@pytest.mark.parametrize(
    ("opening", "inside", "closing"),
    [
        ("````python", "```", "````"),
        ("````py", "```python", "`````"),
        ("```python", "~~~", "```"),
        ("~~~python", "```", "~~~"),
        ("```python", "```text", "```"),  # a closing fence has no label
        ("```python", "    ```python", "```"),
        ("```python", "    ```", "  ```"),  # nor is it indented like code
        ("```python", "`" * 2, "```"),
    ],
)
def test_a_block_ends_at_a_fence_of_its_own_kind(opening: str, inside: str, closing: str) -> None:
    program = f's = """\n{inside}\n"""\nprint(s)'
    assert find_program(f"So:\n{opening}\n{program}\n{closing}\nDone.\n```text\n0\n```") == program


def test_names_of_commands_are_names() -> None:
    for line in ("git = 3", "cd, x = 1, 2", "sh (1)", "python.run()", "pip: int = 3"):
        assert find_program(f"```\n{line}\nprint()\n```") == f"{line}\nprint()"


# Parsing the last of these ends the process.
@pytest.mark.parametrize(
    "text", ["\0", "(" * 5000, "-" * 200_000 + "1", "not " * 200_000, "1" + "+1" * 200_000]
)
def test_hostile_text_does_no_harm(text: str) -> None:
    assert find_program(text) is None
    assert find_program(f"x = {text}") == f"x = {text}"
    assert complete_function(PROMPT, f"    return {text}", "quarter") == f"{PROMPT}    return {text}"


@pytest.mark.parametrize(
    "text", ["```" * 20_000, "```\n" * 20_000, "` " * 50_000, "x," * 50_000, "a[" * 50_000]
)
def test_repetition_ends(text: str) -> None:
    assert find_program(text) is None
    assert complete_function(PROMPT, text, "quarter") is None


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nfrom math import gcd\n\na, b = map(int, sys.stdin.read().split())\nprint(gcd(a, b))",
        "@cache\ndef f(\n    x,\n):\n    return x\n\n\nasync def g():\n    pass",
        "x, *rest = 1, 2\n(a, b) = x\nd['k'][0] += 1\no.n: int = 2\nn //= 2\nm **= 2",
        "while True:\n    try:\n        n = input()\n    except EOFError:\n        break\nelse:\n    print()",
        "class Solution:\n    def f(self):\n        return 1",
        'class A(B):\n    pass\n# comment\n"""text"""',
        "for i in range(3): print(i)\nif x: y()\nassert x\nsys.stdout.write('')",
        "f(\n    1,\n)",
    ],
)
def test_what_reads_as_code(program: str) -> None:
    assert find_program(program) == program
    assert find_program(f"{program}\n```\nThat is all.") == program
    assert find_program(f"{program}\n```python\n{CODE}\n```") == CODE


HEAD = "import math\n\n\ndef half(x):\n    return x / 2\n\n\n"
PROMPT = HEAD + 'def quarter(x):\n    """A quarter.\n    >>> quarter(8)\n    2.0\n    """\n'
BODY = "    y = half(x)\n    return half(y)"
FUNCTION = f"def quarter(x):\n{BODY}"


def test_preamble() -> None:
    assert preamble(PROMPT, "quarter") == HEAD
    assert preamble(PROMPT, "half") == "import math\n\n\n"
    assert preamble(FUNCTION, "quarter") == ""
    assert preamble(PROMPT, "qua") == ""


@pytest.mark.parametrize(
    "response",
    [
        BODY,
        f"\n{BODY}\n",
        f"{BODY}\n\n\ndef other():\n    return 1\n",
        f"{BODY}\nprint(quarter(8))",
        f'{BODY}\nif __name__ == "__main__":\n    quarter(1)',
        f"{BODY}\n```\n\nThis halves twice:\n\n```python\nbroken(\n```",
        f"{BODY}\n\nThe function halves twice.",
        f"```python\n{BODY}\n```",
        "```python\ny = half(x)\nreturn half(y)\n```",
        "y = half(x)\nreturn half(y)",
        "\ny = half(x)\nreturn half(y)\n\nThe function halves twice.\n",
        "y = half(x)\n    return half(y)",  # only its first line has lost its blanks
        "```python\ny = half(x)\n    return half(y)\n```",
    ],
)
def test_the_body_completes_the_prompt(response: str) -> None:
    assert complete_function(PROMPT, response, "quarter") == PROMPT + BODY


@pytest.mark.parametrize(
    "response",
    [
        f"```python\n{FUNCTION}\n```",
        f"So:\n```\n{FUNCTION}\n```\nand a test\n```python\n\n```",
        FUNCTION,
        f"{FUNCTION}\n\nprint(quarter(8))\n",
        f"{FUNCTION}\n\nIt halves twice.",
        f"Here is the function.\n\n{FUNCTION}\n\n```text\n2.0\n```",
        f'<think>\nhm\n</think>\n{FUNCTION}\n\n\nif __name__ == "__main__":\n    quarter(1)',
    ],
)
def test_the_function_written_again_keeps_imports_and_helpers(response: str) -> None:
    assert complete_function(PROMPT, response, "quarter") == HEAD + FUNCTION


@pytest.mark.parametrize(
    ("response", "body"),
    [
        ("return x / 4", "    return x / 4"),
        ("if x:\n    return x / 4\nreturn 0", "    if x:\n        return x / 4\n    return 0"),
        ("for y in x:\n        z(y)\n    return 0", "    for y in x:\n        z(y)\n    return 0"),
        ("import math\nreturn math.pi", "    import math\n    return math.pi"),
        ("def h(y):\n    return y\nreturn h(x)", "    def h(y):\n        return y\n    return h(x)"),
        ("return [\n    x,\n]", "    return [\n        x,\n    ]"),
    ],
)
def test_a_body_that_is_not_indented(response: str, body: str) -> None:
    assert complete_function(PROMPT, response, "quarter") == PROMPT + body


def test_more_than_the_function() -> None:
    helper = "def third(x):\n    return x / 3"
    assert complete_function(PROMPT, f"{FUNCTION}\n\n{helper}\nassert 1", "quarter") == (
        f"{HEAD}{FUNCTION}\n\n{helper}"
    )
    block = f"{FUNCTION}\n\nprint(quarter(8))"
    assert complete_function(PROMPT, f"```python\n{block}\n```", "quarter") == HEAD + block
    commented = f"    y = half(x)\n# again\n    return half(y)\n\n# done\n{helper}"
    assert complete_function(PROMPT, commented, "quarter") == (
        f"{PROMPT}    y = half(x)\n# again\n    return half(y)\n\n# done"
    )
    spread = "def quarter(\n    x\n):\n    return x / 4"
    assert complete_function(PROMPT, f"{spread}\nprint(1)", "quarter") == HEAD + spread
    as_name = "quarter = lambda x: x / 4"
    assert complete_function(PROMPT, f"```python\n{as_name}\n```", "quarter") == HEAD + as_name


@pytest.mark.parametrize("response", ["", "I cannot.", "def other(x):\n    return 1", "<think>def quarter"])
def test_no_function(response: str) -> None:
    assert complete_function(PROMPT, response, "quarter") is None
