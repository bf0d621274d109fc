"""The hub of models: whether it can be reached, asked once, before a library tries for minutes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from sow.errors import UserError

SECONDS = 3.0  # to wait for an answer
Connect = Callable[..., Any]


def unreachable(connect: Connect | None = None) -> str | None:
    """Why the hub, or the proxy that leads to it, takes no connection; None if it takes one."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    place = urlsplit(ENDPOINT)
    proxy = getproxies().get(place.scheme)
    name = str(place.hostname)
    if proxy and not proxy_bypass(name):
        place = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        name = f"the proxy {place.hostname}"
    port = place.port or (443 if place.scheme == "https" else 80)
    try:
        (connect or socket.create_connection)((place.hostname, port), SECONDS).close()
    except OSError as error:
        return f"{name}: {error.strerror or error or type(error).__name__}"
    return None


def copy_of(name: str, revision: str | None = None, file: str = "unet/config.json") -> Path | None:
    """The folder of a hub repository's copy on this disk, known by one of its files."""
    from huggingface_hub import try_to_load_from_cache

    for known in (file, "model_index.json"):
        found = try_to_load_from_cache(name, known, revision=revision)
        if isinstance(found, str):
            return Path(found).parents[known.count("/")]
    return None


def need(name: str, file: str, key: str) -> None:
    """Raise UserError for a repository whose `file` is not on this disk where the hub is silent."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if not HF_HUB_OFFLINE:  # with which every library says so at once itself
        reach({name: copy_of(name, None, file)}, key, "download it and give its folder")


def reach(copies: Mapping[str, Path | None], key: str, cure: str) -> bool:
    """Whether the hub answers; raises UserError where it does not and none of these has a copy
    on this disk."""
    reason = unreachable()
    if reason is not None and not any(copies.values()):
        raise UserError(
            f"no network ({reason}), and none of {', '.join(copies)} is on this disk: get a network, or "
            f"{cure} ({key})"
        )
    return reason is None
