"""Plan of a study: arms, seeds and overrides of a file in ``conf/study``, checked before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import yaml

from pipo.errors import ConfigError
from pipo.home import CONF

STUDIES = CONF / "study"

# It becomes the name of folders.
ArmName = Annotated[str, pydantic.StringConstraints(pattern=r"^[\w.-]+$")]
Seed = Annotated[int, pydantic.Field(ge=0)]


class Arm(pydantic.BaseModel):
    """One line of the study's table."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")
    overrides: tuple[str, ...]
    """What ``train.py`` gets on top of the study's common overrides."""
    label: str
    """How figures and tables name it."""
    against: tuple[str, ...] = ()
    """Arms that it is compared with, pair by pair of the same seed."""
    x: float | None = None
    """Place of the arm on the axis of a sweep or of a stability study; None outside of one."""
    series: str = ""
    """The line of a stability study's figure that it is a point of."""


class StudyPlan(pydantic.BaseModel):
    """A study."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")
    question: str
    """What the study asks, in one sentence."""
    figure: Literal["curves", "sweep", "pairs", "agreement", "cost", "stability"]
    """``curves`` of every arm with bands over seeds, a ``sweep`` over x, ``pairs`` of arms and what they are
    compared with, ``agreement``, ``cost`` or ``stability``.
    """
    axis: str = ""
    """Name of the axis of x."""
    alone: bool = False
    """One run at a time whatever ``--jobs`` says, because the study compares their seconds."""
    common: tuple[str, ...]
    """Overrides of every run."""
    seeds: tuple[Seed, ...]
    """Seeds; there is one run per arm and seed."""
    arms: Annotated[Mapping[ArmName, Arm], pydantic.Field(min_length=1)]
    """The arms by their names."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> StudyPlan:
        if len(self.seeds) < 2 or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: at least two different ones are needed for an interval")
        for name, arm in self.arms.items():
            unknown = [other for other in arm.against if other not in self.arms]
            if unknown:
                raise ValueError(f"arms.{name}.against: there is no arm {unknown[0]!r}")
            if self.figure == "sweep" and arm.x is None and arm.against:
                raise ValueError(f"arms.{name}.x: a sweep needs it, except for the arm to compare with")
            if self.figure == "stability" and (arm.x is None or not arm.series):
                raise ValueError(f"arms.{name}: a stability study needs x and series")
        if self.figure in ("pairs", "cost") and not self.has_pairs:
            raise ValueError(f"arms: {self.figure} needs arms with against")
        return self

    @property
    def has_pairs(self) -> bool:
        """Whether any arm is compared with another."""
        return any(arm.against for arm in self.arms.values())

    def only(self, names: Sequence[str]) -> StudyPlan:
        """The same study with some of its arms.

        Raises:
            ConfigError: there is no such arm, or nothing left to compare.
        """
        unknown = [name for name in names if name not in self.arms]
        if unknown:
            raise ConfigError(f"there is no arm {unknown[0]!r}; this study has {', '.join(self.arms)}")
        part = self.part(names)
        if self.figure in ("pairs", "cost") and not part.has_pairs:
            raise ConfigError(
                f"--arms {' '.join(names)}: name both arms of a pair; this study compares pairs"
            )
        return part

    def part(self, names: Collection[str]) -> StudyPlan:
        """The study of these arms, whatever is left to compare."""
        arms = {
            name: arm.model_copy(update={"against": tuple(o for o in arm.against if o in names)})
            for name, arm in self.arms.items()
            if name in names
        }
        return self.model_copy(update={"arms": arms})


def known_studies() -> list[str]:
    """Names that :func:`load_plan` takes."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load_plan(name: str) -> StudyPlan:
    """Read a study by name, or from a YAML file of one's own.

    Raises:
        ConfigError: there is none, or it is not one; the message names the key.
    """
    path = Path(name) if name.endswith(".yaml") else STUDIES / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"study {name!r} does not exist; there are {', '.join(known_studies())}")
    try:
        with path.open(encoding="utf-8") as file:  # not its text: errors name the file
            return StudyPlan.model_validate(yaml.safe_load(file))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {where}: {first['msg']}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"study {name!r} is not YAML: {' '.join(str(error).split())}") from error
