"""A Hugging Face hub on loopback, which answers the real client of `huggingface_hub`.

It serves folders as revisions of repositories: branches (`list_repo_refs`), file lists with the
SHA-256 of weight files (`list_repo_tree`, `model_info`), and files (`hf_hub_download`, with the
redirect to a store of large files that the real hub makes). Faults are planted with `Fault`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".pth", ".parquet")
"""Suffixes of the files that lie in the store of large files, by their SHA-256."""
_PAGE = 3
"""Files in one page of a file list: small, so that every test follows the links to the next."""
_CODES = {
    401: "RepoNotFound",
    403: "GatedRepo",
    404: "RepoNotFound",
    429: "",
    500: "",
}


@dataclass
class Fault:
    """Something that goes wrong with requests whose path matches a pattern."""

    path: str
    """Regular expression, searched for in the path."""
    status: int | None = None
    """Answer with this status."""
    delay: float = 0.0
    """Seconds to wait before an answer."""
    reset: bool = False
    """Close the connection after half of the file."""
    truncated: bool = False
    """Send half of the file, and say that this is all of it."""
    corrupt: bool = False
    """Flip a bit in the middle of the file."""
    times: int | None = None
    """How often; None: always."""
    seen: int = 0
    """How often it happened."""

    def happens(self, path: str) -> bool:
        """Whether it happens now; counts."""
        if not re.search(self.path, path) or (self.times is not None and self.seen >= self.times):
            return False
        self.seen += 1
        return True


@dataclass
class LocalHub:
    """A hub: repositories of revisions, each a folder."""

    endpoint: str = ""
    repos: dict[str, dict[str, Path]] = field(default_factory=dict)
    commits: dict[tuple[str, str], str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def add(self, repo: str, revision: str, folder: Path) -> str:
        """Serve a folder as a branch; its commit."""
        digest = hashlib.sha1(f"{repo} {revision}".encode())
        for path in files_in(folder):
            digest.update(path.encode() + hashlib.sha256((folder / path).read_bytes()).digest())
        self.repos.setdefault(repo, {})[revision] = folder
        self.commits[repo, revision] = digest.hexdigest()
        return digest.hexdigest()

    def folder(self, repo: str, revision: str) -> tuple[Path, str] | None:
        """The folder of a branch or a commit, and its commit."""
        for name, folder in self.repos.get(repo, {}).items():
            if revision in (name, self.commits[repo, name]):
                return folder, self.commits[repo, name]
        return None

    def large(self, sha256: str) -> Path | None:
        """The large file with this sum."""
        for branches in self.repos.values():
            for folder in branches.values():
                for name in files_in(folder):
                    if name.endswith(LARGE) and sum_of(folder / name) == sha256:
                        return folder / name
        return None

    def downloads(self) -> list[str]:
        """The paths of the files whose content was asked for, in order."""
        return [r.split(" ", 1)[1] for r in self.requests if r.startswith("GET /")]


def files_in(folder: Path) -> list[str]:
    """The files of a folder, by their paths in it."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


_SUMS: dict[tuple[str, int, int], str] = {}


def sum_of(path: Path) -> str:
    """SHA-256 of a file."""
    state = path.stat()
    key = (str(path), state.st_mtime_ns, state.st_size)
    if key not in _SUMS:
        _SUMS[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _SUMS[key]


def described(folder: Path, name: str) -> dict[str, Any]:
    """A file as the hub lists it."""
    content = folder / name
    size = content.stat().st_size
    blob = hashlib.sha1(f"blob {size}\0".encode() + content.read_bytes()).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": blob}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": sum_of(content), "size": size, "pointerSize": 134}
    return entry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        """What is known of some paths (`get_paths_info`)."""
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"POST {path}")
        asked = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        match = re.fullmatch(r"/api/(?:models|datasets)/(.+?)/paths-info/([^/]+)", path)
        found = self._found(match[1], match[2]) if match else None
        if found is None:
            return
        if asked.startswith("{"):
            wanted = json.loads(asked)["paths"]
        else:
            wanted = parse_qs(asked).get("paths", [])
        named = [described(found[0], name) for name in wanted if (found[0] / name).is_file()]
        self._json(named)

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.requests.append(f"{self.command} {path}")
        fault = next((fault for fault in self.hub.faults if fault.happens(path)), None)
        if fault is not None:
            time.sleep(fault.delay)
            if fault.status is not None:
                self._refuse(fault.status, _CODES.get(fault.status, ""))
                return
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if match := re.fullmatch(r"/api/(?:models|datasets)/(.+?)/refs", path):
            self._refs(match[1])
        elif match := re.fullmatch(r"/api/(?:models|datasets)/(.+?)/tree/([^/]+)(?:/.*)?", path):
            self._tree(match[1], match[2], query)
        elif match := re.fullmatch(r"/api/(?:models|datasets)/(.+?)(?:/revision/([^/]+))?", path):
            self._info(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/(?:datasets/)?(.+?)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3], fault)
        elif match := re.fullmatch(r"/store/([0-9a-f]{64})", path):
            found = self.hub.large(match[1])
            self._file(found, fault) if found else self._refuse(404, "EntryNotFound")
        else:
            self._refuse(404, "EntryNotFound")

    def _refs(self, repo: str) -> None:
        if repo not in self.hub.repos:
            self._refuse(401, "RepoNotFound")
            return
        branches = [
            {
                "name": name,
                "ref": f"refs/heads/{name}",
                "targetCommit": self.hub.commits[repo, name],
            }
            for name in self.hub.repos[repo]
        ]
        self._json({"branches": branches, "converts": [], "tags": []})

    def _found(self, repo: str, revision: str) -> tuple[Path, str] | None:
        if repo not in self.hub.repos:
            self._refuse(401, "RepoNotFound")
            return None
        found = self.hub.folder(repo, revision)
        if found is None:
            self._refuse(404, "RevisionNotFound")
        return found

    def _tree(self, repo: str, revision: str, query: dict[str, str]) -> None:
        found = self._found(repo, revision)
        if found is None:
            return
        names = files_in(found[0])
        begin = int(query.get("cursor", "0"))
        page = [described(found[0], name) for name in names[begin : begin + _PAGE]]
        headers = {}
        if begin + _PAGE < len(names):
            there = f"{self.hub.endpoint}/api/models/{repo}/tree/{revision}"
            link = f"<{there}?recursive=true&cursor={begin + _PAGE}>"
            headers["Link"] = f'{link}; rel="next"'
        self._json(page, headers)

    def _info(self, repo: str, revision: str) -> None:
        found = self._found(repo, revision)
        if found is None:
            return
        listed = [described(found[0], name) for name in files_in(found[0])]
        siblings = [
            {"rfilename": one["path"], "size": one["size"], "blobId": one["oid"]} for one in listed
        ]
        self._json({"id": repo, "modelId": repo, "sha": found[1], "siblings": siblings})

    def _resolve(self, repo: str, revision: str, name: str, fault: Fault | None) -> None:
        found = self._found(repo, revision)
        if found is None:
            return
        folder, commit = found
        if not (folder / name).is_file():
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
            return
        entry = described(folder, name)
        headers = {"X-Repo-Commit": commit}
        if "lfs" not in entry:
            self._file(folder / name, fault, {**headers, "ETag": f'"{entry["oid"]}"'})
            return
        headers |= {
            "X-Linked-Etag": f'"{entry["lfs"]["oid"]}"',
            "X-Linked-Size": str(entry["size"]),
            # as on the real hub, the store has another host, to which no login is sent
            "Location": f"{self._store()}/{entry['lfs']['oid']}",
        }
        self._send(302, b"", headers)

    def _store(self) -> str:
        return self.hub.endpoint.replace("127.0.0.1", "localhost") + "/store"

    def _file(self, path: Path, fault: Fault | None, headers: dict[str, str] | None = None) -> None:
        content = path.read_bytes()
        if fault is not None and fault.corrupt:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        if fault is not None and fault.truncated:
            content = content[: len(content) // 2]
        headers = {"ETag": f'"{sum_of(path)}"', **(headers or {}), "Accept-Ranges": "bytes"}
        status = 200
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin = int(match[1])
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            content, status = content[begin:], 206
        if fault is not None and fault.reset and self.command == "GET":
            self._head(status, {**headers, "Content-Length": str(len(content))})
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self._send(status, content, headers)

    def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        headers = {"Content-Type": "application/json", **(headers or {})}
        self._send(200, json.dumps(value).encode(), headers)

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": f"planted {status}"} if code else {}
        self._send(status, b"", {**named, **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self._head(status, {"Content-Length": str(len(content)), **headers})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that leave, and connections that a fault closed


@contextmanager
def serving() -> Iterator[LocalHub]:
    """A hub that answers inside the block."""
    hub = LocalHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
