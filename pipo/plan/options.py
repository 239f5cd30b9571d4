"""Inputs and assumptions of a plan: kinds of GPU, shapes of models, shares of peak rates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
import yaml
from omegaconf import OmegaConf
from pydantic import Field

from pipo.config.explain import explained
from pipo.config.near_miss import near
from pipo.errors import ConfigError
from pipo.home import CONF
from pipo.records.options import Cap, Count, NotNegative, Options, Positive, Share

FILES = CONF / "plan"


class Gpu(Options):
    """A kind of GPU."""

    memory_gib: Positive
    """Memory, as the driver reports it."""
    bfloat16_tflops: Positive
    """Peak rate of dense products in bfloat16, in 10^12 operations per second."""
    float32_tflops: Positive
    """Peak rate of products in float32."""
    memory_gb_s: Positive
    """Bandwidth of its memory, in 10^9 bytes per second."""
    link_gb_s: Positive
    """Bandwidth to the other GPUs of the node, each way."""

    @property
    def memory(self) -> int:
        """Memory in bytes."""
        return round(self.memory_gib * 2**30)


class Assumptions(Options):
    """What only a run can show."""

    prompt_share: Share
    """Mean prompt, of the longest that is let in."""
    response_share: Share
    """Mean response, of the limit; lengths fall off exponentially, and what would be longer is cut."""
    dynamic_rounds: Cap
    """Rounds of sampling that dynamic sampling takes."""
    trained_share: Share
    """Rows with an advantage, of all."""
    alike: Annotated[float, Field(ge=0, lt=1)]
    """Of the variance of responses' lengths, what those to one prompt have in common."""
    train_share: Share
    """Of the peak rate of products, in forward and backward passes."""
    memory_share: Share
    """Of the memory bandwidth, in decoding."""
    stream_share: Share
    """Of the memory bandwidth, in passes over large tensors: logits, gradients, moments."""
    link_share: Share
    """Of the links' bandwidth."""
    host_gb_s: Positive
    """Bandwidth between a GPU and main memory, each way."""
    node_gb_s: Positive
    """Bandwidth to other nodes, each way and per GPU."""
    step_s: NotNegative
    """Seconds of a decoding step of vLLM beside reading weights and cache."""
    layer_s: NotNegative
    """Seconds of a decoding step of the local engine for each layer beside that."""
    cycle_s: NotNegative
    """Seconds for an engine to go to sleep, wake up and take over weights, beside sending them."""
    grade_s: NotNegative
    """Seconds to grade a response."""
    disk_gb_s: Positive
    """Bandwidth of the disk when it is written."""
    context_gib: NotNegative
    """Of a GPU's memory for driver, communication and workspaces."""
    fragments: NotNegative
    """Lost between tensors, relative to these."""
    engine_gib: NotNegative
    """Of an engine's share for activations and CUDA graphs."""
    host_gib: NotNegative
    """Main memory of a process without weights."""
    held_out: Count
    """Held-out problems, where the configuration takes all."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """GPUs of a node."""

    name: str
    """As on the command line: ``8xH100-80``."""
    count: int
    """GPUs per node."""
    gpu: Gpu
    """Their kind."""
    is_gpu: bool = True
    """False to plan for a CPU of these rates, as comparisons with real runs do."""


def machine(text: str) -> Machine:
    """The GPUs that ``gpus=`` names.

    Raises:
        ConfigError: they are of an unknown kind.
    """
    kinds = _yaml("gpus.yaml")
    match = re.fullmatch(r"(?:([+-]?\d+)x)?(.+)", text, re.IGNORECASE)
    count, kind = (int(match[1] or 1), match[2]) if match else (0, text)
    if count < 1 or kind not in kinds:
        known = {each.lower(): each for each in kinds}
        alike = near(kind.lower(), sorted(known)) or next(
            (each for each in known if each.startswith(kind.lower())), ""
        )
        meant = known.get(alike)
        said = f"did you mean {f'{count}x' if match and match[1] else ''}{meant}? " if meant else ""
        if count < 1:
            said = "one GPU at least is needed. "
        raise ConfigError(f"gpus={text}: {said}Write 8x{next(iter(kinds))}; known are {', '.join(kinds)}")
    return Machine(name=text, count=count, gpu=Gpu(**kinds[kind]))


def assumptions(given: Sequence[str] = ()) -> Assumptions:
    """Those of the file, and others that the command line gives as ``name=value``.

    Raises:
        ConfigError: a name or a value is none.
    """
    values = _yaml("assumptions.yaml")
    values |= {str(name): value for name, value in OmegaConf.from_dotlist(list(given)).items()}
    try:
        return Assumptions(**values)
    except pydantic.ValidationError as error:
        raise explained(error, "assume", values) from error


def known_shapes() -> Mapping[str, Mapping[str, Any]]:
    """Hub id -> what its ``config.json`` says of the shape."""
    return _yaml("models.yaml")


def _yaml(name: str) -> dict[str, Any]:
    return yaml.safe_load((FILES / name).read_text(encoding="utf-8"))
