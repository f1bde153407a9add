"""The gate: the routes of the server that are open to the network. All other routes of the framework are closed.

An ASGI application around another. It lets through the page's own routes; files only from the demo's folder, and
requests only if every file they name lies there; bodies only of a stated size; and tells the browser to load nothing
from elsewhere, so that the page works offline and nobody learns that it was opened.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FILE, UPLOAD, JOIN = "/gradio_api/file=", "/gradio_api/upload", "/gradio_api/queue/join"
ROUTES = {
    "/", "/config", "/favicon.ico", "/robots.txt", "/manifest.json", "/theme.css", UPLOAD, JOIN,
    "/gradio_api/queue/data", "/gradio_api/upload_progress", "/gradio_api/cancel", "/gradio_api/reset",
    "/gradio_api/startup-events", "/gradio_api/theme.css",
}  # fmt: skip
FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")
#: The page compiles its own small scripts, hence unsafe-eval; nothing may come from, or go to, another host.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; form-action 'self'; base-uri 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
#: Of a request that is no upload.
MAX_REQUEST_BYTES = 200_000


class Refused(Exception):
    """A request that is answered with `status` and one line."""

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status, self.line = status, line


class Gate:
    """`app` behind the gate.

    Args:
      app: the ASGI application.
      folder: where all files that may be served or named lie.
      max_upload_bytes: of one upload, its form around it included.
      has_room: whether another upload may be taken in.
    """

    def __init__(self, app: App, folder: Path, max_upload_bytes: int, has_room: Callable[[], bool]):
        self.app, self.folder, self.max_upload_bytes, self.has_room = app, folder.resolve(), max_upload_bytes, has_room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # no route of the page is a websocket
        try:
            receive = await self._checked(scope, receive)
        except Refused as refusal:
            return await _answer(send, refusal)
        return await self.app(scope, receive, _with_headers(send))

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        path = scope["path"]
        if path.startswith(FILE):
            if not self.holds(path.removeprefix(FILE)):
                raise Refused(403, "There is no such file here.")
        elif path not in ROUTES and not path.startswith(FOLDERS):
            raise Refused(404, "There is nothing here.")
        if scope["method"] in ("GET", "HEAD"):
            return receive
        size = _declared_size(scope)
        if path == UPLOAD:
            if size > self.max_upload_bytes:
                raise Refused(413, f"The file is too large: at most {self.max_upload_bytes} bytes.")
            if not self.has_room():
                raise Refused(507, "The server has no room for more files at the moment: try again later.")
            return receive
        if size > MAX_REQUEST_BYTES:
            raise Refused(413, f"The request is too large: at most {MAX_REQUEST_BYTES} bytes.")
        return receive if path != JOIN else await self._only_own_files(receive)

    async def _only_own_files(self, receive: Receive) -> Receive:
        """Reads the request, refuses it if it names a file elsewhere (a path or an address), else hands it on."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            named = list(_named_files(json.loads(body)))
        except (ValueError, RecursionError):
            raise Refused(400, "The request is not valid JSON.") from None
        if not all(self.holds(path) for path in named):
            raise Refused(403, "A file in the request is not an upload.")
        rest = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again():
            return next(rest, None) or await receive()

        return again

    def holds(self, path: str) -> bool:
        """Whether a path names something inside the folder, links followed."""
        try:
            return Path(path).is_absolute() and Path(path).resolve().is_relative_to(self.folder)
        except (OSError, ValueError, RuntimeError):  # a null character, a name too long, a loop of links
            return False


def _named_files(data: Any):
    """Every `path` of every object in a request, however deep."""
    if isinstance(data, dict):
        if isinstance(data.get("path"), str):
            yield data["path"]
        for value in data.values():
            yield from _named_files(value)
    elif isinstance(data, list):
        for value in data:
            yield from _named_files(value)


def _declared_size(scope: Scope) -> int:
    """Content-Length, which the server holds the sender to; browsers always send it."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    raise Refused(411, "The request does not say how long it is.")


def _with_headers(send: Send) -> Send:
    async def sending(message):
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
        await send(message)

    return sending


async def _answer(send: Send, refusal: Refused) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.line.encode()})
