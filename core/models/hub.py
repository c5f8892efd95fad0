"""Downloads files from the Hugging Face hub in bounded time, with clear error messages."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import torch
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from core.errors import ModelError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""File names of weights in timm's repositories, preferred first."""

OPEN = "timm/"
"""Prefix of the repositories that anyone may download: timm's own."""

_WAY_OUT = "use the embedded tf_efficientnet_lite0, weights=FILE or weights='random'"


def fetch(repo: str, names: tuple[str, ...], what: str, token: str | bool | None = None) -> Path:
    """Downloads the first of `names` that a repository has, unless the newest version is cached.

    If the hub cannot be reached, a copy from an earlier download is used. Without a token, this
    works only for open repositories, because any other may be private and access to it cannot be
    checked.

    Args:
        repo: `owner/name`, or `owner/name@revision`.
        names: file names, preferred first.
        what: what is downloaded, for the error message.
        token: an access token; None for the one this machine is logged in with, False for none.

    Returns:
        The path of the file.

    Raises:
        ModelError: there is no such repository or file, access is denied, or there is neither a
            connection nor an earlier copy.
    """
    repo_id, _, revision = repo.partition("@")
    try:
        for name in names:
            try:
                return Path(_fetch(repo_id, name, revision or None, token))
            except RemoteEntryNotFoundError:
                continue
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot download {what} ({_cause(error, repo)}); {_WAY_OUT}") from error
    raise ModelError(f"cannot download {what} ({repo!r} has no {' or '.join(names)}); {_WAY_OUT}")


def _fetch(repo: str, name: str, revision: str | None, token: str | bool | None) -> str:
    try:
        # One request without retries, because the library retries for minutes when offline.
        url = hf_hub_url(repo, name, revision=revision)
        get_hf_file_metadata(url, token=token, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except (httpx.HTTPError, OSError):
        may_use_cache = token is not False or repo.startswith(OPEN)
        cached = cached_copy(repo, name, revision) if may_use_cache else None
        if cached is None:
            raise
        return cached
    return hf_hub_download(repo, name, revision=revision, token=token)


def cached_copy(repo: str, name: str, revision: str | None = None) -> str | None:
    """Path of an earlier download; None if there is none. Does not use the network."""
    cached = try_to_load_from_cache(repo, name, revision=revision)
    return cached if isinstance(cached, str) else None


def is_cached(repo: str) -> bool:
    """Whether the weights of a repository are cached from an earlier download."""
    return any(cached_copy(repo, name) for name in WEIGHTS)


def revision_of(file: Path) -> str:
    """The commit that a downloaded file belongs to; empty for any other file."""
    folder = file.parent
    return folder.name if folder.parent.name == "snapshots" else ""


def fetch_url(url: str, what: str) -> Path:
    """Downloads a weights file from a URL into torch's own cache, unless it is there.

    The file is checked against the digest in its name, if there is one.

    Args:
        url: the address.
        what: what is downloaded, for the error message.

    Raises:
        ModelError: there is no connection or no such file, or the digest is wrong.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    if file.is_file():
        return file
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = _stream(url, part)
        named = re.search(r"-([0-9a-f]{8,64})\.", file.name)
        if named is not None and not digest.startswith(named[1]):
            raise OSError("the digest of the downloaded file is not the one in its name")
        part.replace(file)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise ModelError(f"cannot download {what} ({_cause(error, url)}); {_WAY_OUT}") from error
    finally:
        part.unlink(missing_ok=True)
    return file


def _stream(url: str, target: Path) -> str:
    """Downloads to `target` and returns the SHA-256 digest of the file."""
    digest = hashlib.sha256()
    with httpx.stream("GET", url, follow_redirects=True, timeout=10) as answer:
        answer.raise_for_status()
        with target.open("wb") as out:
            for chunk in answer.iter_bytes():
                digest.update(chunk)
                out.write(chunk)
    return digest.hexdigest()


def _cause(error: Exception, where: str) -> str:
    """The cause of a failed download, for an error message."""
    match error:
        case HFValidationError() | httpx.InvalidURL():
            return f"{where[:80]!r} is not a repository; write owner/name"
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set and there is no earlier download"
        case GatedRepoError():
            return f"{where!r} is gated; accept its terms on the hub and run: hf auth login"
        case RepositoryNotFoundError():
            return f"the hub has no model {where!r}, or it is private"
        case RevisionNotFoundError():
            return f"{where!r} names a revision that does not exist"
        case HfHubHTTPError() | httpx.HTTPStatusError():
            return f"the server answered {error.response.status_code}"
        case FileMetadataError():
            return "the server does not speak the hub's protocol; check HF_ENDPOINT"
        case httpx.TimeoutException():
            return "the server did not answer in time"
        case httpx.RemoteProtocolError():
            return "the connection broke off"
        case httpx.TransportError() | ConnectionError():
            return "no connection"
        case _:
            return " ".join(str(error).split())[:120] or type(error).__name__
