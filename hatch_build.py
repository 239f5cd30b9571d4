"""Build hook: the wheel holds the configuration and the programs, which in a clone lie beside the package."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

IN_WHEEL = "pipo/programs"


class ProgramsHook(BuildHookInterface):
    """Puts them into a wheel. An editable installation reads them in the clone, by ``pipo/home.py``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add what is beside the package, unless the installation is editable."""
        if version != "editable":
            for name in ("conf", "train.py", "eval.py"):
                build_data["force_include"][name] = f"{IN_WHEEL}/{name}"
