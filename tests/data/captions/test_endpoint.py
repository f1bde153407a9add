"""Captions from an endpoint that misbehaves: nothing is asked twice, nothing lost, and the key is shown to nobody."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kfjax.data.captions import chat as chats
from kfjax.data.captions.chat import Chat, NonsenseError
from kfjax.data.captions.endpoint import EndpointFuser, parse
from kfjax.data.captions.rules import Texts

KEY = "sk-SECRET-123"
CLIPS = [Texts(audio=f"sound {i}") for i in range(6)]
WANTED = [f"caption of sound {i}" for i in range(6)]


def completion(content) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


def good(clips: list[dict]) -> str:
    return json.dumps([f"Caption of {clip['audio']}." for clip in clips])


class Server(ThreadingHTTPServer):
    """Answers as `behave(number of the request, clips)` says: a status, headers and a body; or cuts off, or waits."""

    daemon_threads = True

    def __init__(self, behave):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave, self.seen, self.lock = behave, [], threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_):  # a client that has gone
        pass


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        clips = [json.loads(line) for line in body["messages"][1]["content"].splitlines()]
        with self.server.lock:
            self.server.seen.append((self.path, dict(self.headers), body, clips, time.monotonic()))
            number = len(self.server.seen)
        status, headers, content, *more = self.server.behave(number, clips)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if more:  # drip
            for byte in content:
                time.sleep(more[0])
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
        else:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(behave) -> Server:
        servers.append(Server(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fuser(server, tmp_path, batch=2, at_once=1, **options) -> EndpointFuser:
    options = {"key": KEY, "per_minute": 60_000, "first_wait": 0.001, "timeout": 5.0} | options
    return EndpointFuser(Chat(server.url, "tiny", **options), tmp_path / "answers.jsonl", batch=batch, at_once=at_once)


def answer(_, clips):
    return 200, {}, completion(good(clips))


def test_batches_are_answered_and_kept(serve, tmp_path):
    server = serve(answer)
    first = fuser(server, tmp_path, batch=4, at_once=3)
    assert first([*CLIPS, CLIPS[0], Texts()]) == [*WANTED, WANTED[0], ""]
    path, headers, body, clips, _ = server.seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}" and body["model"] == "tiny"
    assert sorted(len(seen[3]) for seen in server.seen) == [2, 4] and clips[0]["clip"] == 1
    assert (first.asked, first.known, first.ruled) == (6, 0, 0)
    again = fuser(server, tmp_path)
    assert again(CLIPS[::-1]) == WANTED[::-1] and (again.asked, again.known) == (0, 6)
    assert len(server.seen) == 2
    other = EndpointFuser(Chat(server.url, "larger"), tmp_path / "answers.jsonl")  # another model is asked anew
    assert other(CLIPS[:1]) == WANTED[:1] and len(server.seen) == 3
    assert KEY not in (tmp_path / "answers.jsonl").read_text()


BAD = {
    "too many": (429, {"Retry-After": "0"}, b"slow down"),
    "broken": (500, {}, b""),
    "overloaded": (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""),
    "cut": (200, {"Content-Length": "9999"}, b'{"choices": [{"mess'),
    "chunk": (200, {"Transfer-Encoding": "chunked"}, b"20\r\nabc"),
    "no json": (200, {}, b"<html>welcome</html>"),
    "no text": (200, {}, completion(None)),
    "no choices": (200, {}, b'{"choices": []}'),
    "prose": (200, {}, completion("Sorry, as a model I can't.")),
    "fewer": (200, {}, completion('["one"]')),
    "numbers": (200, {}, completion("[1, 2]")),
    "empty ones": (200, {}, completion('["", "  "]')),
    "deep": (200, {}, completion("[" * 100_000 + "]" * 100_000)),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_passes_is_tried_again(serve, tmp_path, kind):
    server = serve(lambda number, clips: BAD[kind] if number % 2 else answer(number, clips))
    made = fuser(server, tmp_path)
    assert made(CLIPS) == WANTED and made.ruled == 0
    assert len(server.seen) == 6  # every batch twice


def test_an_array_is_found_in_what_stands_around_it():
    assert parse('Sure:\n```json\n["A dog barks.", "Rain"]\n```', 2) == ["a dog barks", "rain"]
    for text in ("", "[]", "{}", "][", '["a", ["b"]]', '{"0": "a"}'):
        with pytest.raises(NonsenseError):
            parse(text, 2)


def test_a_slow_answer_is_given_up(serve, tmp_path):
    def behave(number, clips):
        return (*answer(number, clips), 0.02) if number == 1 else answer(number, clips)

    server = serve(behave)  # no pause is as long as the time limit: the whole is
    start = time.monotonic()
    assert fuser(server, tmp_path, batch=6, timeout=0.3)(CLIPS) == WANTED
    assert len(server.seen) == 2 and time.monotonic() - start < 3


def test_the_server_says_how_long_to_wait(serve, tmp_path, monkeypatch):
    server = serve(lambda number, clips: (429, {"Retry-After": "0.2"}, b"") if number == 1 else answer(number, clips))
    assert fuser(server, tmp_path, batch=6)(CLIPS) == WANTED
    first, second = (seen[4] for seen in server.seen)
    assert 0.19 < second - first < 2
    waits = []
    monkeypatch.setattr(Chat, "_pause", lambda self, seconds: waits.append(seconds))
    server = serve(lambda number, clips: (503, {"Retry-After": "86400"} if number == 3 else {}, b""))
    with pytest.raises(ValueError, match="got status 503, 4 times; what was answered is kept, run again to go on"):
        Chat(server.url, "tiny", attempts=4, first_wait=1.0).ask("", "{}", str)
    assert 1 <= waits[1] <= 1.5 and 2 <= waits[3] <= 3 and waits[5] == chats.MOST_WAIT  # between them the turns


def test_requests_keep_their_distance(serve, tmp_path):
    server = serve(answer)
    fuser(server, tmp_path, batch=1, at_once=4, per_minute=600)(CLIPS[:4])
    times = sorted(seen[4] for seen in server.seen)
    assert times[-1] - times[0] > 0.28


def test_a_clip_that_is_never_answered_gets_the_rules(serve, tmp_path):
    def behave(number, clips):
        odd = any(clip["audio"] == "sound 3" for clip in clips)
        return (200, {}, completion("no")) if odd else answer(number, clips)

    made = fuser(serve(behave), tmp_path, batch=4, attempts=2)
    assert made(CLIPS) == [*WANTED[:3], "sound 3", *WANTED[4:]]
    assert (made.asked, made.ruled) == (5, 1)


def test_a_stop_keeps_what_was_answered(serve, tmp_path):
    down = serve(lambda number, clips: answer(number, clips) if number <= 2 else (500, {}, b""))
    with pytest.raises(ValueError, match=r"chat/completions: got status 500, 3 times; .* run again to go on"):
        fuser(down, tmp_path, attempts=3)(CLIPS)
    journal = tmp_path / "answers.jsonl"
    assert len(journal.read_text().splitlines()) == 4
    with journal.open("a") as file:
        file.write('{"key": "half')  # killed while it wrote
    down.behave, asked = answer, len(down.seen)
    again = fuser(down, tmp_path)
    assert again(CLIPS) == WANTED and (again.known, again.asked) == (4, 2) and len(down.seen) == asked + 1


def test_a_damaged_line_costs_itself_alone(serve, tmp_path):
    server, journal = serve(answer), tmp_path / "answers.jsonl"
    fuser(server, tmp_path)(CLIPS)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], b'\xff{"key"\n', b"[1]\n", *lines[2:]]))
    again = fuser(server, tmp_path)
    assert again(CLIPS) == WANTED and (again.known, again.asked) == (5, 1)


def test_one_run_at_a_time(serve, tmp_path):
    inside, leave = threading.Event(), threading.Event()

    def behave(number, clips):
        inside.set()
        leave.wait(5)
        return answer(number, clips)

    server = serve(behave)
    thread = threading.Thread(target=fuser(server, tmp_path), args=(CLIPS[:1],))
    thread.start()
    inside.wait(5)
    with pytest.raises(ValueError, match="another run is at work there"):
        fuser(server, tmp_path)(CLIPS)
    leave.set()
    thread.join()


@pytest.mark.parametrize("status", [400, 401, 404, 422, 302])
def test_a_refusal_is_final_and_hides_the_key(serve, tmp_path, status, caplog, capfd):
    elsewhere = serve(answer)
    headers = {"Location": f"{elsewhere.url}/chat/completions"} if status == 302 else {}
    server = serve(lambda *_: (status, headers, f"no such key: Bearer {KEY}\n".encode()))
    with pytest.raises(ValueError, match=rf"got status {status} \(no such key: Bearer …\)") as refused:
        fuser(server, tmp_path)(CLIPS)
    assert len(server.seen) == 1 and not elsewhere.seen
    shown = capfd.readouterr()
    assert KEY not in str(refused.value) + caplog.text + shown.out + shown.err


def test_an_endless_answer_is_given_up(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(chats, "MOST_BYTES", 1000)
    server = serve(lambda *_: (200, {}, b" " * 5000))
    assert fuser(server, tmp_path, attempts=2)(CLIPS[:1]) == ["sound 0"]


def test_nobody_at_home(tmp_path):
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9/v1/chat/completions: got no connection \(.*\), 2 times"):
        Chat("http://127.0.0.1:9/v1/", "tiny", attempts=2, first_wait=0.001).ask("", "", str)


@pytest.mark.parametrize("url, message", [
    ("localhost:80/v1", "got localhost:80/v1, expected an address such as https://HOST/v1"),
    ("file:///etc/passwd", "expected an address"),
    ("http://", "expected an address"),
    ("http://a b/v1", "expected an address"),
    ("http://host:port/v1", "expected an address"),
    ("https://me:secret@host/v1", "an address with a name, password or query"),
    ("https://host/v1?key=secret", "an address with a name, password or query"),
])  # fmt: skip
def test_bad_addresses(url, message):
    with pytest.raises(ValueError, match=message) as refused:
        Chat(url, "tiny")
    assert "secret" not in str(refused.value)


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="key: got characters that no header can hold") as refused:
        Chat("http://host/v1", "tiny", key=f"{KEY}\r\nX: y")
    assert KEY not in str(refused.value)
    with pytest.raises(ValueError, match="per_minute: got 0, expected more than 0"):
        Chat("http://host/v1", "tiny", per_minute=0)
    with pytest.raises(ValueError, match="batch: got 0, expected at least 1"):
        EndpointFuser(Chat("http://host/v1", "tiny"), tmp_path / "a", batch=0)
    assert Chat("http://host/v1/chat/completions/", "tiny").url == "http://host/v1/chat/completions"
