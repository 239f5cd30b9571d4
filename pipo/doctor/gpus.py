"""GPUs as the driver sees them (nvidia-smi) and as torch does, and NCCL."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipo.doctor.finding import Finding

ABOUT = "GPUs"
QUERY = ("index", "name", "driver_version", "memory.total", "memory.used", "compute_cap", "mig.mode.current")
# More than a driver keeps for itself.
_FOREIGN_SHARE = 0.05
_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Card:
    """One GPU, as the driver reports it."""

    index: int
    name: str
    driver: str
    total_mib: int | None
    used_mib: int | None
    capability: tuple[int, int] | None
    """Compute capability, as (9, 0)."""
    mig: bool
    """Whether it is divided into instances (MIG)."""


@dataclass(frozen=True, kw_only=True)
class TorchBuild:
    """What torch was built for, and what it finds here."""

    version: str
    cuda: str | None
    """The CUDA version that it was built for; None for a build without."""
    architectures: tuple[str, ...]
    """That it has kernels for, as ``sm_90``."""
    count: int
    """GPUs that it can use."""
    problem: str | None
    """Why it can use none, in its own words."""
    nccl: str | None
    """Version of the NCCL that it holds."""
    peers: bool | None
    """Whether every GPU reads every other's memory directly; None with fewer than two."""


def asked_driver() -> list[Card] | str | None:
    """The GPUs of this machine; what nvidia-smi said if it failed; None where there is no such program."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        return said[0] if said else f"exit status {done.returncode}"
    return parse_cards(done.stdout)


def parse_cards(text: str) -> list[Card]:
    """The lines that nvidia-smi prints for :data:`QUERY`; what a GPU does not know is ``[N/A]``."""
    cards = []
    for line in text.strip().splitlines():
        index, name, driver, total, used, capability, mig = (word.strip() for word in line.split(","))
        major_minor = re.fullmatch(r"(\d+)\.(\d+)", capability)
        cards.append(
            Card(
                index=int(index),
                name=name,
                driver=driver,
                total_mib=int(total) if total.isdecimal() else None,
                used_mib=int(used) if used.isdecimal() else None,
                capability=(int(major_minor[1]), int(major_minor[2])) if major_minor else None,
                mig=mig == "Enabled",
            )
        )
    return cards


def torch_build() -> TorchBuild:
    """Ask torch, which takes seconds to import."""
    import torch
    import torch.cuda.nccl

    count, problem = 0, None
    if torch.version.cuda is not None:
        try:
            torch.cuda.init()
            count = torch.cuda.device_count()
        except (RuntimeError, AssertionError) as error:
            problem = str(error).splitlines()[0]
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    built_in = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    return TorchBuild(
        version=torch.__version__,
        cuda=torch.version.cuda,
        architectures=tuple(torch.cuda.get_arch_list()) if count else (),
        count=count,
        problem=problem,
        nccl=".".join(map(str, torch.cuda.nccl.version())) if built_in else None,
        peers=all(torch.cuda.can_device_access_peer(i, j) for i, j in pairs) if pairs else None,
    )


def describe(
    cards: Sequence[Card] | str | None, build: TorchBuild, environment: Mapping[str, str] = os.environ
) -> list[Finding]:
    """What driver and torch say, held against each other.

    Args:
        cards: of :func:`asked_driver`.
        build: of :func:`torch_build`.
        environment: variables of this process.
    """
    for_cuda = f"for CUDA {build.cuda}" if build.cuda else "without CUDA"
    seen = Finding(
        about=ABOUT,
        name="torch",
        found=f"{build.version}, built {for_cuda}; can use {build.count}",
        advice=_why_not_all(cards, build, environment),
    )
    if cards is None:
        return [Finding(about=ABOUT, name="driver", found="none (there is no nvidia-smi)"), seen]
    if isinstance(cards, str):
        broken = Finding(
            about=ABOUT,
            name="driver",
            found=f"nvidia-smi fails: {cards}",
            advice="mend the driver first: load its module or restart; in a container, --gpus all",
        )
        return [broken, seen]
    drivers = ", ".join(sorted({card.driver for card in cards})) or "no GPU"
    return [
        Finding(about=ABOUT, name="driver", found=drivers),
        *(_card(card, build) for card in cards),
        seen,
        *([_together(build, environment)] if len(cards) > 1 or build.nccl is not None else []),
    ]


def _card(card: Card, build: TorchBuild) -> Finding:
    memory = "memory unknown"
    advice = None
    if card.total_mib is not None and card.used_mib is not None:
        free = card.total_mib - card.used_mib
        memory = f"{card.total_mib / 1024:.0f} GiB, {free / 1024:.0f} GiB free"
        if card.used_mib > _FOREIGN_SHARE * card.total_mib:
            advice = (
                f"{card.used_mib / 1024:.0f} GiB are taken by other programs, see nvidia-smi; end them, or "
                "lower rollout.engine.config.gpu_memory_utilization by as much"
            )
    if card.capability is not None and build.count and not has_kernels(card.capability, build.architectures):
        advice = (
            f"torch {build.version} has no kernels for capability {card.capability[0]}.{card.capability[1]} "
            f"(only {', '.join(build.architectures)}); install a build that has"
        )
    if card.mig:
        memory += ", divided (MIG)"
        advice = advice or "NCCL needs whole GPUs: strategy=single, or switch MIG off (nvidia-smi -mig 0)"
    return Finding(about=ABOUT, name=f"GPU {card.index}", found=f"{card.name}, {memory}", advice=advice)


def has_kernels(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a build runs on a GPU: by a kernel of its major version, or by code that newer ones compile."""
    for name in architectures:
        kind, _, digits = name.partition("_")
        number = re.match(r"\d+", digits)
        if number is None:
            continue
        major, minor = int(number[0][:-1]), int(number[0][-1])
        newer = (major, minor) <= capability
        if newer and (kind == "compute" or major == capability[0]):
            return True
    return False


def _why_not_all(
    cards: Sequence[Card] | str | None, build: TorchBuild, environment: Mapping[str, str]
) -> str | None:
    """What to do where torch does not use every GPU that the driver has."""
    if not isinstance(cards, Sequence) or isinstance(cards, str) or build.count >= len(cards):
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if build.cuda is None:
        plain = build.version.partition("+")[0]
        return f"this is a build for CPUs: pip install --force-reinstall torch=={plain}, the one for CUDA"
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible} hides some; unset it unless that is meant"
    if build.problem is not None:
        return f"{build.problem}; update the driver, or install a torch that is built for an older CUDA"
    return "restart, and look for errors with nvidia-smi and dmesg"


def _together(build: TorchBuild, environment: Mapping[str, str]) -> Finding:
    given = [f"{key}={value}" for key, value in sorted(environment.items()) if key.startswith("NCCL_")]
    direct = {True: ", GPUs reach each other directly", False: ", GPUs do not reach each other", None: ""}
    advice = None
    if build.nccl is None:
        advice = "strategy=ddp and fsdp need NCCL between GPUs: install torch for CUDA on Linux"
    elif build.peers is False:
        advice = (
            "exchange goes through main memory and is slow: look at nvidia-smi topo -m, switch IOMMU/ACS off"
        )
    return Finding(
        about=ABOUT,
        name="NCCL",
        found=f"{build.nccl or 'none'}{direct[build.peers]}{''.join(f', {each}' for each in given)}",
        advice=advice,
    )


def compiler(cards: Sequence[Card] | str | None) -> Finding:
    """A C compiler, which Triton calls the first time that vLLM runs on a GPU."""
    found = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    missed = found is None and bool(cards)
    return Finding(
        about=ABOUT,
        name="C compiler",
        found=found or "none",
        advice="apt-get install gcc: Triton, and with it vLLM, compiles kernels when it starts"
        if missed
        else None,
    )
