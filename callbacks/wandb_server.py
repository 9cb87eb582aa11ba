"""Whether W&B's server can be used: nobody waits for it if not."""

import os
import socket
from netrc import NetrcParseError, netrc
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

REACH_SECONDS = 2.0
"""The longest wait for the server to answer at all."""


def why_offline() -> str | None:
    """Why a run can't be sent at once, in words; None if it can, or if W&B is switched off by $WANDB_MODE."""
    import wandb

    settings = wandb.setup().settings
    if settings.mode in ("offline", "dryrun"):
        return f"WANDB_MODE is {settings.mode}"
    if settings.mode == "disabled":
        return None
    if not (settings.api_key or settings.identity_token_file or netrc_has_key(settings.base_url)):
        return "no API key is set"
    if not reachable(settings.base_url):
        return f"{settings.base_url} doesn't answer"
    return None


def netrc_has_key(url: str) -> bool:
    """Whether the user's .netrc, where `wandb login` writes the key, has one for this server."""
    try:
        known = netrc(os.environ.get("NETRC")).hosts
    except (OSError, NetrcParseError):
        return False
    return bool(known.keys() & {urlsplit(url).netloc, "api.wandb.ai", "default"})


def reachable(url: str) -> bool:
    """Whether the server, or the proxy before it, takes a connection within 2 s."""
    target = urlsplit(url)
    proxy = getproxies().get(target.scheme)
    if proxy and not proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy)
    answers: list[bool] = []

    def connect() -> None:
        try:
            address = (target.hostname or "", target.port or (443 if target.scheme == "https" else 80))
            socket.create_connection(address, REACH_SECONDS).close()
        except OSError:
            return
        answers.append(True)

    # The time-out of a socket doesn't hold for the search of its address.
    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return bool(answers)
