"""Push an exported model to the Hugging Face hub; whatever is in the way is one line that says what to do."""

from __future__ import annotations

import os
from pathlib import Path

from pipo.errors import ConfigError, reason
from pipo.hub import reachable
from pipo.runs.places import command

# What the hub answers -> what it means to who pushes.
_REFUSED = {
    401: "the token is not accepted; log in anew with hf auth login, or set HF_TOKEN",
    403: "the token may not write there; take one with the right to write, or another repository",
}
_EXISTS = 409
# What a user sets who wants nothing of the network.
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def check_push(repository: str) -> str:
    """Look, without the network, whether a push can work; returns the token.

    Raises:
        ConfigError: the name is none, there is no token, or the network is not to be used.
    """
    from huggingface_hub import get_token
    from huggingface_hub.constants import ENV_VARS_TRUE_VALUES
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"{repository!r}: no name of a repository, as org/name") from error
    for name in _OFFLINE:
        if os.environ.get(name, "").upper() in ENV_VARS_TRUE_VALUES:
            raise ConfigError(f"{repository}: {name} is set, so nothing can be pushed; unset it")
    if (token := get_token()) is None:
        raise ConfigError(f"{repository}: no token of the hub; log in with hf auth login, or set HF_TOKEN")
    return token


def push(model: Path, repository: str, *, update: bool = False, public: bool = False) -> str:
    """Push a folder, and return the address of what it became.

    Args:
        model: a folder in Hugging Face format.
        repository: ``org/name`` or ``name``.
        update: whether it may exist already; its files are replaced then, and its history keeps them.
        public: whether a new one is for all to see.

    Raises:
        ConfigError: it could not be pushed.
    """
    import huggingface_hub.constants as hub
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # pyright: ignore[reportPrivateImportUsage]

    token = check_push(repository)
    reachable.cache_clear()
    if not reachable(hub.ENDPOINT):
        raise ConfigError(f"{repository}: {hub.ENDPOINT} cannot be reached")
    hub.HF_HUB_OFFLINE = False  # as a run leaves it that began without a network
    api, made = HfApi(token=token), False
    try:
        url = api.create_repo(repository, private=not public, exist_ok=update)
        made = not update
        api.upload_folder(repo_id=url.repo_id, folder_path=model, commit_message="Model and card, by pipo")
    except (HTTPError, OSError, ValueError) as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status == _EXISTS:
            said = "exists already; --update replaces what is in it"
        else:
            said = _REFUSED.get(status or 0, reason(error))
        half = "; the repository is made, so go on with --update" if made else ""
        raise ConfigError(f"{repository}: {said}{half}") from error
    return str(url)


def pushing(folder: str | Path, repository: str) -> str:
    """The command line that pushes a run's model."""
    return command("push", str(folder), repository)
