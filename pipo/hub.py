"""Hugging Face hub without network: use the cache at once; its own libraries retry for half a minute."""

from __future__ import annotations

import logging
import socket
import urllib.request
from functools import cache
from urllib.parse import urlsplit

log = logging.getLogger(__name__)
# Seconds for a connection; one that works takes a fraction of one.
_PATIENCE = 5.0


def without_network_from_cache() -> None:
    """Where the hub cannot be reached, let its libraries look into their cache only, at once."""
    import huggingface_hub.constants as hub

    if hub.HF_HUB_OFFLINE or reachable(hub.ENDPOINT):
        return
    import datasets.config

    log.info("%s cannot be reached; what is in the cache is used", hub.ENDPOINT)
    hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


@cache
def reachable(address: str) -> bool:
    """Whether the host takes a connection; behind a proxy only the proxy could tell."""
    parts = urlsplit(address)
    if parts.scheme in urllib.request.getproxies():
        return True
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_PATIENCE).close()
    except OSError:
        return False
    return True
