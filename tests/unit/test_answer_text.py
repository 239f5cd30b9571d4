"""What the writing of an answer decides. Expected values follow from the mathematics of each pair."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import pytest

from pipo.graders.answer_lists import Listing, listing
from pipo.graders.answer_text import number
from pipo.graders.math import MathGrader
from pipo.graders.typesetting import tidy
from pipo.graders.units import unit_of, units_differ

EQUAL = [
    (r"4.5 \times 10^{33}", "4.5e33"),
    (r"1.24 \times 10^{-8} \mathrm{~m}", "1.24e-8"),
    ("0.00000001", "1e-8"),
    ("2e - 1", "2e-1"),  # Euler's number, once the writing allows it
    (r"\arcsin\left(\frac{10}{13}\right)", "np.arcsin(10/13)"),
    (r"-\frac13", "-1./3"),
    (r"\frac{1}{2a}(e^{at}-e^{-at})", r"\frac{1}{2a}(\exp{a*t} - \exp{-a*t})"),
    (r"18 \text{ eggs}", "18"),
    ("18 eggs", "18"),
    (r"864\text{ in}^2", r"864 \mbox{ inches}^2"),
    (r"5 \text{ million dollars}", "5000000"),
    (r"\frac{270}{7}^\circ", r"\frac{270}7\text{ degrees}"),
    ("(C)", r"\text{(C)}"),
    ("East", r"\text{east}"),
    ("52", "52_8"),
    ("4210_5", "4210_{5}"),
    (r"1 \text{ and } -2", "1,-2"),
    (r"x = 1 \text{ or } x=-2", "1,-2"),
    (r"\frac{3\pm\sqrt{21}}{2}, 1", r"$1$,$\frac{3 + \sqrt{21}}{2}$,$\frac{3 - \sqrt{21}}{2}$"),
    ("2x+3", "y = 2x + 3"),
    ("10x-14y+22z+8=0", "5x - 7y + 11z + 4 = 0"),
    (r"-2 \le x \le 7", r"x \in [-2,7]"),
    ("x>2", r"(2,\infty)"),
    (r"(\sqrt{11},9)\cup(-\sqrt{11},-2)", r"(-\sqrt{11},-2)\cup (\sqrt{11},9)"),
    ("1.8", r"1\frac{4}{5}"),
    (r"20\%", "20"),
    (r"20\%", "0.2"),
    (r"33\frac13\%", r"\frac13"),
    (r"2^{0.5}", r"\sqrt2"),
    (r"\begin{pmatrix}0.2\\-3.6\end{pmatrix}", r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}"),
    ("x-1", "$f(x)=x-1$"),
    ("f(x)=2-x, f(x)=x", "$f(x)=x$,$f(x)=2-x$"),
    ("(18,20,22),(27,20,13)", "$(27,20,13), (18,20,22)$"),
    ("E_2,E_1", "E_{1},E_{2}"),
    ("11111111100", r"11,\! 111,\! 111,\! 100"),
    (r"1\,000", "1000"),
    (r"5 \text{ cm}", "5"),
    ("5", r"5 \text{ cm}"),
    ("5 centimeters", r"5\mathrm{~cm}"),
    ("x = 5 cm", r"5\text{ cm}"),
    (r"5\mathrm{m}/\mathrm{s}", r"5 \text{ meters per second}"),
    (r"5 \mathrm{~kg} \cdot \mathrm{m}^{2}", r"5\text{ m}^2 \text{ kg}"),
    (r"15\text{ square centimeters}", r"15\mbox{ cm}^2"),
    (r"\$18.90", r"18.90 \text{ dollars}"),
    (r"\$5 \text{ per hour}", r"5 \text{ dollars per hour}"),
    ("$18$", r"18\text{ cents}"),  # these dollar signs are LaTeX
    (r"90^\circ", r"90\text{ degrees}"),
    (r"20^\circ", r"20^\circ \text{C}"),
    (r"18 \text{ hens}", r"18 \text{ eggs}"),  # what is counted is no unit
    (r"\frac12=0.5", "0.5"),
    ("x=1+1=2", "2"),
    (r"\sqrt2 \approx 1.414", r"\sqrt2"),
    ("2003_6", "2003"),
    ("1133_{10}", "1133"),
]
DIFFERENT = [
    ("1, 2, 3, 4", "3"),
    (r"3 \text{ or } 4", "3"),
    (r"3 \text{ (or 4)}", "3"),
    (r"5 \text{ or something}", "5"),
    ("3, 3", "3"),
    (r"\frac12, 0.5", r"\frac12"),
    ("1,2,2", "1,2"),
    (r"\{1,2,3\}", "1,2"),
    ("[3,3]", "3"),
    ("(1,2)", r"\{1,2\}"),
    ("(3,4)", "(3,4]"),
    ("2,1", "(1,2)"),
    (r"\pm 3", "3"),
    ("0.333333", "1/3"),
    ("1.414214", r"\sqrt{2}"),
    ("0", "1e-8"),
    (r"6.6 \times 10^{-34}", r"2.88 \times 10^{-19}"),
    (r"\sqrt{2} \times 10^{-20}", r"\sqrt{3} \times 10^{-20}"),
    ("x^2", "x^2+10^{-20}"),
    ("52_9", "52_8"),
    ("42", "52_8"),
    ("5...", "5"),
    (r"5 \text{ million}", "5"),
    ("18 squared", "18"),
    ("1 2", "12"),
    ("x", "5"),
    ("0=0", "x=5"),
    (r"x \neq 5", "x=5"),
    ("neve", r"\text{even}"),
    (r"\text{Evelyn, Navin}", r"\text{Evelyn}"),
    ("C", r"\text{(B)}"),
    (r"5\%", "0.5"),
    ("1.000", "1,000"),
    ("E_1", "E"),
    (r"5\text{ cm}", r"5\text{ m}"),
    ("5 km", "5 m"),
    ("5km", r"5 \mathrm{~m}"),
    (r"15\mbox{ cm}^2", r"15\mbox{ cm}^3"),
    (r"\sqrt2 \text{ cm}", r"\sqrt2 \text{ inches}"),
    (r"5 \text{ cents}", r"\$5"),
    (r"5 \text{ cents}", r"5 \text{ dollars}"),
    ("$18", r"18 \text{ cents}"),
    (r"90^\circ", r"90 \text{ radians}"),
    (r"20^\circ \text{C}", r"20^\circ \text{F}"),
    (r"11{:}30\text{ a.m.}", r"11{:}30\text{ p.m.}"),
    (r"5 \text{ m/s}", r"5 \text{ m}"),
    (r"6 \text{ seven}", "6"),
    ("6 seven", "6"),
    (r"6 \approx 7", "6"),
    (r"6 \approx 7", "7"),
    (r"x = 6 \approx 7", "6"),
    ("6~7", "6"),
    (r"6 \sim 7", "7"),
    ("1=2", "2"),
    ("6=7", "7"),
    ("x=6=7", "7"),
    (r"\frac13=0.333", r"\frac13"),
    ("6_7", "6"),
    ("19_8", "19"),
]


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    grader = MathGrader(workers=1, cpu_s=30.0, wall_s=300.0)
    yield grader
    grader.close()


def test_equal_answers(grader: MathGrader) -> None:
    rewards = grader.grade_batch([(f"\\boxed{{{a}}}", b) for a, b in EQUAL])
    assert [pair for pair, r in zip(EQUAL, rewards, strict=True) if r.score != 1.0] == []


def test_different_answers(grader: MathGrader) -> None:
    rewards = grader.grade_batch([(f"\\boxed{{{a}}}", b) for a, b in DIFFERENT])
    assert [pair for pair, r in zip(DIFFERENT, rewards, strict=True) if r.score != 0.0] == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.50", Fraction(2469, 2)),
        ("-.5", Fraction(-1, 2)),
        ("4.5e3", Fraction(4500)),
        ("10^{-3}", Fraction(1, 1000)),
        (r"-\frac34", Fraction(-3, 4)),
        ("90^\\circ", Fraction(90)),
        ("1/0", None),
        ("1e999999", None),  # exact, it would have a million digits
        ("1,2", None),
        ("", None),
    ],
)
def test_number(text: str, value: Fraction | None) -> None:
    found = number(tidy(text))
    assert (found.value if found else None) == value


def test_listing() -> None:
    assert listing(r"\{(1,2), [3,4)\}") == Listing("{}", ("(1,2)", "[3,4)"))
    assert listing("(1,2),(3,4)") == Listing("", ("(1,2)", "(3,4)"))
    assert listing("(-3,4]") == Listing("(]", ("-3", "4"))
    assert listing("1,234; 5").elements == ("1,234", "5")
    assert listing(r"1 \pm 2").count == 2


@pytest.mark.parametrize(
    ("answer", "unit"),
    [
        (r"5\text{ square meters}", {"m": 2}),
        (r"864 \mbox{ inches}^2", {"inch": 2}),
        (r"9.8 \mathrm{~m} / \mathrm{s}^{2}", {"m": 1, "s": -2}),
        (r"3 \text{ feet per second squared}", {"foot": 1, "s": -2}),
        ("3 hrs", {"hour": 1}),
        (r"-\$3", {"dollar": 1}),
        ("$5$", None),
        (r"$\$5$", {"dollar": 1}),
        (r"72^{\circ}", {"degree": 1}),
        (r"\frac{270}{7}^\circ", {"degree": 1}),
        (r"3 \text{ eggs}", None),
        (r"3 \text{ m or so}", None),
        (r"\text{m}", None),
        ("3x", None),
        ("2 + 3m", None),
        ("m", None),
        ("3 cm, 4 cm", None),
    ],
)
def test_unit(answer: str, unit: dict[str, int] | None) -> None:
    assert unit_of(answer) == unit


def test_letters_that_may_be_variables_are_left_to_algebra() -> None:
    assert not units_differ("2mg", "2 g m")
    assert units_differ("2mg", "2g")


def test_references_that_algebra_cannot_read_are_named(grader: MathGrader) -> None:
    references = ["5", r"\text{even}", "x+1", r"1, 2, \ldots", r"\frac{1}{", "x+1"]
    assert grader.unreadable(references) == [r"1, 2, \ldots", r"\frac{1}{"]
