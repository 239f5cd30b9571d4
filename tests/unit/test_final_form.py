r"""Whether an answer is in final form. What is one follows from the mathematics of each case."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipo.graders.final_form import unfinished
from pipo.graders.latex_tree import UnreadableFormula, read_formula
from pipo.graders.math import MathGrader
from pipo.records.problems import Reward

# Answer, reference, question.
FINAL = [
    (r"\mathbb{R}\setminus\{0\}", r"(-\infty,0)\cup(0,\infty)", "Where is it defined?"),
    ("A(4,9)", "(4,9)", "Where do they meet?"),
    ("P(4,9)", "(4,9)", "Where do they meet?"),
    ("C'(4,9)", "(4,9)", "Where does $C(4,-9)$ go?"),
    (r"\left(\frac12\right)^{200}", "2^{-200}", "How likely is that?"),
    (r"\left(\frac a2\right)^2", r"\frac{a^2}{4}", "What is its area?"),
    (r"\frac{7}{12}\approx 0.583", r"\frac{7}{12}", ""),
    (r"7 \pmod{11}", "7", "What is the remainder?"),
    (r"3 \text{ to } 4", "3:4", "What is the ratio?"),
    (r"3 \text{ dozen}", "36", "How many eggs?"),
    # Other writings of the same value.
    ("0.125", r"\frac18", "What is $2^{-3}$?"),
    (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt2}", ""),
    (r"\frac{1}{\sqrt2}", r"\frac{\sqrt2}{2}", ""),
    (r"\sqrt{\frac{1}{2}}", r"\frac{\sqrt2}{2}", ""),
    (r"\frac{6}{8}", r"\frac34", "What is the probability?"),
    (r"\frac{20}{2}", "10", "How many are there?"),
    ("2^{10}", "1024", "How many subsets has a set of ten?"),
    ("4^{50}", "2^{100}", ""),
    (r"8\times10^3", "8000", ""),
    ("1,722", "1722", ""),
    (r"1\frac45", "1.8", ""),
    (r"0.\overline{3}", r"\frac13", ""),
    (r"50\%", r"\frac12", ""),
    (r"33\frac13\%", r"\frac13", ""),
    ("1.5\\pi", r"\frac{3\pi}{2}", ""),
    ("e^{-1}", r"\frac1e", ""),
    # Terms and factors in another order, taken apart or put together.
    ("1+x^2", "x^2+1", ""),
    ("-2+7i", "7i-2", ""),
    (r"11(\sqrt5+1)", r"11\sqrt5+11", ""),
    (r"2(9+\pi)", r"18+2\pi", ""),
    (r"\frac12+\frac{\sqrt3}{2}", r"\frac{1+\sqrt3}{2}", ""),
    (r"\frac{\sqrt2(\sqrt3-1)}{4}", r"\frac{\sqrt6-\sqrt2}{4}", ""),
    (r"\frac{1}{7}\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1/7\\2/7\end{pmatrix}", ""),
    (r"\frac{n^2+n}{2}", r"\frac{n(n+1)}{2}", ""),
    ("2^{n+1}", r"2\cdot2^n", ""),
    ("(x-1)^2+3", "x^2-2x+4", "Which parabola is it?"),
    ("3(x+2)", "3x+6", "Simplify $x+6+2x$."),
    ("((x-1)(x+1))^3", "(x-1)^3(x+1)^3", "Factor $x^6-3x^4+3x^2-1$."),
    ("(a+5)(b+2)", "(b+2)(a+5)", "Factor $ab+2a+5b+10$."),
    # Operations that the reference leaves undone too, or does in the same family.
    (r"5!\cdot 2", r"2\cdot 5!", ""),
    (r"\ln 8", r"3\ln 2", ""),
    (r"\tan^{-1}\frac34", r"\arctan\frac34", ""),
    (r"\frac{\cos x}{\sin x}", r"\cot x", r"Simplify $\frac{1}{\tan x}$."),
    (r"\frac{\sqrt6-\sqrt2}{4}", r"\cos 75^\circ", r"Compute $\cos 75^\circ$."),
    (r"\frac{-b+\sqrt{b^2-4ac}}{2a}", r"\frac{\sqrt{b^2-4ac}-b}{2a}", "Solve $ax^2+bx+c=0$."),
    # Names, units and solutions.
    ("x=5", "5", ""),
    ("5", "x=5", ""),
    ("f(x)=x^2+1", "x^2+1", ""),
    ("y=2x+3", "2x+3", "Let $y=2x+3$ be the line $L$. Which function is it?"),
    ("a=2,b=3", "2,3", ""),
    ("5 m/s", "5", ""),
    (r"6\text{ ft } 2\text{ in}", r"6\text{ feet } 2 \text{ inches}", ""),
    (r"\$5", "5", ""),
    ("x>2", r"(2,\infty)", "Solve $x-2>0$."),
    (r"-2\le x\le 5", "[-2,5]", r"Solve $x^2-3x-10\le0$."),
    ("2x-y+3=0", "y=2x+3", "Which line is it?"),
    ("y=2x+3", "2x-y+3=0", "Which line is it?"),
    # The last side of a chain counts.
    ("3+4=7", "7", ""),
    ("a+b=0.5", r"\frac12", "Find $a+b$."),
    ("a+b=3+4=7", "7", "Find $a+b$."),
    (r"\log_2 64 = 6", "6", r"Compute $\log_2 64$."),
    ("x^2-9=(x-3)(x+3)", "(x-3)(x+3)", "Factor $x^2-9$."),
    # Answers that stand in the question and are the reference.
    ("17", "17", "Is 17 or 21 prime?"),
    (r"\sqrt3", r"\sqrt{3}", r"Which of $\sqrt2$ and $\sqrt3$ is larger?"),
    ("2^{100}", "2^{100}", "Is it $2^{100}$ or $3^{50}$?"),
    (r"\text{(C)}", "C", "(A) $1+1$ (B) $2$ (C) $3$"),
]
UNFINISHED = [
    (r"\{1,2,3\}\setminus\{2\}", r"\{1,3\}", "Which are they?"),
    # Sums, products, integrals, limits, derivatives.
    (r"\sum_{k=1}^{60} k", "1830", ""),
    (r"\sum_{k=1}^n k", r"\frac{n(n+1)}{2}", ""),
    (r"\prod_{k=1}^5 k", "120", ""),
    (r"\int_0^2 x^3\,dx", "4", ""),
    (r"\lim_{x\to0}\frac{\sin x}{x}", "1", ""),
    (r"\frac{d}{dx}x^2", "2x", ""),
    ("f'(2)", "12", "If $f(x)=x^3$, find $f'(2)$."),
    # Arithmetic.
    ("3+4", "7", ""),
    ("10-3", "7", ""),
    ("-(-5)", "5", ""),
    ("50(-1)", "-50", ""),
    (r"3\cdot4", "12", ""),
    ("3(4)", "12", ""),
    (r"6 \cdot 10", "60", ""),
    (r"2^3\cdot5^2", "200", ""),
    ("2^{3+4}", "128", ""),
    (r"\frac12+\frac13", r"\frac56", ""),
    (r"\frac{1}{2}\cdot 6", "3", ""),
    (r"\frac{1}{2}\cdot 11", r"\frac{11}{2}", ""),
    (r"\frac{84}{7}", "12", r"What is $\frac{84}{7}$?"),
    (r"\frac{84}{7}", "12", "Simplify 84/7."),
    (r"\frac{\frac12}{3}", r"\frac16", ""),
    (r"7\left(\frac15\right)^3", r"\frac{7}{125}", ""),
    ("2x+3x", "5x", ""),
    ("x(x+1)+x", "x^2+2x", ""),
    (r"\frac{x}{2}+\frac{x}{3}", r"\frac{5x}{6}", ""),
    (r"x^2\cdot x^3", "x^5", ""),
    (r"\frac{x^5}{x^2}", "x^3", ""),
    # Roots.
    (r"\sqrt{12}", r"2\sqrt3", ""),
    (r"\sqrt[3]{16}", r"2\sqrt[3]2", ""),
    (r"\sqrt{16}", "4", ""),
    (r"\sqrt{3^2+4^2}", "5", ""),
    (r"\sqrt{\frac34}", r"\frac{\sqrt3}{2}", ""),
    (r"\sqrt{4x}", r"2\sqrt x", ""),
    (r"\sqrt3\cdot\sqrt2", r"\sqrt6", ""),
    (r"\frac{2+2\sqrt3}{2}", r"1+\sqrt3", "Simplify it."),
    ("8^{2/3}", "4", ""),
    # Complex numbers.
    ("i^2", "-1", ""),
    ("2+3i+4-i", "6+2i", ""),
    ("(1+2i)(3-i)", "5+5i", ""),
    (r"\frac{4+2i}{1-i}", "1+3i", ""),
    # Functions and other operations.
    (r"\dbinom{12}{4}", "495", ""),
    (r"{12\choose 4}", "495", ""),
    ("_{12}C_4", "495", ""),
    ("C(12,4)", "495", ""),
    ("5!", "120", ""),
    (r"\frac{10!}{8!}", "90", ""),
    (r"\binom{n}{2}", r"\frac{n(n-1)}{2}", ""),
    (r"\arccos(-\frac12)", r"\frac{2\pi}{3}", ""),
    (r"\sin 30^\circ", r"\frac12", ""),
    (r"\sin^2 x+\cos^2 x", "1", ""),
    (r"\log_2 8", "3", ""),
    (r"e^{\ln 2}", "2", ""),
    (r"\lfloor 3.7\rfloor", "3", ""),
    (r"\gcd(12,18)", "6", ""),
    (r"7^{10} \bmod 11", "1", ""),
    ("|-3|", "3", ""),
    (r"\max(2,3)", "3", ""),
    (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2", ""),
    (
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}\begin{pmatrix}1\\1\end{pmatrix}",
        r"\begin{pmatrix}3\\7\end{pmatrix}",
        "",
    ),
    (r"(1,2)\cdot(3,4)", "11", ""),
    (r"(-\infty,5)\cap(2,\infty)", "(2,5)", ""),
    # Equations and inequalities.
    ("x^2-3x-10\\le 0", "[-2,5]", ""),
    ("x+3<5", r"(-\infty,2)", ""),
    ("|x|<3", "(-3,3)", ""),
    ("2<x+1<5", "(1,4)", ""),
    ("x^2=9", "-3,3", ""),
    ("2x=10", "5", ""),
    ("2x-y+3=0", "y=2x+3", "Write it in slope-intercept form."),
    # What the question asks for.
    ("(b+7)(a+2)", "ab+7a+2b+14", "Expand $(a+2)(b+7)$."),
    ("(x+1)^2", "x^2+2x+1", "Expand the square of x + 1."),
    ("(r+1)(r+2)", "r^2+3r+2", "Write it in the form $Ar^2+Br+C$."),
    ("x^2-9", "(x-3)(x+3)", "Factor x^2-9."),
    ("37(a^2+3a)", "37a(a+3)", "Factor $37a^2+111a$."),
    ("(x^2-1)(x+2)", "(x-1)(x+1)(x+2)", "Factor it completely."),
    (r"\frac{6}{8}", r"\frac34", "Simplify the fraction."),
    (r"\frac{1-\sin^2 x}{\sin x\cos x}", r"\cot x", "Simplify the expression."),
    (r"\frac{1}{\sqrt2}", r"\frac{\sqrt2}{2}", "Rationalize the denominator."),
    # The question's own formulas.
    ("2^{-3}", r"\frac18", "What is $2^{-3}$?"),
    (r"\frac{1}{2^3}", r"\frac18", "What is $2^{-3}$?"),
    ("8^{-1}", r"\frac18", "What is $2^{-3}$?"),
    ("12:4", "3", r"What is $12 \div 4$?"),
    (r"\frac14+\frac13 \approx 0.58", r"\frac{7}{12}", ""),
    (r"\sqrt{12} \approx 3.46", r"2\sqrt3", ""),
    (r"\tfrac{1}{8}", "0.125", r"Write \(\frac18\) as a decimal."),
    ("0.125", r"\frac18", "Write $0.125$ as a fraction."),
    (r"0.\overline{3}", r"\frac13", r"Write $0.\overline{3}$ as a fraction."),
    (r"\sin 4x+\sin 6x", r"2\sin 5x\cos x", r"Write \[\sin 6x + \sin 4x\] as a product."),
    ("a+b=0", "0", "Given that $a + b = 0$, find $ab+a^2$."),
    ("x^2+1", r"\frac{x^3+x}{x}", r"Let \begin{align*}f(x)&=x^2+1,\\ g(x)&=x\end{align*}"),
]


@pytest.mark.parametrize(("answer", "reference", "question"), FINAL)
def test_final_answers(answer: str, reference: str, question: str) -> None:
    assert unfinished(answer, reference, question) is None


@pytest.mark.parametrize(("answer", "reference", "question"), UNFINISHED)
def test_unfinished_answers(answer: str, reference: str, question: str) -> None:
    assert unfinished(answer, reference, question) is not None


@pytest.mark.parametrize(("answer", "reference", "question"), FINAL + UNFINISHED)
def test_references_are_final(answer: str, reference: str, question: str) -> None:
    assert unfinished(reference, reference, question) is None
    assert unfinished(f"$\\displaystyle {reference.replace('frac', 'dfrac')}$.", reference, question) is None


def test_a_reference_with_operations_allows_the_same() -> None:
    assert unfinished(r"\binom{12}{8}", r"\binom{12}{4}", "") is None
    assert unfinished(r"\sum_{j=1}^n \frac1j", r"\sum_{k=1}^n \frac1k", "") is None
    assert unfinished(r"3^2\cdot 2", r"2\cdot 3^2", "") is None
    assert unfinished(r"\binom{12}{8}", r"\frac{12!}{4!\,8!}", "") is None


def test_what_cannot_be_read_is_judged_by_its_commands() -> None:
    for text in (r"\frac{1}{", "(1,2", r"a \\ b", "a:b", r"\begin{tabular}{c}1\end{tabular}"):
        with pytest.raises(UnreadableFormula):
            read_formula(text)
    assert unfinished("3:00", "3{:}00", "") is None
    assert unfinished(r"\sum_{k=1}^{60} k : 1", "1830", "") is not None
    assert unfinished("3:4", "0.75", "What is the ratio $3:4$?") is not None


def test_drawings_are_no_formulas() -> None:
    assert unfinished("2x+1", "1 + x + x", '[asy] label("$2x+1$", (0,0)); [/asy] What is it?') is None
    assert unfinished("2x+1", "1 + x + x", "What is $2x+1$?") is not None


@pytest.mark.parametrize(
    "text",
    [
        "(" * 500 + "1" + ")" * 500,
        "1" * 5000,
        "9^{9^{9^{9}}}",
        "2" + "^{2" * 300 + "}" * 300,
        "1e999999",
        "-" * 1999 + "5",
        "x" * 1999,
        "5" + "!" * 1000,
        "1+" + "9*" * 900 + "1",
        "√" * 40 + "5",
        r"\sqrt" * 300 + "5",
        r"\sin" * 400 + "x",
        r"\sum" * 400 + "x",
        r"\overline{" * 150 + "5" + "}" * 150,
        "x^" + "-" * 1500 + "1",
        "a_" * 900 + "b",
        "10^{" * 400 + "2" + "}" * 400,
    ],
)
def test_hostile_answers_cost_no_time_and_no_crash(text: str) -> None:
    unfinished(text, "5", "What is $2+3$?")
    unfinished("5", text, f"What is ${text}$?")


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    grader = MathGrader(workers=1, cpu_s=30.0, wall_s=300.0)
    yield grader
    grader.close()


def test_the_grader_asks_for_value_and_form(grader: MathGrader) -> None:
    question = "Compute $\\sum_{k=1}^{4} k$."
    answers = ["10", "\\sum_{k=1}^{4} k", "1+2+3+4", "4+3+2+1 = 10", "11", "\\frac{20}{2}"]
    pairs = [(f"\\boxed{{{answer}}}", "10") for answer in answers]
    rewards = grader.grade_batch(pairs, [question] * len(pairs))
    assert [r.score for r in rewards] == [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    assert rewards[1] == Reward(score=0.0, answer="\\sum_{k=1}^{4} k")


def test_without_a_question_only_the_value_counts(grader: MathGrader) -> None:
    assert grader.grade("\\boxed{3+4}", "7").score == 1.0
    assert grader.grade("\\boxed{3+4}", "7", "").score == 0.0
    assert grader.same([("3+4", "7")]) == [True]
