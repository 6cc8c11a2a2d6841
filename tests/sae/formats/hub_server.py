"""A hub of our own for tests: repositories in memory behind the endpoints that huggingface_hub calls, on a port of this machine."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class Hub:
    """Repositories by name; a commit's name is the hash of its files."""

    def __init__(self) -> None:
        self.repositories: dict[str, Files] = {}
        self.requests: list[str] = []
        self.url = ""

    def commit(self, name: str) -> str:
        files = self.repositories[name]
        return hashlib.sha1(json.dumps({path: hashlib.sha1(content).hexdigest() for path, content in sorted(files.items())}).encode()).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def as_json(self, value: Any, status: int = 200) -> None:
            self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

        def missing(self, code: str) -> None:
            self.answer(404, json.dumps({"error": code}).encode(), Content_Type="application/json", X_Error_Code=code)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(f"{self.command} {path}")
            parts = path.split("/")
            if parts[:2] == ["api", "models"]:
                name = "/".join(parts[2:4])
                if name not in hub.repositories:
                    return self.missing("RepoNotFound")
                if "tree" in parts:
                    return self.as_json([{"type": "file", "path": file, "size": len(content), "oid": "0"} for file, content in hub.repositories[name].items()])
                siblings = [{"rfilename": file} for file in hub.repositories[name]]
                return self.as_json({"_id": "0", "id": name, "modelId": name, "sha": hub.commit(name), "siblings": siblings, "private": False, "tags": [],
                                     "downloads": 0, "likes": 0})
            name, file = "/".join(parts[:2]), "/".join(parts[4:])
            content = hub.repositories.get(name, {}).get(file)
            if content is None:
                return self.missing("EntryNotFound" if name in hub.repositories else "RepoNotFound")
            return self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=hub.commit(name))

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(f"POST {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = path.split("/")
            if parts[:3] == ["api", "repos", "create"]:
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                hub.repositories.setdefault(name, {})
                return self.as_json({"url": f"{hub.url}/{name}", "id": name, "name": name})
            if parts[-1] == "validate-yaml":
                return self.as_json({"errors": [], "warnings": []})
            name = "/".join(parts[2:4])
            if parts[4] == "preupload":
                return self.as_json({"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]})
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    hub.repositories[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return self.as_json({"success": True, "commitOid": hub.commit(name), "commitUrl": f"{hub.url}/{name}/commit/{hub.commit(name)}", "hookOutput": ""})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
