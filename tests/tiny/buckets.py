"""A Google Cloud Storage and an S3 on this machine: emulators in processes of their own, each behind a proxy.

The proxies can be told to fail. Google's keeps to conditions on an object's generation, which its emulator does not
know.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

NAME = "kfjax-test"
#: For tests that take `in_bucket`: of both kinds one is enough at first, and S3's libraries take longer to load.
S3_ON_DEMAND = pytest.mark.parametrize("in_bucket", ["gs", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def emulator(module: str, *arguments: str):
    """The port of a server that `python -m module` runs."""
    port = _free_port()
    places = [argument.format(port=port) for argument in arguments]
    with subprocess.Popen([sys.executable, "-m", module, *places], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        try:
            while True:
                assert process.poll() is None, f"{module} ended"
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield port
        finally:
            process.kill()


class Store:
    """What the proxy does to requests, besides passing them on.

    Attributes:
      fail_every: every so many-th request is answered 503; 0 = none.
      status: answer every request with it; 0 = none.
      cut: how many more bodies of objects lose their second half.
      seen: "METHOD PATH" of every request.
    """

    def __init__(self, port: int, expired: int):
        self.upstream, self.expired, self.seen = port, expired, []
        self.one = threading.Lock()  # the emulator shows an object before what it says of it
        self.calm()

    def downloads(self, folder: Path, name: str = "") -> list[str]:
        """Requests for what lies in `folder`, `name` in its name: what other tests read ahead may still be coming."""
        asked = [line for line in self.seen if line.startswith("GET /download/") and f"/{folder.name}%2F" in line]
        return [line for line in asked if name in line]

    def expire(self) -> None:
        """Refuse credentials from now on."""
        self.status = self.expired

    def calm(self) -> None:
        """Fail no more."""
        self.fail_every = self.status = self.cut = 0

    @contextmanager
    def serving(self, answers: type["_Handler"]):
        """Answers on a port of its own while the block runs."""
        handler = type("Handler", (answers,), {"store": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # whoever asked has gone
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def impatient(monkeypatch) -> None:
    """The library's waits between its tries take no time."""
    import gcsfs.retry

    async def at_once(_):
        pass

    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=at_once))


class _Handler(BaseHTTPRequestHandler):
    """Fails as the store is told to, or passes a request on."""

    protocol_version = "HTTP/1.1"
    store: Store
    refusal = unavailable = b""

    def _pass(self) -> None:
        store, body = self.store, self._body()
        store.seen.append(f"{self.command} {self.path}")
        if store.status:
            return self._answer(store.status, self.refusal if store.status == store.expired else self.unavailable)
        if store.fail_every and len(store.seen) % store.fail_every == 0:
            return self._answer(503, self.unavailable)
        self._forward(body)

    def _forward(self, body: bytes) -> None:
        raise NotImplementedError

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]):
        ours = ("content-length", "transfer-encoding", "connection", "accept-encoding")
        kept = {name: value for name, value in headers.items() if name.lower() not in ours}
        with self.store.one, closing(http.client.HTTPConnection("127.0.0.1", self.store.upstream, timeout=60)) as asked:
            asked.request(method, path, body, kept)
            answer = asked.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def _answer(self, status: int, data: bytes, headers=None, *, short: bool = False) -> None:
        self.send_response_only(status)
        for name, value in (headers or {"Content-Type": "application/json"}).items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        size = (headers or {}).get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", size or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if short else data)
        if short:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _pass

    def log_message(self, *_):
        pass


class _Google(_Handler):
    refusal = b'{"error": {"message": "Invalid Credentials"}}'
    unavailable = b'{"error": {"message": "Service Unavailable"}}'

    def _forward(self, body: bytes) -> None:
        store = self.store
        if self.command == "DELETE" and "upload_id=" in self.path:
            return self._answer(499, b"{}")  # an upload in pieces is given up
        path, headers = self.path, dict(self.headers)
        named = path
        if "uploadType=multipart" in path:
            named, data = _single(path, body)
            if data:  # the emulator reads such parts as mail; an empty object it takes only so, of JSON only the values
                path, body, headers["Content-Type"] = named, data, "application/octet-stream"
        generation = self._generation(named)
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(named).query)
        if query.get("ifGenerationMatch", [generation]) != [generation]:
            return self._answer(412, b'{"error": {"message": "conditionNotMet"}}')
        if generation != "0" and query.get("ifGenerationNotMatch") == [generation]:
            return self._answer(304, b"")
        status, headers, data = self._ask(self.command, path, body, headers)
        headers["x-goog-generation"] = generation
        if store.cut and status in (200, 206) and ("alt=media" in self.path or "/download/" in self.path) and data:
            store.cut -= 1
            return self._answer(status, data, headers, short=True)
        return self._answer(status, data, headers)

    def _generation(self, path: str) -> str:
        """Of the object that a request reads or writes: the emulator neither tells it nor heeds conditions on it."""
        asked = urllib.parse.urlsplit(path)
        query, (_, _, rest) = urllib.parse.parse_qs(asked.query), asked.path.partition("/b/")
        bucket, _, name = rest.partition("/o")
        name = name.removeprefix("/") or urllib.parse.quote(query.get("name", [""])[0], safe="")
        if not name or not ("alt" in query or "name" in query):
            return "0"
        status, _, data = self._ask("GET", f"/storage/v1/b/{bucket}/o/{name}", b"", {})
        return json.loads(data)["generation"] if status == 200 else "0"


class _Amazon(_Handler):
    refusal = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
    unavailable = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"

    def _forward(self, body: bytes) -> None:
        status, headers, data = self._ask(self.command, self.path, body, dict(self.headers))
        if self.store.cut and self.command == "GET" and status in (200, 206) and "list-type" not in self.path:
            self.store.cut -= 1
            return self._answer(status, data, headers, short=True)
        return self._answer(status, data, headers)


def _single(path: str, body: bytes) -> tuple[str, bytes]:
    """The request that uploads the same object in one part, from gcsfs's in two: its description and its contents."""
    boundary = body.partition(b"\n")[0]
    _, description, contents = body.split(boundary, 2)
    name = json.loads(description.partition(b"\n\n")[2])["name"]
    data = contents.partition(b"\n\n")[2]
    single = f"uploadType=media&name={urllib.parse.quote(name, safe='')}"
    return path.replace("uploadType=multipart", single), data[: data.rindex(b"\n" + boundary)]


@contextmanager
def google():
    """A `Store` with the bucket `gs://kfjax-test`, for this process and those that it starts."""
    arguments = "start", "--host", "127.0.0.1", "--port", "{port}", "--in-memory", "--default-bucket", NAME
    with emulator("gcp_storage_emulator", *arguments) as port:
        store = Store(port, 401)
        with store.serving(_Google) as own:
            address = f"http://127.0.0.1:{own}"
            nobody = f"127.0.0.1:{_free_port()}"  # where Google's machines find credentials
            with environment(
                STORAGE_EMULATOR_HOST=address,
                TENSORSTORE_GCS_HTTP_URL=address,
                GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false",
                GCE_METADATA_HOST=nobody,
                GCE_METADATA_IP=nobody,
                GCE_METADATA_ROOT=nobody,
                NO_GCE_CHECK="true",
            ):
                yield store


@contextmanager
def amazon():
    """A `Store` with the bucket `s3://kfjax-test`, for this process and those that it starts."""
    with emulator("moto.server", "-H", "127.0.0.1", "-p", "{port}") as port:
        with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            connection.request("PUT", f"/{NAME}")
            assert connection.getresponse().status == 200
        store = Store(port, 403)
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        with store.serving(_Amazon) as own, environment(AWS_ENDPOINT_URL=f"http://127.0.0.1:{own}", **keys):
            yield store


@contextmanager
def environment(**variables: str):
    """Variables for the block; clients made before it are forgotten, as are its own."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    _forget()
    try:
        yield
    finally:
        _forget()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _forget() -> None:
    from kfjax.storage import bucket

    bucket._store.cache_clear()
    for module, name in (("gcsfs", "GCSFileSystem"), ("s3fs", "S3FileSystem")):
        if loaded := sys.modules.get(module):
            getattr(loaded, name).clear_instance_cache()
