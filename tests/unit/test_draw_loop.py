"""The picture of docs/pipo.md is what its script draws, and it is small."""

from __future__ import annotations

import subprocess
import sys

import matplotlib.image
import numpy as np

from tests.conftest import ROOT


def test_the_script_makes_the_picture_that_the_page_shows(tmp_path):
    made = tmp_path / "loop.png"
    subprocess.run([sys.executable, str(ROOT / "docs/draw_loop.py"), str(made)], check=True)
    kept = ROOT / "docs/loop.png"
    assert kept.stat().st_size < 60_000
    ours, there = matplotlib.image.imread(made), matplotlib.image.imread(kept)
    assert ours.shape == there.shape
    # Another version of the library may smooth letters otherwise; another picture differs by far more.
    assert np.abs(ours - there).mean() < 0.005
