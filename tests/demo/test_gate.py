"""The demo's gate, and its command: what can be reached, and what is refused in one line."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kfjax.cli import main
from kfjax.demo import gate


def ask(door: gate.Gate, path: str, method: str = "GET", body: bytes = b"", headers: dict | None = None):
    """(status, headers, text) that the gate, or the application behind it, answers."""
    told = {"content-length": str(len(body))} if headers is None else headers
    scope = {
        "type": "http", "method": method, "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in told.items()],
    }  # fmt: skip
    chunks = [{"type": "http.request", "body": body[k : k + 50], "more_body": True} for k in range(0, len(body), 50)]
    incoming = iter([*chunks, {"type": "http.request", "body": b"", "more_body": False}])
    sent = []

    async def receive():
        return next(incoming)

    async def send(message):
        sent.append(message)

    asyncio.run(door({**scope}, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"].decode()


@pytest.fixture
def door(tmp_path):
    """A gate before an application that repeats what it was sent."""

    async def echo(scope, receive, send):
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "take.mp4").touch()
    (tmp_path / "served" / "link").symlink_to("/etc")
    return gate.Gate(echo, tmp_path / "served", max_upload_bytes=1000, has_room=lambda: True)


def test_the_gate_serves_only_the_folder(door):
    own = door.folder
    assert ask(door, f"{gate.FILE}{own}/take.mp4")[0] == 200
    outside = [
        "/etc/passwd", "etc/passwd", "../../etc/passwd", f"{own}/../secret", f"{own}/link/passwd", f"{own}\0", "",
        "http://example.com/a.mp4", "file:///etc/passwd", f"{own}-other/take.mp4", "~/a",
    ]  # fmt: skip
    assert {path: ask(door, f"{gate.FILE}{path}")[0] for path in outside} == dict.fromkeys(outside, 403)


def test_the_gate_knows_few_routes(door):
    assert [ask(door, path)[0] for path in ("/", "/config", "/assets/index.js")] == [200] * 3
    closed = ["/docs", "/gradio_api/info", "/gradio_api/proxy=http://x", "/file=/etc/passwd", "/gradio_api/run/0"]
    assert {path: ask(door, path)[0] for path in closed} == dict.fromkeys(closed, 404)


def test_the_gate_lets_nothing_in_from_elsewhere(door):
    for path in ("/", "/docs"):
        policy = ask(door, path)[1][b"content-security-policy"].decode()
        assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy


def test_the_gate_reads_which_files_are_named(door):
    request = lambda path: json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}).encode()
    own = request(str(door.folder / "take.mp4"))
    assert ask(door, gate.JOIN, "POST", own)[::2] == (200, own.decode()), "handed on as it came"
    for path in ("/etc/passwd", "http://example.com/a.mp4", f"{door.folder}/../secret", "take.mp4"):
        assert ask(door, gate.JOIN, "POST", request(path))[0] == 403
    assert ask(door, gate.JOIN, "POST", b"{")[0] == 400
    assert ask(door, gate.JOIN, "POST", b"[" * 100_000)[0] == 400


def test_the_gate_bounds_sizes(door):
    assert ask(door, gate.UPLOAD, "POST", bytes(1000))[0] == 200
    assert ask(door, gate.UPLOAD, "POST", bytes(1001))[::2] == (413, "The file is too large: at most 1000 bytes.")
    assert ask(door, gate.UPLOAD, "POST", b"x", headers={})[0] == 411
    assert ask(door, gate.JOIN, "POST", b" " * (gate.MAX_REQUEST_BYTES + 1))[0] == 413
    door.has_room = lambda: False
    assert ask(door, gate.UPLOAD, "POST", b"x")[0] == 507


def test_the_command_refuses_in_one_line(capsys):
    for arguments, words in [
        (["--port", "-1"], "port -1"), (["--host", "192.0.2.1"], "192.0.2.1"),
        (["--prot", "1"], "--prot"),
    ]:  # fmt: skip
        assert main(["demo", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and words in said


def test_the_missing_extra_is_named(tmp_path):
    program = "import sys; sys.modules['gradio'] = None; from kfjax.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", program, "demo", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert ended.returncode == 2
    assert ended.stderr == "kfjax: error: gradio is not installed; pip install '.[demo]' in a clone of kfjax\n"
    assert list(tmp_path.iterdir()) == []
