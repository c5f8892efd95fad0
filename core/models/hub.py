"""Files from the Hugging Face hub, or a sentence that says why not, within bounded time."""

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
"""Names under which timm's repositories keep their weights, best first."""

OPEN = "timm/"
"""Whose repositories are open to everybody: timm's own."""

_WAY_OUT = "use the embedded tf_efficientnet_lite0, weights=FILE or weights='random'"


def fetch(repo: str, names: tuple[str, ...], what: str, token: str | bool | None = None) -> Path:
    """The first of `names` that a repository has, downloaded unless the newest is here already.

    Where the hub cannot be reached, a copy from an earlier download serves. Without a token it
    must be of an open repository: any other might be private, which cannot be asked then.

    Args:
        repo: `owner/name`, or `owner/name@revision`.
        names: file names, best first.
        what: what is being fetched, for the sentence.
        token: None for the one this machine is logged in with, False for none.

    Raises:
        ModelError: there is no such repository or file, it is not open to this person, or there is
            no connection and no earlier copy.
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
        # Asked once and without retries: the library would go on asking for minutes when offline.
        url = hf_hub_url(repo, name, revision=revision)
        get_hf_file_metadata(url, token=token, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except (httpx.HTTPError, OSError):
        may = token is not False or repo.startswith(OPEN)
        kept = kept_copy(repo, name, revision) if may else None
        if kept is None:
            raise
        return kept
    return hf_hub_download(repo, name, revision=revision, token=token)


def kept_copy(repo: str, name: str, revision: str | None = None) -> str | None:
    """Path of an earlier download; None if there is none. Never touches the network."""
    kept = try_to_load_from_cache(repo, name, revision=revision)
    return kept if isinstance(kept, str) else None


def is_kept(repo: str) -> bool:
    """Whether a repository's weights are here from an earlier download."""
    return any(kept_copy(repo, name) for name in WEIGHTS)


def revision_of(file: Path) -> str:
    """The commit that a downloaded file belongs to; empty for any other file."""
    folder = file.parent
    return folder.name if folder.parent.name == "snapshots" else ""


def fetch_url(url: str, what: str) -> Path:
    """A weights file from a plain address, kept where torch keeps its own, checked by the digest
    that its name carries.

    Raises:
        ModelError: no connection, no such file, or another digest.
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
            raise OSError("the file that arrived has another digest than its name says")
        part.replace(file)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise ModelError(f"cannot download {what} ({_cause(error, url)}); {_WAY_OUT}") from error
    finally:
        part.unlink(missing_ok=True)
    return file


def _stream(url: str, target: Path) -> str:
    """Download to `target`; the SHA-256 digest of what came."""
    digest = hashlib.sha256()
    with httpx.stream("GET", url, follow_redirects=True, timeout=10) as answer:
        answer.raise_for_status()
        with target.open("wb") as out:
            for chunk in answer.iter_bytes():
                digest.update(chunk)
                out.write(chunk)
    return digest.hexdigest()


def _cause(error: Exception, where: str) -> str:
    """Why a download failed, in a few words."""
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
