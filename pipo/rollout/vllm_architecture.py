"""Architecture folder for vLLM: a model's configuration without weights, in a place that stays.

What vLLM compiled for a model is kept under a key that the model's path is part of. A folder that is named by
its content is the same one for every process of a run and for the next run, so that this is found again.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from pipo.errors import ConfigError, reason
from pipo.lm.policy import Policy

CACHE = "PIPO_CACHE"


def architecture_folder(policy: Policy) -> Path:
    """The folder, written if it is not there.

    Raises:
        ConfigError: it cannot be written.
    """
    config = copy.deepcopy(policy.model.config)
    if not config.architectures:
        config.architectures = [type(policy.model).__name__]
    place = Path(os.environ.get(CACHE, "~/.cache/pipo")).expanduser() / "architectures"
    try:
        place.mkdir(parents=True, exist_ok=True)
        written = Path(tempfile.mkdtemp(dir=place))
        try:
            config.save_pretrained(written)
            digest = hashlib.sha256((written / "config.json").read_bytes()).hexdigest()
            folder = place / digest[:16]
            if not folder.exists():
                _rename(written, folder)
        finally:
            shutil.rmtree(written, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"{place}: cannot be written ({reason(error)}); name another folder, {CACHE}=..."
        ) from error
    return folder


def _rename(written: Path, folder: Path) -> None:
    """Give a folder its name, unless another process has just been first with the same one."""
    try:
        written.rename(folder)
    except OSError:
        if not folder.exists():
            raise
