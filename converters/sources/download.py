"""One clear line when published weights cannot be downloaded."""

from __future__ import annotations

import contextlib
import logging
import socket
import urllib.error
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies

from vtabjax.specs import Spec, SpecError

_NETWORK_PACKAGES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "huggingface_hub")


@contextlib.contextmanager
def downloading(spec: Spec, *, hub: bool = False) -> Iterator[None]:
    """Turns a failed download inside the block into a SpecError of one line.

    Args:
      spec: what is being downloaded, for the message.
      hub: whether the weights are on the Hugging Face hub, whose client otherwise retries for most of a
        minute where there is no network.

    Raises:
      SpecError: the download failed.
    """
    unreachable = None
    try:
        with _offline_if_unreachable() if hub else contextlib.nullcontext() as unreachable:
            yield
    except SpecError:
        raise
    except Exception as e:
        reason = _refusal(e) or _network_reason(e)
        if reason is None:
            raise
        if spec.source == "hf":
            what = "the repository's files are"
            instead = "write hf//path/to/folder for a copy of them that you have"
        else:
            what = "its weights are"
            instead = (
                f"write {spec.source}/{spec.name}@random for a random initialisation, "
                f"or {spec.source}/{spec.name}@/path/to/file for a file you have"
            )
        raise SpecError(
            f"model {str(spec)!r}: {what} not on this machine and cannot be downloaded "
            f"({unreachable or reason}); {instead}"
        ) from e


# What a host's answer means, and what helps. The hub's client has already waited and tried again by itself.
_ANSWERS = {
    401: "the host asks for a login: the repository is gated, private or does not exist. Accept its terms on its "
    "page if it has any, and log in with `hf auth login` or HF_TOKEN",
    403: "the host refuses access: accept the repository's terms on its page, and log in with `hf auth login` or "
    "HF_TOKEN, with a token that may read it",
    404: "the host does not have that file or repository",
    429: "the host limits the rate of requests (429): wait some minutes, or log in with `hf auth login` or HF_TOKEN, "
    "which raises the limit",
}


def _refusal(error: BaseException | None) -> str | None:
    """What the host's answer means, where it answered and said no; None where it did not answer."""
    while error is not None:
        # huggingface_hub's errors carry the response, urllib's are the response.
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, urllib.error.HTTPError):
            status = error.code
        if isinstance(status, int) and status >= 400:
            return _ANSWERS.get(status, f"the host answers with status {status}; try again later")
        error = error.__cause__ or error.__context__
    return None


def _network_reason(error: BaseException | None) -> str | None:
    """The innermost error of the chain in words, if one of its links comes from the network."""
    network = False
    innermost = error
    while error is not None:
        package = type(error).__module__.partition(".")[0]
        # URLError is an OSError of urllib.error; gaierror, ConnectionError and TimeoutError are the system's.
        network |= package in _NETWORK_PACKAGES or isinstance(
            error, (ConnectionError, TimeoutError, socket.gaierror)
        )
        network |= type(error).__module__ == "urllib.error"
        innermost = error
        error = error.__cause__ or error.__context__
    return " ".join(str(innermost).split())[:200] or type(innermost).__name__ if network else None


@contextlib.contextmanager
def _offline_if_unreachable() -> Iterator[str | None]:
    """Where the hub's name does not resolve, lets its client look into its cache only. Gives the reason."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    host = urlsplit(constants.ENDPOINT).hostname
    reason = None
    if not before and not getproxies() and not _resolves(host):
        constants.HF_HUB_OFFLINE = True
        reason = f"the name {host} does not resolve"
    logger.setLevel(
        max(level, logging.ERROR)
    )  # its warnings repeat for every retry what the error says at the end
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE = before
        logger.setLevel(level)


def _resolves(host: str | None) -> bool:
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True
