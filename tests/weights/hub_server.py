"""A stand-in for the Hugging Face Hub: what its HTTP says of model repositories, as far as `huggingface_hub` asks.

Small files come in the commit itself, large ones by Git LFS' batch, each repository with one branch.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand-in"


@dataclass
class Repository:
    """Commits of one branch, the newest last: (commit, path -> content)."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def add(self, files: dict[str, bytes]) -> str:
        """Commit `files` over what is there."""
        merged = {**(self.commits[-1][1] if self.commits else {}), **files}
        text = repr(
            (len(self.commits), sorted((path, hashlib.sha256(content).hexdigest()) for path, content in merged.items()))
        )
        self.commits.append((hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), merged))
        return self.commits[-1][0]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit by its name or by the branch's."""
        if revision == "main":
            return self.commits[-1] if self.commits else None
        return next((each for each in self.commits if each[0] == revision), None)


class Hub(http.server.ThreadingHTTPServer):
    """The stand-in; `asked` has every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.sizes: dict[str, int] = {}  # what it claims instead of the truth
        self.break_after = 0  # how many bytes of a file it sends before it hangs up; 0 never

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _send(self, status: int, content: bytes | dict[str, Any] | list[Any], headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def _may(self, repository: Repository | None) -> bool:
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        return repository is not None and (known or not repository.private)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            repository = self.server.repositories.get(found[1])
            if not self._may(repository) or repository is None:
                return self._refuse(404, "RepoNotFound")
            commit = repository.at(found[2] or "main")
            if commit is None:
                return self._refuse(404, "RevisionNotFound")
            files = [
                {"rfilename": name, "size": self.server.sizes.get(name, len(content))} for name, content in commit[1].items()
            ]
            return self._send(200, {"id": found[1], "modelId": found[1], "sha": commit[0], "siblings": files, "tags": []})
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository = self.server.repositories.get(found[1])
            if not self._may(repository) or repository is None:
                return self._refuse(404, "RepoNotFound")
            commit = repository.at(found[2])
            if commit is None:
                return self._refuse(404, "RevisionNotFound")
            if found[3] not in commit[1]:
                return self._refuse(404, "EntryNotFound")
            return self._file(commit[0], commit[1][found[3]])
        return self._refuse(404, "NotFound")

    do_HEAD = do_GET

    def _file(self, commit: str, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": commit, "Content-Type": "application/octet-stream"}
        if self.command == "HEAD" or not 0 < self.server.break_after < len(content):
            return self._send(200, content, headers)
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: self.server.break_after])
        self.close_connection = True
        return None

    def do_PUT(self) -> None:
        content = self._body()
        self.server.large[hashlib.sha256(content).hexdigest()] = content
        self._send(200, {})

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        self.server.asked.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "Unauthorized")
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'anna'}/{asked['name']}"
            if name in self.server.repositories:
                return self._send(409, {"url": f"{self.server.url}/{name}", "error": "exists"})
            self.server.repositories[name] = Repository(bool(asked.get("private")) or asked.get("visibility") == "private")
            self.server.repositories[name].add({".gitattributes": b"*.h5 filter=lfs\n"})
            return self._send(200, {"url": f"{self.server.url}/{name}", "id": name})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".h5") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._send(200, {"files": modes})
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.server.url}/large/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self._send(200, {"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            return self._commit(found[1], [json.loads(line) for line in body.splitlines() if line])
        return self._refuse(404, "NotFound")

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        commit = self.server.repositories[name].add(files)
        self._send(200, {"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{name}/commit/{commit}"})


@contextmanager
def standing_in() -> Iterator[Hub]:
    """A hub of this machine alone."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
