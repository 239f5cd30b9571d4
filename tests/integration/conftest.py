"""Runs of the tests leave a page of curves without its panels."""

from __future__ import annotations

import pytest

from pipo.analysis.plotting import curves
from pipo.analysis.plotting.style import new_figure


@pytest.fixture(scope="module", autouse=True)
def empty_curves():
    """To draw the panels costs as much as all else of a small run; ``tests/unit/test_plot.py`` draws them.

    Programs that a test starts are none the wiser and draw them, too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", lambda groups: new_figure(1.0))
        yield
