"""Student's t beside closed forms and SciPy's numbers."""

from __future__ import annotations

import math

import pytest

from pipo.functional.students_t import below, quantile


def test_closed_forms() -> None:
    # One degree of freedom: 1/2 + atan(t) / pi. Two: 1/2 + t / (2 sqrt(2 + t^2)).
    for value in (-40.0, -1.0, -0.3, -1e-9, 0.0, 0.7, 1.0, 12.0):
        assert below(1, value) == pytest.approx(0.5 + math.atan(value) / math.pi, rel=1e-13), value
        two = 0.5 + value / (2 * math.sqrt(2 + value**2))
        assert below(2, value) == pytest.approx(two, rel=1e-12), value
    assert quantile(1, 0.975) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-13)
    assert quantile(2, 0.975) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-13)


def test_the_same_as_scipy() -> None:
    # SciPy 1.17.1: scipy.special.stdtr and stdtrit.
    assert below(7, -8.0) == pytest.approx(4.557460585437679e-05, rel=1e-13)
    assert below(63, -8.0) == pytest.approx(1.7839643273941472e-11, rel=1e-13)
    assert below(1000, 3.0) == pytest.approx(0.9986166454778809, rel=1e-13)
    assert quantile(15, 0.975) == pytest.approx(2.131449545559776, rel=1e-13)


def test_ends() -> None:
    assert (below(3, -math.inf), below(3, math.inf)) == (0.0, 1.0)
    assert math.isnan(below(3, math.nan))
