"""The hub on 127.0.0.1 with what an upload needs besides: repositories that are made, cards that are checked, commits.

Small files come inside a commit, large ones before it, as on the real one; whoever has no token that may write is
refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from huggingface_hub import ModelCard
from stand_in_hub import StandInHub, handler_for

TOKEN = "hf_writes"
LARGE_BYTES = 4096  # from here on a file is uploaded by itself
LICENSES = {"mit", "apache-2.0", "other"}


@dataclass
class UploadHub(StandInHub):
    """Takes uploads from whoever sends `TOKEN`."""

    private: set[str] = field(default_factory=set)
    commits: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # repository → messages, newest last
    objects: dict[str, bytes] = field(default_factory=dict)  # SHA-256 → a large file's content
    refuses_objects: bool = False
    is_portal: bool = False  # answers with a page that wants a password, as networks of hotels do

    def handler(self) -> type[BaseHTTPRequestHandler]:
        return _handler(self)

    def commit_of(self, repository: str) -> str:
        made = self.commits.get(repository, [])
        return hashlib.sha1(f"{repository} {len(made)}".encode(), usedforsecurity=False).hexdigest()


def _handler(hub: UploadHub) -> type[BaseHTTPRequestHandler]:
    class Handler(handler_for(hub)):  # type: ignore[misc]
        def do_GET(self) -> None:  # noqa: N802 - http.server's name
            url = urlsplit(self.path)
            if url.path == "/api/models":
                self._search(parse_qs(url.query))
            else:
                super().do_GET()

        def do_HEAD(self) -> None:  # noqa: N802 - http.server's name
            if self.path == "/":
                self._json({})
            else:
                super().do_HEAD()

        def do_POST(self) -> None:  # noqa: N802 - http.server's name
            hub.request_count += 1
            body = self._body()
            path = urlsplit(self.path).path.strip("/").split("/")
            if path == ["api", "validate-yaml"]:
                self._validate(json.loads(body)["content"])
            elif self.headers["Authorization"] != f"Bearer {TOKEN}":
                self._error(401, "")
            elif path == ["api", "repos", "create"]:
                self._create(json.loads(body))
            elif path[:2] == ["api", "models"] and path[4] == "preupload":
                self._preupload("/".join(path[2:4]), json.loads(body)["files"])
            elif path[:2] == ["api", "models"] and path[4] == "commit":
                self._commit("/".join(path[2:4]), [json.loads(line) for line in body.splitlines()])
            elif path[-3:] == ["lfs", "objects", "batch"]:
                self._announce(json.loads(body)["objects"])
            else:
                self._json({})  # an upload that is confirmed

        def do_PUT(self) -> None:  # noqa: N802 - http.server's name
            content = self._body()
            if hub.refuses_objects:
                self._error(400, "")
                return
            hub.objects[hashlib.sha256(content).hexdigest()] = content
            self._json({})

        def _body(self) -> bytes:
            if self.headers["Transfer-Encoding"] != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"] or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _create(self, asked: dict[str, Any]) -> None:
            repository = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] == "somebody-else":
                self._error(403, "")
                return
            if repository in hub.repositories:
                self._json({"error": "You already created it", "url": f"{hub.endpoint}/{repository}"}, 409)
                return
            hub.repositories[repository] = {}
            if asked.get("visibility") == "private":
                hub.private.add(repository)
            self._json({"url": f"{hub.endpoint}/{repository}"})

        def _validate(self, content: str) -> None:
            front = ModelCard(content).data.to_dict()
            if front.get("license") in (None, *LICENSES):
                self._json({"warnings": [], "errors": []})
            else:
                self._json({"warnings": [], "errors": [{"message": '"license" must be one of these'}]}, 400)

        def _preupload(self, repository: str, files: list[dict[str, Any]]) -> None:
            if repository not in hub.repositories:
                self._error(404, "RepoNotFound")
                return
            modes = [
                {"path": one["path"], "uploadMode": "lfs" if one["size"] >= LARGE_BYTES else "regular"} for one in files
            ]
            self._json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})

        def _announce(self, objects: list[dict[str, Any]]) -> None:
            def actions(oid: str) -> dict[str, Any]:
                return {
                    "upload": {"href": f"{hub.endpoint}/objects/{oid}"},
                    "verify": {"href": f"{hub.endpoint}/verify"},
                }

            told = [{**one, "actions": actions(one["oid"])} for one in objects]
            self._json({"transfer": "basic", "objects": told})

        def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
            files = hub.repositories[repository]
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    hub.commits.setdefault(repository, []).append(value)
                elif line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            commit = hub.commit_of(repository)
            self._json({"commitUrl": f"{hub.endpoint}/{repository}/commit/{commit}", "commitOid": commit})

        def _search(self, asked: dict[str, list[str]]) -> None:
            found = []
            for repository, files in hub.repositories.items():
                card = ModelCard(files.get("README.md", b"").decode())
                tags = card.data.tags or []
                text = f"{repository} {' '.join(tags)}".lower()
                is_meant = all(word in text for word in " ".join(asked.get("search", [])).lower().split())
                if is_meant and set(asked.get("filter", [])) <= set(tags):
                    found.append({"id": repository, "tags": tags, "lastModified": "2026-11-24T23:00:00.000Z"})
            self._json(found)

        def _json(self, value: object, status: int = 200) -> None:
            body = b"<html>Log in</html>" if hub.is_portal else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler
