"""A stand-in for the Hugging Face hub on loopback: as much of its HTTP interface as a push of a
model needs.

    with LoopbackHub() as hub:
        run(..., env={**os.environ, **hub.environment})
    assert hub.commits["ana/adapter"][0].files["README.md"]

It keeps every commit and every request. Without HF_HUB_DISABLE_XET huggingface_hub would upload
large files through Xet's compiled client; with it they take the LFS way, plain HTTP, which the hub
still speaks.
"""

import base64
import json
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

import yaml
from huggingface_hub.utils import HFValidationError, validate_repo_id

from loopback import Loopback

USER = "ana"
WRITE_TOKEN = "hf_write"
READ_TOKEN = "hf_read"


@dataclass
class Commit:
    """One commit: its branch, its message, and the bytes of each file it adds."""

    revision: str
    message: str
    files: dict[str, bytes] = field(default_factory=dict)


class LoopbackHub(Loopback):
    """The server.

    `stop` makes the hub unreachable and `start` brings it back at the same address.
    """

    def __init__(self):
        self.commits = {}  # repository: its commits
        self.branches = {}  # repository: names
        self.created = []  # what each new repository was asked for with
        self.requests = []  # method and path of each
        self.objects = {}  # large files by their SHA-256
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self):
        """For a process that is to take this for the hub, as a user who may write."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": WRITE_TOKEN, "HF_HUB_DISABLE_XET": "1"}

    def create(self, repository, settings):
        self.commits[repository] = []
        self.branches[repository] = {"main"}
        self.created.append(settings)


class HubHandler(BaseHTTPRequestHandler):
    owner: LoopbackHub

    def log_message(self, *_):
        pass

    def answer(self, status, body=None, **headers):
        content = json.dumps(body or {}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handle_request(self):
        path = urlsplit(self.path).path
        self.owner.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # the hub signs this address: no token
        if self.command == "PUT" and path.startswith("/objects/"):
            self.owner.objects[sha256(body).hexdigest()] = body
            return self.answer(200)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (WRITE_TOKEN, READ_TOKEN):
            return self.answer(401, {"error": "Invalid credentials in Authorization header"})
        may_write = token == WRITE_TOKEN
        if path == "/api/repos/create":
            return self.create(json.loads(body), may_write)
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.lfs_batch(json.loads(body))
        if not path.startswith("/api/models/"):
            return self.answer(404, {"error": f"{path} is not part of the stand-in"})
        owner, name, *rest = path.removeprefix("/api/models/").split("/")
        repository = f"{owner}/{name}"
        if repository not in self.owner.commits:
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return self.model(repository, [unquote(part) for part in rest], body, may_write)

    do_GET = do_POST = do_PUT = do_HEAD = handle_request

    def create(self, settings, may_write):
        repository = f"{settings.get('organization') or USER}/{settings['name']}"
        if not may_write:
            return self.answer(403, {"error": "the token may only read"})
        status = 409 if repository in self.owner.commits else 200
        if status == 200:
            self.owner.create(repository, settings)
        return self.answer(status, {"url": f"{self.owner.url}/{repository}"})

    def validate(self, card):
        """The rule of the hub that a card of ours could break."""
        metadata = yaml.safe_load(card.split("---\n")[1])
        try:
            validate_repo_id(metadata.get("base_model"))
        except HFValidationError:
            return self.answer(
                400, {"errors": [{"message": '"base_model" is not valid'}], "warnings": []}
            )
        return self.answer(200, {"errors": [], "warnings": []})

    def lfs_batch(self, asked):
        objects = []
        for wanted in asked["objects"]:
            upload = {"href": f"{self.owner.url}/objects/{wanted['oid']}"}
            objects.append({**wanted, "actions": {"upload": upload}})
        return self.answer(200, {"transfer": "basic", "objects": objects})

    def model(self, repository, path, body, may_write):
        if path == []:
            return self.answer(200, {"id": repository, "siblings": []})
        if path == ["auth-check", "write"]:
            return self.answer(200 if may_write else 403, {})
        action, revision = path
        known = revision in self.owner.branches[repository]
        if action == "branch":
            self.owner.branches[repository].add(revision)
            return self.answer(200)
        if not known:
            return self.answer(
                404, {"error": "Revision not found"}, X_Error_Code="RevisionNotFound"
            )
        if action == "revision":
            return self.answer(200, {"id": repository, "siblings": [], "sha": "0" * 40})
        if action == "preupload":
            return self.preupload(json.loads(body)["files"])
        assert action == "commit", path
        return self.commit(repository, revision, body)

    def preupload(self, files):
        found = []
        for file in files:
            binary = file["path"].endswith((".safetensors", ".png"))
            mode = "lfs" if binary else "regular"
            found.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        return self.answer(200, {"files": found})

    def commit(self, repository, revision, body):
        lines = [json.loads(line) for line in body.splitlines()]
        commit = Commit(revision, lines[0]["value"]["summary"])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                commit.files[value["path"]] = self.owner.objects[value["oid"]]
            else:
                commit.files[value["path"]] = base64.b64decode(value["content"])
        self.owner.commits[repository].append(commit)
        oid = sha256(body).hexdigest()[:40]
        return self.answer(
            200, {"commitUrl": f"{self.owner.url}/{repository}/commit/{oid}", "commitOid": oid}
        )


LoopbackHub.handler = HubHandler
