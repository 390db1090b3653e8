"""A Hugging Face Hub and a plain file server on the loopback interface, for tests; standard library only.

`HubServer` speaks the part of the protocol that `huggingface_hub` 1.x and 2.x use to download, list, create and upload
(without Xet). It is two servers: the hub on ``127.0.0.1`` and the store of large files on ``localhost``, because the
client tells them apart by the name of the host. `FileServer` answers plain downloads. Both take `Server.fault` orders.

Example:
    >>> import urllib.request
    >>> with HubServer() as hub:
    ...     commit = hub.add_repo("someone/thing", {"config.json": b"{}"})
    ...     with urllib.request.urlopen(f"{hub.endpoint}/someone/thing/resolve/main/config.json") as answer:
    ...         answer.read(), answer.headers["X-Repo-Commit"] == commit
    (b'{}', True)
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import selectors
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, quote, unquote

Method = Literal["HEAD", "GET", "POST", "PUT", "any"]

# The kinds that concern the bytes of a file: a redirect on the way to the file does not use them up.
BODY_FAULTS = {"cut", "reset", "stall", "wrong_bytes", "short", "long", "no_range", "endless", "gzip"}
# The kinds that take the place of an answer.
INSTEAD_FAULTS = {"status", "html", "redirect_loop", "hangup"}
FAULTS: dict[str, dict[str, Any]] = {
    "cut": {"after": None},
    "reset": {"after": None},
    "stall": {"after": None, "seconds": 10.0},
    "wrong_bytes": {"at": -1},
    "short": {"by": 7},
    "long": {"by": 7},
    "no_range": {},
    "endless": {"most": 2**24},
    "gzip": {"size": None},
    "wrong_size": {"by": 7},
    "no_commit": {},
    "no_etag": {},
    "headers": {"values": {}},
    "status": {"code": 500, "error_code": None, "message": None, "headers": {}},
    "html": {"body": b"<!doctype html><html><title>Sign in</title><body>Accept the terms to go on.</body></html>"},
    "other": {"body": b"", "etag": None},
    "redirect_loop": {},
    "slow_start": {"seconds": 10.0},
    "hangup": {},
}


@dataclass(frozen=True)
class Request:
    """What a client asked.

    ``server`` is "hub", "store" or "files"; ``path`` is unquoted, without the query; names of headers are lower case.
    """

    server: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False, default=b"")

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Reply:
    """An answer before faults and ranges; ``content`` marks the bytes of a file."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content: bool = False

    def with_headers(self, **changes: str | None) -> Reply:
        headers = dict(self.headers)
        for name, value in changes.items():
            headers.pop(name.replace("_", "-"), None)
            if value is not None:
                headers[name.replace("_", "-")] = value
        return replace(self, headers=headers)


@dataclass
class Fault:
    path_suffix: str
    kind: str
    times: int | None
    on: Method
    options: dict[str, Any]

    def concerns(self, request: Request, reply: Reply) -> bool:
        if self.times == 0 or not request.path.endswith(self.path_suffix):
            return False
        if self.kind in BODY_FAULTS and self.on != "HEAD" and not (reply.content and request.method == "GET"):
            return False
        return self.on in ("any", request.method)


class Error(Exception):
    """An answer with a status of 400 or more, in the form of the Hub."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.reply = error_reply(status, message, code, headers)


def error_reply(status: int, message: str | None, code: str | None, headers: Mapping[str, str]) -> Reply:
    every = {"Content-Type": "application/json", **headers}
    if code is not None:
        every["X-Error-Code"] = code
    if message is not None:
        every["X-Error-Message"] = message
    return Reply(status, every, json.dumps({"error": message or f"status {status}"}).encode())


def json_reply(value: object, status: int = 200) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(value).encode())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def do_GET(self) -> None:
        owner = self.server.owner
        raw, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.read_body()
        request = Request(self.server.name, self.command, unquote(raw), query, headers, body)
        with owner.lock:
            owner.requests.append(request)
            if request.method in ("HEAD", "GET"):
                reply = owner.reply(request, raw)
                fault = owner.take_fault(request, reply)
            else:
                # What is answered with an error, or not at all, is not done either.
                fault = owner.take_fault(request, Reply())
                reply = Reply() if fault and fault.kind in INSTEAD_FAULTS else owner.reply(request, raw)
        kind = fault.kind if fault else ""
        options = fault.options if fault else {}
        if kind == "slow_start" and not self.wait(options["seconds"]):
            return
        if kind == "hangup" or (request.method == "HEAD" and kind in ("cut", "reset")):
            self.abort(reset=kind == "reset")
            return
        if kind == "redirect_loop" or query.startswith("loop="):
            turn = int(query.removeprefix("loop=") or 0) + 1 if query.startswith("loop=") else 1
            reply = Reply(302, {"Location": f"http://{self.headers['Host']}{raw}?loop={turn}"})
        self.deliver(request, spoil(reply, kind, options), kind, options)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def deliver(self, request: Request, reply: Reply, kind: str, options: Mapping[str, Any]) -> None:
        body, status, headers = reply.body, reply.status, dict(reply.headers)
        wanted = request.headers.get("range")
        if reply.content:
            headers["Accept-Ranges"] = "bytes"
            if wanted is not None and status == 200 and request.method == "GET" and kind != "no_range":
                start, stop = byte_range(wanted, len(body))
                if start >= stop:
                    status, headers["Content-Range"], body = 416, f"bytes */{len(body)}", b""
                else:
                    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
                    status, body = 206, body[start:stop]
        if kind == "endless":
            headers["Connection"] = "close"  # where the line ends, the file does
        else:
            headers.setdefault("Content-Length", str(len(body)))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if request.method == "HEAD":
            return
        after = len(body) // 2 if options.get("after") is None else options["after"]
        if kind in ("cut", "reset"):
            self.wfile.write(body[:after])
            self.abort(reset=kind == "reset")
        elif kind == "stall":
            self.wfile.write(body[:after])
            if self.wait(options["seconds"]):
                self.wfile.write(body[after:])
        elif kind == "endless":
            self.wfile.write(body)
            for _ in range(0, options["most"], 2**16):
                self.wfile.write(bytes(2**16))
        else:
            self.wfile.write(body)

    def wait(self, seconds: float) -> bool:
        """Wait, but no longer than the client holds the line; return whether it still does."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.connection, selectors.EVENT_READ)
            gone = bool(selector.select(seconds))
        if gone:
            self.close_connection = True
        return not gone

    def abort(self, *, reset: bool) -> None:
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.server.reset.add(self.connection)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


def spoil(reply: Reply, kind: str, options: Mapping[str, Any]) -> Reply:
    """Apply the faults that change what is said, not how it is sent."""
    if kind == "wrong_bytes":
        body = bytearray(reply.body)
        body[options["at"]] ^= 0xFF
        return replace(reply, body=bytes(body))
    if kind == "short":
        return replace(reply, body=reply.body[: -options["by"]])
    if kind == "long":
        return replace(reply, body=reply.body + bytes(options["by"]))
    if kind == "gzip":
        plain = reply.body if options["size"] is None else bytes(options["size"])
        return replace(reply, body=gzip.compress(plain)).with_headers(Content_Encoding="gzip")
    if kind == "other":
        etag = options["etag"] or Blob(options["body"], lfs=False).git_oid
        told = reply.with_headers(ETag=f'"{etag}"', Location=None, X_Linked_Etag=None, X_Linked_Size=None)
        return replace(told, status=200, body=options["body"], content=True)
    if kind == "wrong_size":
        name = "X-Linked-Size" if "X-Linked-Size" in reply.headers else "Content-Length"
        return reply.with_headers(**{name: str(int(reply.headers.get(name, len(reply.body))) + options["by"])})
    if kind == "no_commit":
        return reply.with_headers(X_Repo_Commit=None)
    if kind == "no_etag":
        return reply.with_headers(X_Linked_Etag=None, ETag=None)
    if kind == "headers":
        return reply.with_headers(**options["values"])
    if kind == "status":
        return error_reply(options["code"], options["message"], options["error_code"], options["headers"])
    if kind == "html":
        return Reply(200, {"Content-Type": "text/html; charset=utf-8"}, options["body"])
    return reply


def byte_range(header: str, size: int) -> tuple[int, int]:
    first, _, last = header.partition("=")[2].partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


class Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """One listening socket; knows its open connections, so that it can be stopped while clients hold them."""

    allow_reuse_address = True
    daemon_threads = False  # block_on_close joins only threads that are not daemons
    block_on_close = True
    request_queue_size = 64

    def __init__(self, owner: Server, name: str, port: int) -> None:
        self.owner = owner
        self.name = name
        self.open: set[socket.socket] = set()
        self.reset: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), name=f"{name}:{port}")
        self.thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        if request in self.reset:
            # No shutdown(), which would send FIN before the RST.
            self.reset.discard(request)
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):
            self.owner.errors.append(error)

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        for connection in list(self.open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self.server_close()


class Server:
    """Common part of `HubServer` and `FileServer`: ports, requests seen, faults.

    Attributes:
        requests: everything asked so far, in order.
        errors: exceptions of the server itself; leaving the context raises the first one.
    """

    names: tuple[str, ...]

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        # The ports are held without listening for the whole life: a stopped server refuses connections, and nobody else
        # can take its place meanwhile.
        self._held = [hold_port() for _ in self.names]
        self.ports: dict[str, int] = {
            name: held.getsockname()[1] for name, held in zip(self.names, self._held, strict=True)
        }
        self._listeners: list[Listener] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[self.names[0]]}"

    def start(self) -> None:
        """Listen (again), on the same ports."""
        if not self._listeners:
            self._listeners = [Listener(self, name, port) for name, port in self.ports.items()]

    def stop(self) -> None:
        """Refuse connections and cut those that are open; what the server holds stays."""
        while self._listeners:
            self._listeners.pop().stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        for held in self._held:
            held.close()
        if self.errors and error is None:
            raise self.errors[0]

    def fault(
        self, path_suffix: str, kind: str, *, times: int | None = 1, on: Method | None = None, **options: Any
    ) -> None:
        """Spoil the answers to requests whose path ends with ``path_suffix``; the oldest order that fits is used.

        Args:
            path_suffix: of the path, unquoted and without the query. A large file ends with its name at the store too.
            kind: one of

                - ``cut``, ``reset``: send ``after`` bytes (half), then close with FIN or RST.
                - ``stall``: send ``after`` bytes (half), wait ``seconds``, send the rest.
                - ``wrong_bytes``: the byte ``at`` (the last) is another; the size is right.
                - ``short``, ``long``: ``by`` bytes fewer or more than promised; Content-Length agrees with them.
                - ``no_range``: 200 and the whole file, whatever Range was asked.
                - ``endless``: no Content-Length, and zeros behind the file, ``most`` bytes of them.
                - ``gzip``: compressed on the way; the file, or ``size`` zeros in its place.
                - ``wrong_size``: the size in the answer to HEAD is ``by`` larger.
                - ``no_commit``, ``no_etag``: the answer to HEAD lacks the header.
                - ``status``: an error of status ``code`` (500) with ``error_code``, ``message`` and ``headers``.
                - ``html``: 200 and a page, ``body``, in place of the answer.
                - ``other``: another file, ``body``, under the same commit, with ``etag`` or the one that it has in git.
                - ``redirect_loop``: a redirect to itself, without end.
                - ``slow_start``: wait ``seconds``, then answer.
                - ``hangup``: close without an answer.

                The first nine use up their ``times`` on the bytes of a file only, not on a redirect to it. A write
                that gets an error, or no answer, is not done. Waiting ends when the client leaves.
            times: how often; None for always.
            on: method; by default HEAD for ``wrong_size``, ``no_commit`` and ``no_etag``, else GET.
            options: of the kind, as above.
        """
        if kind not in FAULTS:
            raise ValueError(f"kind={kind!r}: must be one of {', '.join(FAULTS)}")
        if unknown := options.keys() - FAULTS[kind].keys():
            raise ValueError(f"{kind!r} has no option {', '.join(sorted(unknown))}; it has {', '.join(FAULTS[kind])}")
        if on is None:
            on = "HEAD" if kind in ("wrong_size", "no_commit", "no_etag", "headers") else "GET"
        with self.lock:
            self.faults.append(Fault(path_suffix, kind, times, on, {**FAULTS[kind], **options}))

    def take_fault(self, request: Request, reply: Reply) -> Fault | None:
        for fault in self.faults:
            if fault.concerns(request, reply):
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def asked(self, server: str | None = None) -> list[str]:
        """Return "METHOD PATH" of every request (to one of the servers), in order."""
        return [str(request) for request in self.requests if server in (None, request.server)]

    def reply(self, request: Request, raw: str) -> Reply:
        try:
            return self.answer(request, raw)
        except Error as error:
            return error.reply

    def answer(self, request: Request, raw: str) -> Reply:
        raise NotImplementedError


def hold_port() -> socket.socket:
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


class FileServer(Server):
    """Plain files by URL, with ranges, without ETag.

    Args:
        files: contents by path, such as ``{"weights/vgg.pth": b"..."}``; may be changed later.
    """

    names = ("files",)

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        super().__init__()
        self.files = dict(files or {})

    def url(self, path: str) -> str:
        return f"{self.endpoint}/{quote(path)}"

    def answer(self, request: Request, raw: str) -> Reply:
        data = self.files.get(request.path.removeprefix("/"))
        if data is None:
            return Reply(404, {"Content-Type": "text/plain"}, b"no such file\n")
        return Reply(200, {"Content-Type": "application/octet-stream"}, data, content=True)


@dataclass(frozen=True)
class Blob:
    data: bytes = field(repr=False)
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git itself holds: a pointer in place of a large file."""
        if not self.lfs:
            return self.data
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
            self.sha256.encode(),
            len(self.data),
        )

    @property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.pointer) + self.pointer).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    summary: str
    description: str
    files: Mapping[str, Blob] = field(repr=False)
    parent: str | None


@dataclass
class Repo:
    repo_id: str
    private: bool = False
    gated: bool = False
    tokens: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, revision: str, files: Mapping[str, Blob], summary: str, description: str = "") -> Commit:
        parent = self.refs.get(revision)
        text = [self.repo_id, str(len(self.commits)), str(parent), summary]
        text += [f"{path} {blob.git_oid}" for path, blob in sorted(files.items())]
        oid = hashlib.sha1("\n".join(text).encode()).hexdigest()
        self.commits[oid] = Commit(oid, summary, description, dict(files), parent)
        self.refs[revision] = oid
        return self.commits[oid]

    def at(self, revision: str) -> Commit:
        oid = self.refs.get(revision, revision)
        if oid not in self.commits:
            raise Error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]


class HubServer(Server):
    """A Hub with the models that a test gives it or a client creates.

    Reading a public repository needs no token; writing, and reading a private one, does. As on the Hub, an unknown
    token is refused even where none is needed, and the store refuses a request with an Authorization header.

    Args:
        token: of the user ``user``, who may read and write everything.
        user: the account's name.

    Attributes:
        upload_mode: "regular" or "lfs" to say so of every file that is uploaded; None to go by name and size.
        lfs_patterns: names of files that are uploaded as large files.
        lfs_size: in bytes; larger files are uploaded as large files.
    """

    names = ("hub", "store")

    def __init__(self, token: str = "hf_test", user: str = "someone") -> None:
        super().__init__()
        self.token = token
        self.user = user
        self.upload_mode: Literal["regular", "lfs"] | None = None
        self.lfs_patterns: tuple[str, ...] = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.onnx", "*.png")
        self.lfs_size = 10 * 1024 * 1024
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}

    @property
    def store(self) -> str:
        return f"http://localhost:{self.ports['store']}"

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        lfs: Iterable[str] = ("*.safetensors",),
        revision: str = "main",
        private: bool = False,
        gated: bool = False,
        token: str | None = None,
    ) -> str:
        """Commit ``files`` to a repository, new or known, and return the 40-hex commit.

        Args:
            repo_id: such as "someone/thing".
            files: everything that the commit holds; files of the parent that are not listed are gone.
            lfs: patterns of the files that are large files.
            revision: the branch, or another name such as "v1"; it moves to the commit.
            private: whether reading needs a token.
            gated: whether reading the files (not the list) needs a token.
            token: one more that may read (and write) this repository.
        """
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo(repo_id))
            repo.private, repo.gated = private, gated
            if token is not None:
                repo.tokens.add(token)
            blobs = {path: Blob(data, any(fnmatch(path, one) for one in lfs)) for path, data in files.items()}
            self.objects.update((blob.sha256, blob.data) for blob in blobs.values() if blob.lfs)
            return repo.commit(revision, blobs, "Add files").oid

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Return what a repository holds, by path."""
        with self.lock:
            return {path: blob.data for path, blob in self.repos[repo_id].at(revision).files.items()}

    def log(self, repo_id: str, revision: str = "main") -> list[Commit]:
        """Return the commits of a branch, the newest first."""
        with self.lock:
            repo, found = self.repos[repo_id], []
            oid: str | None = repo.at(revision).oid
            while oid is not None:
                found.append(repo.commits[oid])
                oid = found[-1].parent
            return found

    # Answers ---------------------------------------------------------------------------------------------------------

    def answer(self, request: Request, raw: str) -> Reply:
        if request.server == "store":
            return self.answer_store(request)
        token = self.token_of(request)
        if raw == "/api/agent-harnesses":
            return json_reply({"standardEnvVars": [], "harnesses": {}})
        if raw == "/api/whoami-v2":
            return self.whoami(token)
        if raw == "/api/validate-yaml":
            return json_reply({"errors": [], "warnings": []})
        if raw == "/api/repos/create":
            return self.create(request, token)
        if raw.startswith("/api/models/"):
            return self.answer_api(request, raw.removeprefix("/api/models/"), token)
        if "/resolve/" in raw and request.method in ("HEAD", "GET"):
            return self.resolve(raw, token)
        if ".git/info/lfs/objects/" in raw and request.method == "POST":
            return self.lfs(request, raw, token)
        raise Error(404, f"the test server does not know {request}")

    def answer_store(self, request: Request) -> Reply:
        if "authorization" in request.headers:
            return Reply(400, {"Content-Type": "text/plain"}, b"Only one auth mechanism allowed")
        *_, oid, name = request.path.split("/")
        if request.method == "PUT":
            if hashlib.sha256(request.body).hexdigest() != oid:
                return Reply(400, {"Content-Type": "text/plain"}, b"BadDigest")
            self.objects[oid] = request.body
            return Reply()
        if oid not in self.objects:
            return Reply(404, {"Content-Type": "text/plain"}, b"NoSuchKey")
        headers = {"Content-Type": "application/octet-stream", "Content-Disposition": f'inline; filename="{name}";'}
        return Reply(200, headers, self.objects[oid], content=True)

    def token_of(self, request: Request) -> str | None:
        header = request.headers.get("authorization")
        if header is None:
            return None
        token = header.removeprefix("Bearer ")
        if token != self.token and not any(token in repo.tokens for repo in self.repos.values()):
            raise Error(401, "Invalid credentials in Authorization header")
        return token

    def open_repo(self, repo_id: str, token: str | None, *, write: bool = False) -> Repo:
        repo = self.repos.get(repo_id)
        allowed = token is not None and (token == self.token or (repo is not None and token in repo.tokens))
        if repo is None or (repo.private and not allowed):
            # The Hub does not tell a stranger whether a private repository exists.
            raise Error(401 if token is None else 404, "Repository not found", "RepoNotFound")
        if write and token is None:
            raise Error(401, "Invalid username or password.")
        if write and not allowed:
            raise Error(403, "You don't have the rights to push to this repository")
        return repo

    def resolve(self, raw: str, token: str | None) -> Reply:
        left, _, right = raw.partition("/resolve/")
        revision, _, path = (unquote(part) for part in right.partition("/"))
        repo = self.open_repo(unquote(left).removeprefix("/"), token)
        if repo.gated and token is None:
            raise Error(401, f"Access to model {repo.repo_id} is restricted.", "GatedRepo")
        if repo.gated and token not in {self.token, *repo.tokens}:
            raise Error(403, f"Access to model {repo.repo_id} is restricted.", "GatedRepo")
        commit = repo.at(revision)
        if path not in commit.files:
            raise Error(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.oid})
        blob = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "Content-Disposition": f'inline; filename="{path.split("/")[-1]}";'}
        if not blob.lfs:
            headers |= {"ETag": f'"{blob.git_oid}"', "Content-Type": "text/plain; charset=utf-8"}
            return Reply(200, headers, blob.data, content=True)
        headers |= {
            "Location": f"{self.store}/{quote(repo.repo_id)}/{blob.sha256}/{quote(path.split('/')[-1])}?signature=test",
            "ETag": f'"{hashlib.md5(blob.data, usedforsecurity=False).hexdigest()}"',
            "X-Linked-Etag": f'"{blob.sha256}"',
            "X-Linked-Size": str(len(blob.data)),
            "Content-Type": "text/plain; charset=utf-8",
        }
        return Reply(302, headers, b"Found. Redirecting to the store")

    def whoami(self, token: str | None) -> Reply:
        if token is None:
            raise Error(401, "Invalid username or password.")
        access = {"displayName": "test", "role": "write"}
        return json_reply(
            {
                "type": "user",
                "id": "0",
                "name": self.user,
                "fullname": self.user,
                "isPro": False,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": access},
            }
        )

    def create(self, request: Request, token: str | None) -> Reply:
        if token is None:
            raise Error(401, "Invalid username or password.")
        wanted = json.loads(request.body)
        if wanted.get("type", "model") != "model":
            raise Error(400, "the test server holds models only")
        repo_id = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        known = {"url": f"{self.endpoint}/{repo_id}", "name": repo_id}
        if repo_id in self.repos:
            return json_reply({"error": "You already created this model repo", **known}, 409)
        private = wanted.get("private") is True or wanted.get("visibility") == "private"
        self.repos[repo_id] = Repo(repo_id, private=private)
        self.repos[repo_id].commit("main", {}, "initial commit")
        return json_reply({**known, "id": repo_id})

    def answer_api(self, request: Request, rest: str, token: str | None) -> Reply:
        parts = [unquote(part) for part in rest.split("/")]
        actions = ("revision", "tree", "paths-info", "refs", "commits", "preupload", "commit", "branch", "tag")
        length = 1 if len(parts) == 1 or parts[1] in actions else 2
        writes = request.method != "GET" and parts[length : length + 1] != ["paths-info"]
        repo = self.open_repo("/".join(parts[:length]), token, write=writes)
        match request.method, parts[length:]:
            case "GET", []:
                return self.info(repo, "main", request.query)
            case "GET", ["revision", revision]:
                return self.info(repo, revision, request.query)
            case "GET", ["tree", revision, *path]:
                return self.tree(repo.at(revision), "/".join(path), "recursive=true" in request.query.lower())
            case "POST", ["paths-info", revision]:
                paths = parse_qs(request.body.decode()).get("paths", [])
                files = repo.at(revision).files
                return json_reply([file_entry(path, files[path]) for path in paths if path in files])
            case "GET", ["refs"]:
                branches = [
                    {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in repo.refs.items()
                ]
                return json_reply({"branches": branches, "converts": [], "tags": []})
            case "POST", ["preupload", revision]:
                return self.preupload(repo, revision, json.loads(request.body)["files"])
            case "POST", ["commit", revision]:
                return self.commit(repo, revision, request)
            case "POST", ["branch" | "tag" as action, name]:
                wanted = json.loads(request.body or b"{}")
                if action == "tag":
                    name, wanted = wanted["tag"], {"startingPoint": name}
                if name in repo.refs:
                    raise Error(409, "Reference already exists")
                repo.refs[name] = repo.at(wanted.get("startingPoint") or "main").oid
                return json_reply({})
        raise Error(404, f"the test server does not know {request}")

    def info(self, repo: Repo, revision: str, query: str) -> Reply:
        commit = repo.at(revision)
        siblings: list[dict[str, object]] = []
        for path, blob in commit.files.items():
            entry: dict[str, object] = {"rfilename": path}
            if "blobs=true" in query.lower():
                more = file_entry(path, blob)
                entry |= {"size": more["size"], "blobId": more["oid"]}
                if blob.lfs:
                    entry["lfs"] = {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
            siblings.append(entry)
        return json_reply(
            {
                "_id": "0",
                "id": repo.repo_id,
                "modelId": repo.repo_id,
                "author": repo.repo_id.rpartition("/")[0],
                "sha": commit.oid,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "private": repo.private,
                "gated": "auto" if repo.gated else False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": siblings,
            }
        )

    def tree(self, commit: Commit, folder: str, recursive: bool) -> Reply:
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, object]] = {}
        for path, blob in sorted(commit.files.items()):
            if not path.startswith(prefix):
                continue
            inner = path.removeprefix(prefix).split("/")
            for depth in range(1, len(inner) if recursive else min(len(inner), 2)):
                name = prefix + "/".join(inner[:depth])
                oid = hashlib.sha1(name.encode()).hexdigest()
                entries.setdefault(name, {"type": "directory", "oid": oid, "size": 0, "path": name})
            if recursive or len(inner) == 1:
                entries[path] = file_entry(path, blob)
        if folder and not entries:
            raise Error(404, f"{folder} does not exist on {commit.oid}", "EntryNotFound")
        return json_reply(list(entries.values()))

    def preupload(self, repo: Repo, revision: str, wanted: list[dict[str, Any]]) -> Reply:
        files = repo.at(revision).files
        answers = []
        for one in wanted:
            path = one["path"]
            large = one["size"] > self.lfs_size or any(fnmatch(path, pattern) for pattern in self.lfs_patterns)
            answer = {
                "path": path,
                "uploadMode": self.upload_mode or ("lfs" if large else "regular"),
                "shouldIgnore": False,
            }
            if path in files:
                answer["oid"] = files[path].sha256 if files[path].lfs else files[path].git_oid
            answers.append(answer)
        return json_reply({"files": answers})

    def lfs(self, request: Request, raw: str, token: str | None) -> Reply:
        repo_id, _, action = unquote(raw).removeprefix("/").partition(".git/info/lfs/objects/")
        self.open_repo(repo_id, token, write=True)
        wanted = json.loads(request.body)
        if action == "verify":
            if len(self.objects.get(wanted["oid"], b"")) != wanted["size"]:
                raise Error(404, "the object is not in the store, or has another size")
            return json_reply({})
        objects = []
        for one in wanted["objects"]:
            answer: dict[str, object] = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.objects:
                verify = f"{self.endpoint}/{repo_id}.git/info/lfs/objects/verify"
                upload = f"{self.store}/{repo_id}/{one['oid']}/upload?signature=test"
                answer["authenticated"] = True
                answer["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
            objects.append(answer)
        return json_reply({"transfer": "basic", "objects": objects})

    def commit(self, repo: Repo, revision: str, request: Request) -> Reply:
        lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
        header = lines[0]["value"]
        parent = repo.at(revision)
        if header.get("parentCommit", parent.oid) != parent.oid:
            raise Error(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for line in lines[1:]:
            path, value = line["value"]["path"], line["value"]
            match line["key"]:
                case "file":
                    files[path] = Blob(base64.b64decode(value["content"]), lfs=False)
                case "lfsFile":
                    if value["oid"] not in self.objects:
                        raise Error(400, f"the store has no object {value['oid']} for {path}")
                    files[path] = Blob(self.objects[value["oid"]], lfs=True)
                case "deletedFile":
                    if files.pop(path, None) is None:
                        raise Error(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                case "deletedFolder":
                    files = {name: blob for name, blob in files.items() if not name.startswith(path.rstrip("/") + "/")}
                case key:
                    raise Error(400, f"the test server does not know {key}")
        answer: dict[str, object] = {"success": True, "hookOutput": ""}
        if "create_pr=1" in request.query:
            number = 1 + sum(name.startswith("refs/pr/") for name in repo.refs)
            revision = f"refs/pr/{number}"
            repo.refs[revision] = parent.oid
            answer["pullRequestUrl"] = f"{self.endpoint}/{repo.repo_id}/discussions/{number}"
        made = repo.commit(revision, files, header["summary"], header.get("description", ""))
        return json_reply(
            {**answer, "commitOid": made.oid, "commitUrl": f"{self.endpoint}/{repo.repo_id}/commit/{made.oid}"}
        )


def file_entry(path: str, blob: Blob) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "oid": blob.git_oid, "size": len(blob.data), "path": path}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
    return entry


class Clock:
    """Stands in for the module `time` of a client under test: it notes how long the client would sleep, and goes on."""

    def __init__(self) -> None:
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
