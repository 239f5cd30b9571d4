"""Read rows of one JSON file, local or from the Hugging Face hub, whose rows share no schema."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipo.errors import TaskError
from pipo.tasks.rows import Row, read_file


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """The source of the rows of one file.

    The ``datasets`` library would put all rows into one schema, in which every object has the keys of all
    others; where the keys are names of parameters, that changes what the rows say.
    """

    path: str | None
    """Path of the local file; None for the hub."""
    hub_id: str | None
    """Name of the data set on the Hugging Face hub; None for a file that is not on the hub."""
    file: str
    """Name of the file on the hub, or the address at which a person finds it."""
    revision: str
    """Branch, tag or commit on the hub."""

    @property
    def name(self) -> str:
        """The local file, or the published name."""
        return self.path if self.path is not None else f"{self.hub_id} ({self.file})"

    def rows(self) -> list[Row]:
        """All rows, in the order of the file.

        Raises:
            TaskError: no such file, no rows, a broken file, or no access to the hub.
        """
        rows = read_file(Path(self.path).expanduser() if self.path is not None else self._download())
        if not rows:
            raise TaskError(f"{self.name}: no rows")
        return rows

    def _download(self) -> Path:
        if self.hub_id is None:
            raise TaskError(
                f"{self.file} is not on the Hugging Face hub; download it and name the local file: path of "
                "the task, or a folder in data_dir"
            )
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.hub_id, self.file, repo_type="dataset", revision=self.revision))
        except Exception as error:  # network, hub and cache have many error types and one remedy
            reason = str(error).strip().split("\n")[0][:200]
            raise TaskError(
                f"cannot load {self.file} of {self.hub_id}@{self.revision} from the Hugging Face hub "
                f"({type(error).__name__}: {reason}); without access to it, name a local file: path of the "
                "task, or a folder in data_dir"
            ) from error
