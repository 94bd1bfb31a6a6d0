"""A hub on 127.0.0.1 that speaks as much of Hugging Face's and ModelScope's protocols as a download needs.

`stand_in_uploads` adds what an upload needs.

It can break: a transfer cut midway, a file that answers 503, a repository that is gated or missing.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class StandInHub:
    """Serves ``repositories`` (id → file name → content) and remembers what was asked."""

    repositories: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    cuts: dict[str, int] = field(default_factory=dict)  # file name → how many transfers to cut in half
    breaks_after_cut: bool = False  # a file whose transfer was cut answers 503 from then on
    broken: set[str] = field(default_factory=set)  # files that answer 503
    downloads: list[tuple[str, str | None]] = field(default_factory=list)  # file name, Range header
    claimed_sizes: dict[str, int] = field(default_factory=dict)  # file name → what is listed instead of its size
    request_count: int = 0

    def __enter__(self) -> StandInHub:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """What answers a request."""
        return handler_for(self)

    def commit_of(self, repository: str) -> str:
        """The commit that a repository is at."""
        return COMMIT

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


def handler_for(hub: StandInHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            hub.request_count += 1
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            path = unquote(url.path).strip("/").split("/")
            if path[:3] == ["api", "v1", "models"]:
                self._modelscope("/".join(path[3:5]), path[5:], query)
            elif path[:2] == ["api", "models"]:
                self._huggingface_api("/".join(path[2:4]), path[4:])
            else:
                self._file("/".join(path[:2]), path[-1])

        def _huggingface_api(self, repository: str, rest: list[str]) -> None:
            if self._refuse(repository):
                return
            files = hub.repositories[repository]
            if rest[:1] == ["tree"]:
                self._json([{"type": "file", "path": n, "size": len(c), "oid": _sha(c)} for n, c in files.items()])
            elif rest[:1] == ["revision"] and rest[1] not in ("main", hub.commit_of(repository)):
                self._error(404, "RevisionNotFound")
            else:
                sizes = {name: len(content) for name, content in files.items()} | hub.claimed_sizes
                siblings = [{"rfilename": name, "size": size} for name, size in sizes.items() if name in files]
                self._json({"id": repository, "sha": hub.commit_of(repository), "siblings": siblings})

        def _modelscope(self, repository: str, rest: list[str], query: dict[str, list[str]]) -> None:
            if self._refuse(repository):
                return
            if rest == ["repo"]:
                self._file(repository, query["FilePath"][0])
                return
            files = hub.repositories[repository]
            entries = [
                {"Path": name, "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest(), "Type": "blob"}
                for name, content in files.items()
            ]
            self._json({"Code": 200, "Data": {"Files": entries}})

        def _refuse(self, repository: str) -> bool:
            if repository in hub.gated:
                self._error(403, "GatedRepo")
            elif repository not in hub.repositories:
                self._error(404, "RepoNotFound")
            else:
                return False
            return True

        def _file(self, repository: str, name: str) -> None:
            if name not in hub.repositories.get(repository, {}):
                self._error(404, "EntryNotFound")
                return
            content = hub.repositories[repository][name]
            if self.command == "GET":
                hub.downloads.append((name, self.headers["Range"]))
                if name in hub.broken:
                    self._error(503, "")
                    return
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0]) if self.headers["Range"] else 0
            body = content[start:]
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{_sha(content)}"')
            self.send_header("X-Repo-Commit", hub.commit_of(repository))
            self.send_header("Content-Length", str(len(body)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: len(body) // 2] if self._cut(name) else body)

        def _cut(self, name: str) -> bool:
            if not hub.cuts.get(name):
                return False
            hub.cuts[name] -= 1
            if hub.breaks_after_cut:
                hub.broken.add(name)
            return True

        def _json(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _error(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


def _sha(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
