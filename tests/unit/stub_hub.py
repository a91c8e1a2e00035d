"""TEST FIXTURE: as much of a model hub as `huggingface_hub` needs to make, fill, list and read a model, on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import yaml

TOKEN = "hf_stub"


@dataclass
class Model:
    """One model of the hub: its commits, oldest first, each as path -> content."""

    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])

    def content(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        names = {sha(number): files for number, files in enumerate(self.commits)}
        revision = sha(len(self.commits) - 1) if revision == "main" else revision
        return (revision, names[revision]) if revision in names else None


def sha(number: int) -> str:
    return f"{number:040x}"


@dataclass
class Hub:
    """A running hub: its address, its models by id, what was uploaded as large files, and what was asked of it."""

    url: str = ""
    models: dict[str, Model] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def environment(self, home: str, token: str = TOKEN) -> dict[str, str]:
        """Return the variables that send a client here. Large files go by LFS: the stub does not speak Xet."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": home,
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }


@contextmanager
def stub_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{self.command} {path}")
        for method, pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if self.command in method and found:
                return answer(self, body, **found.groupdict())
        return self._json({"error": "no such address"}, 404)

    def _json(self, body, status=200, **headers):
        self._bytes(json.dumps(body).encode(), status, **{"Content-Type": "application/json"} | headers)

    def _bytes(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _known(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _create(self, body):
        if not self._known():
            return self._json({"error": "Invalid credentials"}, 401)
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        status = 409 if name in self.hub.models else 200
        if status == 200:
            self.hub.models[name] = Model(asked.get("visibility") == "private")
        return self._json({"url": f"{self.hub.url}/{name}"}, status)

    def _validate(self, body):
        head = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
        lacking = [] if head.get("license") else [{"message": "no licence"}]
        return self._json({"errors": lacking, "warnings": []}, 400 if lacking else 200)

    def _model(self, name):
        """Return a model that the asker may see, or answer as hubs do where there is none."""
        model = self.hub.models.get(name)
        if model is None or (model.private and not self._known()):
            self._json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            return None
        return model

    def _info(self, body, name, revision="main"):
        if (model := self._model(name)) is None:
            return None
        if (found := model.content(revision)) is None:
            return self._json({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        return self._json({"id": name, "private": model.private, "sha": found[0], "tags": [], "siblings": []})

    def _tree(self, body, name, revision):
        files = self.hub.models[name].content(revision)[1]
        return self._json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
        )

    def _file(self, body, name, revision, path):
        commit, files = self.hub.models[name].content(revision)
        etag = f'"{hashlib.sha1(files[path]).hexdigest()}"'
        return self._bytes(files[path], ETag=etag, X_Repo_Commit=commit)

    def _preupload(self, body, name):
        modes = {True: "lfs", False: "regular"}
        return self._json(
            {
                "files": [
                    {"path": path, "uploadMode": modes[path.endswith(".safetensors")], "shouldIgnore": False}
                    for path in (item["path"] for item in json.loads(body)["files"])
                ]
            }
        )

    def _batch(self, body, name):
        objects = [
            item | {"actions": {"upload": {"href": f"{self.hub.url}/large/{item['oid']}"}}}
            for item in json.loads(body)["objects"]
        ]
        return self._json({"transfer": "basic", "objects": objects})

    def _large(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.large[oid] = body
        return self._bytes(b"")

    def _commit(self, body, name):
        model = self.hub.models[name]
        files = dict(model.commits[-1])
        for item in map(json.loads, body.splitlines()):
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        model.commits.append(files)
        commit = sha(len(model.commits) - 1)
        return self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})


_NAME = r"(?P<name>[^/]+/[^/]+)"
_ROUTES = (
    (["POST"], "/api/repos/create", _Handler._create),
    (["POST"], "/api/validate-yaml", _Handler._validate),
    (["GET"], f"/api/models/{_NAME}", _Handler._info),
    (["GET"], f"/api/models/{_NAME}/revision/(?P<revision>[^/]+)", _Handler._info),
    (["GET"], f"/api/models/{_NAME}/tree/(?P<revision>[^/]+)", _Handler._tree),
    (["POST"], f"/api/models/{_NAME}/preupload/main", _Handler._preupload),
    (["POST"], f"/{_NAME}.git/info/lfs/objects/batch", _Handler._batch),
    (["PUT"], "/large/(?P<oid>[0-9a-f]{64})", _Handler._large),
    (["POST"], f"/api/models/{_NAME}/commit/main", _Handler._commit),
    (["GET", "HEAD"], f"/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler._file),
)
