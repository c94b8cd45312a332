"""A loopback Hub: the endpoints that the real `huggingface_hub` client calls, on the standard library's HTTP server.

Repos live in memory as a list of commits (path -> content hash), branches and tags; contents are kept once. What a
client sends is checked as the Hub does (a token for writing, parent commits, existing large files), and `fail`
makes any later request go wrong in a chosen way.
"""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_loopbackTokenThatMustNeverLeak000000"
OWNER = "org"
LARGE = 10_000  # bytes from which a file goes through LFS
LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".png", ".model")
TYPES = ("models", "datasets", "spaces")
NEW_SPACE = """---
title: {}
emoji: 🦀
colorFrom: red
colorTo: gray
sdk: {}
app_file: app.py
pinned: false
---

Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference
"""


@dataclass
class Commit:
    """One commit: the whole tree, and how it came to be."""

    oid: str
    parent: str | None
    title: str
    files: dict[str, str]
    date: str


@dataclass
class Repo:
    """One repo."""

    kind: str
    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, title, files, parent):
        seed = json.dumps([self.kind, self.name, parent, sorted(files.items()), title, time.time_ns()])
        oid = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, dict(files), time.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
        return oid

    def resolve(self, revision):
        """The commit that a branch, tag, commit id or a commit id's beginning names; None if none."""
        for refs in (self.branches, self.tags):
            if revision in refs:
                return self.commits[refs[revision]]
        found = [c for oid, c in self.commits.items() if len(revision) >= 7 and oid.startswith(revision)]
        return found[0] if len(found) == 1 else None


@dataclass
class Fault:
    """What happens to the next `times` requests that match."""

    method: str
    pattern: str
    status: int | None
    times: int
    drop: str | None
    headers: dict[str, str]
    message: str


class FakeHub:
    """The server. `start()` it once, `reset()` it between tests."""

    def __init__(self):
        self.lock = threading.RLock()
        self.reset()

    def reset(self):
        """Forget every repo, request and fault."""
        with self.lock:
            self.repos: dict[tuple[str, str], Repo] = {}
            self.blobs: dict[str, bytes] = {}
            self.large: set[str] = set()
            self.requests: list[tuple[str, str, int]] = []
            self.faults: list[Fault] = []
            self.tokens = {TOKEN: OWNER}
            self.read_only: set[str] = set()
            self.after_request = None

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    token = TOKEN

    def start(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def fail(self, method, pattern, status=None, *, times=1, drop=None, headers=None, message="injected"):
        """Let the next `times` requests whose method and path match go wrong.

        Args:
            method: "GET", "PUT", ... or "*".
            pattern: regular expression searched in the path with its query.
            status: answer with this status, without doing anything.
            times: how often.
            drop: instead of a status: "before" closes the connection without doing anything, "half" reads half of
                what the client sends and closes, "after" does what was asked for and closes without an answer.
            headers: of the answer (`Retry-After`, ...).
            message: of the answer.
        """
        assert (status is None) != (drop is None)
        self.faults.append(Fault(method, pattern, status, times, drop, headers or {}, message))

    def repo(self, name, kind="models"):
        return self.repos[kind, name]

    def files(self, name, revision="main", kind="models"):
        """`{path: bytes}` of one revision."""
        commit = self.repo(name, kind).resolve(revision)
        return {path: self.blobs[oid] for path, oid in commit.files.items()}

    def history(self, name, kind="models", branch="main"):
        """Commit ids of a branch, newest first."""
        repo, oids = self.repo(name, kind), []
        oid = repo.branches.get(branch)
        while oid is not None:
            oids.append(oid)
            oid = repo.commits[oid].parent
        return oids

    def store(self, content, large=False):
        oid = hashlib.sha256(content).hexdigest() if large else git_blob_id(content)
        self.blobs[oid] = content
        if large:
            self.large.add(oid)
        return oid

    def entry(self, path, oid):
        """How a file is described in a listing."""
        content = self.blobs[oid]
        described = {"type": "file", "path": path, "size": len(content), "oid": git_blob_id(content)}
        if oid in self.large:
            described["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
        return described

    def take_fault(self, method, path):
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method in (method, "*") and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None


def git_blob_id(content):
    """The id that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status, message, code=None, **more):
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits some 40 ms for the acknowledgement of its headers

    def log_message(self, *args):
        pass

    def do_GET(self):  # noqa: N802
        self.serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    # ---- one request

    def serve(self):
        fault = self.hub.take_fault(self.command, self.path)
        size = int(self.headers.get("Content-Length") or 0)
        if fault is not None and fault.drop in ("before", "half"):
            self.rfile.read(size // 2 if fault.drop == "half" else 0)
            return self.hang_up(fault.drop)
        self.body = (
            self.rfile.read(size) if "chunked" not in self.headers.get("Transfer-Encoding", "") else self.chunks()
        )
        try:
            if fault is not None and fault.status is not None:
                raise Refused(fault.status, fault.message)
            status, headers, content = self.route()
        except Refused as refused:
            status, content = refused.status, json.dumps({"error": refused.message, **refused.more}).encode()
            headers = {"Content-Type": "application/json", "X-Error-Message": refused.message}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            if fault is not None:
                headers.update(fault.headers)
        if fault is not None and fault.drop == "after":
            return self.hang_up("after")
        self.note(status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def note(self, status):
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path, status))
        if self.hub.after_request is not None:
            self.hub.after_request(self.command, self.path, status)

    def hang_up(self, why):
        self.note(0)
        self.close_connection = True
        self.connection.close()

    def chunks(self):
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    @staticmethod
    def answer(content, status=200):
        return status, {"Content-Type": "application/json"}, json.dumps(content).encode()

    @property
    def json(self):
        return json.loads(self.body or b"{}")

    # ---- who asks

    def user(self):
        header = self.headers.get("Authorization", "")
        if not header:
            return None
        token = header.removeprefix("Bearer ")
        if token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def may_write(self, name):
        user = self.user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        if name.split("/")[0] != user or name in self.hub.read_only:
            raise Refused(403, f"You don't have the rights to write to {name}")

    def find(self, kind, name):
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and self.user() != name.split("/")[0]):
            raise Refused(401 if self.user() is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def at(self, repo, revision):
        commit = repo.resolve(unquote(revision))
        if commit is None:
            raise Refused(404, f"Invalid rev id: {unquote(revision)}", "RevisionNotFound")
        return commit

    # ---- routes

    def route(self):
        url = urlsplit(self.path)
        path, self.query = url.path, parse_qs(url.query)
        if path == "/api/whoami-v2":
            user = self.user()
            if user is None:
                raise Refused(401, "Invalid username or password.")
            return self.answer({"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create()
        if path == "/api/repos/delete":
            return self.delete()
        if found := re.fullmatch(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(.*))?", path):
            kind, name, rest = found.groups()
            return self.api(kind, name, (rest or "").split("/"))
        if found := re.fullmatch(r"/(datasets/|spaces/)?([^/]+/[^/]+)\.git/info/lfs/(objects/batch|verify)", path):
            return self.large_files(*found.groups())
        if found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            return self.put_large(found[1])
        if found := re.fullmatch(r"/(datasets/|spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve((found[1] or "models/")[:-1], found[2], found[3], unquote(found[4]))
        raise Refused(404, f"No such page: {path}")

    def create(self):
        asked = self.json
        user = self.user()
        name = f"{asked.get('organization') or user}/{asked['name']}"
        self.may_write(name)
        kind = asked.get("type", "model") + "s"
        url = f"{self.hub.endpoint}/{'' if kind == 'models' else kind + '/'}{name}"
        with self.hub.lock:
            if (kind, name) in self.hub.repos:
                raise Refused(409, "You already created this model repo", url=url)
            private = asked.get("private") is True or asked.get("visibility") == "private"
            repo = self.hub.repos[kind, name] = Repo(kind, name, private)
            files = {".gitattributes": self.hub.store(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")}
            if kind == "spaces":  # which is made with a card
                files["README.md"] = self.hub.store(NEW_SPACE.format(asked["name"], asked["sdk"]).encode())
            repo.branches["main"] = repo.commit("initial commit", files, None)
        return self.answer({"url": url, "name": name, "id": name})

    def delete(self):
        asked = self.json
        name = f"{asked.get('organization') or self.user()}/{asked['name']}"
        self.may_write(name)
        if self.hub.repos.pop((asked.get("type", "model") + "s", name), None) is None:
            raise Refused(404, "Repository not found", "RepoNotFound")
        return self.answer({})

    def api(self, kind, name, rest):
        repo, action = self.find(kind, name), rest[0]
        if action in ("", "revision"):
            return self.answer(self.info(repo, self.at(repo, rest[1] if action else "main")))
        if action == "refs":

            def listed(refs, what):
                return [{"name": n, "ref": f"refs/{what}/{n}", "targetCommit": oid} for n, oid in refs.items()]

            return self.answer({"branches": listed(repo.branches, "heads"), "tags": listed(repo.tags, "tags"),
                                "converts": []})  # fmt: skip
        if action == "commits":
            return self.answer(self.log(repo, self.at(repo, rest[1])))
        if action == "tree":
            return self.answer(self.tree(self.at(repo, rest[1]), unquote("/".join(rest[2:]))))
        if action == "paths-info":
            return self.answer(self.paths_info(self.at(repo, rest[1])))
        self.may_write(name)
        with self.hub.lock:
            if action == "preupload":
                return self.answer({"files": [self.upload_mode(repo, rest[1], file) for file in self.json["files"]]})
            if action == "commit":
                return self.commit(repo, unquote(rest[1]))
            if action in ("tag", "branch"):
                return self.ref(repo, action, unquote(rest[1]))
        raise Refused(404, f"Unknown action {action}")

    def info(self, repo, commit):
        now = max(c.date for c in repo.commits.values())
        readme = commit.files.get("README.md")
        card = _front_matter(self.hub.blobs[readme].decode()) if readme else {}
        return {
            "_id": git_blob_id(repo.name.encode())[:24], "id": repo.name, "modelId": repo.name,
            "author": repo.name.split("/")[0], "sha": commit.oid, "private": repo.private, "gated": False,
            "disabled": False, "downloads": 0, "likes": 0, "lastModified": now, "createdAt": now,
            "tags": [], "cardData": card,
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }  # fmt: skip

    def log(self, repo, commit):
        listed = []
        while commit is not None:
            listed.append({"id": commit.oid, "title": commit.title, "message": "", "date": commit.date,
                           "authors": [{"user": OWNER}]})  # fmt: skip
            commit = repo.commits.get(commit.parent)
        return listed

    def tree(self, commit, below):
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        prefix = f"{below}/" if below else ""
        listed, folders = [], {}
        for path, oid in sorted(commit.files.items()):
            if not path.startswith(prefix):
                continue
            inner = path[len(prefix) :].split("/")
            for depth in range(1, len(inner) if recursive else min(2, len(inner))):
                folders[prefix + "/".join(inner[:depth])] = None
            if recursive or len(inner) == 1:
                listed.append(self.hub.entry(path, oid))
        if below and not listed and not folders:
            raise Refused(404, f"{below} does not exist on this revision", "EntryNotFound")
        return [{"type": "directory", "path": p, "size": 0, "oid": git_blob_id(p.encode())} for p in folders] + listed

    def paths_info(self, commit):
        if "json" in self.headers.get("Content-Type", ""):
            paths = self.json["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        found = []
        for path in paths:
            if path in commit.files:
                found.append(self.hub.entry(path, commit.files[path]))
            elif any(other.startswith(f"{path}/") for other in commit.files):
                found.append({"type": "directory", "path": path, "size": 0, "oid": git_blob_id(path.encode())})
        return found

    def upload_mode(self, repo, revision, file):
        large = file["size"] > LARGE or file["path"].endswith(LFS_SUFFIXES)
        present = self.at(repo, revision).files.get(file["path"])
        oid = git_blob_id(self.hub.blobs[present]) if present and present not in self.hub.large else present
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def commit(self, repo, branch):
        lines = [json.loads(line) for line in self.body.decode().splitlines() if line.strip()]
        header = lines[0]["value"]
        if branch not in repo.branches:
            raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        parent = repo.branches[branch]
        if header.get("parentCommit") not in (None, parent):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[parent].files)
        for line in sorted(lines[1:], key=lambda line: not line["key"].startswith("deleted")):
            key, value = line["key"], line["value"]
            path = value["path"]
            if key == "file":
                files[path] = self.hub.store(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise Refused(400, f"The large file {path} was never uploaded")
                files[path] = value["oid"]
            elif key == "deletedFile":
                if files.pop(path, None) is None:
                    raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            elif key == "deletedFolder":
                for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                    del files[name]
        oid = repo.branches[branch] = repo.commit(header["summary"], files, parent)
        return self.answer(
            {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{repo.name}/commit/{oid}"}
        )

    def ref(self, repo, what, name):
        refs = repo.tags if what == "tag" else repo.branches
        if self.command == "DELETE":
            if refs.pop(name, None) is None:
                raise Refused(404, f"{what} {name} does not exist", "RevisionNotFound")
            return self.answer({})
        if what == "tag":  # the address names what is tagged, the body the tag
            name, start = self.json["tag"], name
        else:
            start = self.json.get("startingPoint") or "main"
        if name in refs:
            raise Refused(409, f"{what} {name} exists already")
        refs[name] = self.at(repo, start).oid
        return self.answer({})

    def large_files(self, prefix, name, step):
        self.may_write(name)
        if step == "verify":
            if self.json["oid"] not in self.hub.large:
                raise Refused(404, "The large file never arrived")
            return self.answer({})
        objects = []
        for asked in self.json["objects"]:
            one = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.large:
                one["actions"] = {
                    "upload": {"href": f"{self.hub.endpoint}/lfs/{asked['oid']}", "header": {}},
                    "verify": {"href": f"{self.hub.endpoint}/{prefix or ''}{name}.git/info/lfs/verify", "header": {}},
                }
            objects.append(one)
        return self.answer({"transfer": "basic", "objects": objects})

    def put_large(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "The content has another hash than announced")
        self.hub.store(self.body, large=True)
        return 200, {"ETag": f'"{oid}"'}, b""

    def resolve(self, kind, name, revision, path):
        repo = self.find(kind, name)
        commit = self.at(repo, revision)
        if path not in commit.files:
            raise _missing(path, commit)
        oid = commit.files[path]
        content = self.hub.blobs[oid]
        headers = {
            "X-Repo-Commit": commit.oid,
            "ETag": f'"{oid}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f'inline; filename="{path}"',
        }
        if oid in self.hub.large:
            headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(found[1]), int(found[2] or len(content) - 1)
            last = min(last, len(content) - 1)
            if first >= len(content):
                return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return 206, headers, content[first : last + 1]
        headers["Content-Length"] = str(len(content))
        return 200, headers, content


def _missing(path, commit):
    """A file that is not there; the Hub tells the commit all the same, so that clients remember the absence."""
    return Refused(404, f"{path} does not exist in {commit.oid}", "EntryNotFound")


def _front_matter(text):
    import yaml

    parts = text.split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    return json.loads(json.dumps(yaml.safe_load(parts[1]) or {}, default=str))
