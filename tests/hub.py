"""A stand-in for the Hugging Face hub on this machine: serves repositories from memory, and fails
on request in the ways the real one does."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote

import pytest
from huggingface_hub import close_session, constants

Fault = Literal["", "gated", "broken", "cut", "short", "silent"]
"""gated: 403 for those who have not accepted terms; broken: 500; cut: the connection drops in the
middle of a body, each time; short: a body shorter than promised; silent: no answer."""


@dataclass(frozen=True)
class Repo:
    files: dict[str, bytes]
    fault: Fault = ""
    token: str = ""

    @property
    def commit(self) -> str:
        content = b"".join(name.encode() + data for name, data in sorted(self.files.items()))
        return hashlib.sha1(content).hexdigest()


class Hub:
    """``with Hub() as hub: hub.add("owner/name", {"config.json": b"..."}); hub.endpoint``.

    `requests` lists what was asked, as (verb, path), and `tokens` who asked for files.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: list[str | None] = []
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self  # type: ignore[attr-defined]
        self._server.daemon_threads = False  # closing waits for every answer under way
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, repo: str, files: dict[str, bytes], fault: Fault = "", *, token: str = "") -> str:
        """Publish a repository, with a `token` only for those who have it; its commit."""
        self.repos[repo] = Repo(files, fault, token)
        return self.repos[repo].commit

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering; the port refuses from here on."""
        if not self.closing.is_set():
            self.closing.set()
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def _answer(self, body: bool) -> None:
        self.hub.requests.append((self.command, self.path))
        shown = self.headers.get("Authorization")
        asked = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", unquote(self.path))
        if asked is not None:  # not what the library asks for its own ends
            self.hub.tokens.append(shown)
        repo = self.hub.repos.get(asked[1]) if asked else None
        if repo is None or asked is None or (repo.token and shown != f"Bearer {repo.token}"):
            # The real one says 401 to whoever is not logged in, so as not to betray private names.
            return self._refuse(401, "RepoNotFound")
        if repo.fault == "gated":
            return self._refuse(403, "GatedRepo")
        if repo.fault == "broken":
            return self._refuse(500)
        if repo.fault == "silent":
            self.hub.closing.wait()
            return None
        if asked[2] not in ("main", repo.commit):
            return self._refuse(404, "RevisionNotFound")
        if asked[3] not in repo.files:
            return self._refuse(404, "EntryNotFound", repo.commit)
        return self._send(repo, repo.files[asked[3]], body)

    def _refuse(self, status: int, code: str = "", commit: str = "") -> None:
        self.send_response(status)
        for name, value in (("X-Error-Code", code), ("X-Repo-Commit", commit)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, repo: Repo, data: bytes, body: bool) -> None:
        sent = data[: len(data) // 2] if body and repo.fault in ("cut", "short") else data
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", repo.commit)
        promised = sent if repo.fault == "short" else data
        self.send_header("Content-Length", str(len(promised)))
        self.end_headers()
        if body:
            self.wfile.write(sent)


def use_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """Look for the hub there, and keep downloads here."""
    close_session()
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty hub on this machine, in place of the real one."""
    with Hub() as hub:
        use_hub(monkeypatch, hub.endpoint, tmp_path / "cache")
        yield hub
    close_session()
