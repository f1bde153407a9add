"""One question to an endpoint of chat completions: patient with what passes, at once with what does not.

    chat = Chat("https://host/v1", "model", key=os.environ["NAME"])
    chat.ask("Answer with a number.", "How many legs has a dog?", int)       # 4

The key goes into one header and nowhere else: no message, no journal, and no other host, as redirects are not followed.
"""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, NoReturn, TypeVar

from kfjax.command import quoted

T = TypeVar("T")

#: What passes: too early, too much, and servers that are down or being restarted.
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
#: Bytes of an answer at most.
MOST_BYTES = 4 << 20
#: Seconds to wait at most before one attempt, whatever the server asks for.
MOST_WAIT = 120.0


class NonsenseError(Exception):
    """An answer came that is none."""


class _Stopped(Exception):
    """`Chat.stop` was called."""


class _PassingError(Exception):
    """What another attempt may mend; `wait`: the seconds that the server asks for."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Chat:
    """An endpoint, asked by any number of threads, together at most `per_minute` times a minute.

    Args:
      url: ".../v1" or the whole address that ends in "/chat/completions".
      key: sent as a bearer token; "" sends none.
      attempts: for each question, at most. Between them the wait doubles from `first_wait` seconds on, by chance up to
        half as long again, or is what the server says in `Retry-After`.
      timeout: seconds for one answer, all of it.

    Raises:
      ValueError: a bad address, key or number.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = "",
        per_minute: float = 60.0,
        attempts: int = 6,
        timeout: float = 60.0,
        first_wait: float = 1.0,
    ):
        self.url, self.model = _checked(url), model
        if not key.isascii() or not key.isprintable() or any(map(str.isspace, key)):
            raise ValueError("key: got characters that no header can hold, expected ASCII without spaces; correct it")
        for name, value in (("per_minute", per_minute), ("attempts", attempts), ("timeout", timeout)):
            if not value > 0:
                raise ValueError(f"{name}: got {value:g}, expected more than 0")
        self._key, self._attempts, self._timeout, self._first_wait = key, attempts, timeout, first_wait
        self._gap, self._next, self._lock, self._stop = 60 / per_minute, 0.0, threading.Lock(), threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirect)

    def stop(self) -> None:
        """For good: all waiting ends, and no question is sent any more; one that is under way ends at its answer."""
        self._stop.set()

    def ask(self, instruction: str, question: str, parse: Callable[[str], T]) -> T:
        """The parsed answer.

        Raises:
          NonsenseError: `parse` raised it at every attempt at which an answer came.
          ValueError: the endpoint refuses, or does not answer within the attempts.
        """
        messages = [{"role": "system", "content": instruction}, {"role": "user", "content": question}]
        body = json.dumps({"model": self.model, "messages": messages, "temperature": 0.2}).encode()
        for attempt in range(1, self._attempts + 1):
            self._take_turn()
            try:
                return parse(_content(self._sent(body)))
            except (_PassingError, NonsenseError) as error:
                if attempt == self._attempts:
                    if isinstance(error, NonsenseError):
                        raise
                    self._refuse(f"{error}, {attempt} times; what was answered is kept, run again to go on")
                wait = self._first_wait * 2 ** (attempt - 1) * random.uniform(1, 1.5)
                if isinstance(error, _PassingError) and error.wait is not None:
                    wait = error.wait
                self._pause(min(wait, MOST_WAIT))
        raise AssertionError("attempts is at least 1")

    def _take_turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        self._pause(turn - now)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)):
            raise _Stopped

    def _sent(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "kfjax"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                return self._read(answer)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in PASSING:
                    raise _PassingError(
                        f"got status {error.code}", _wait_of(error.headers.get("Retry-After"))
                    ) from None
                self._refuse(f"got status {error.code} ({self._detail(error)}); correct the address, model or key")
        except TimeoutError:
            raise _PassingError(f"got no answer within {self._timeout:g} seconds") from None
        except urllib.error.URLError as error:
            raise _PassingError(f"got no connection ({quoted(str(error.reason))})") from None
        except (HTTPException, OSError) as error:
            raise _PassingError(f"got an answer that breaks off ({type(error).__name__})") from None

    def _read(self, answer: Any) -> bytes:
        """All of it within the time: a server that sends a byte a second must not hold us for ever."""
        end, parts, size = time.monotonic() + self._timeout, [], 0
        while part := answer.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise NonsenseError(f"an answer of more than {MOST_BYTES >> 20} MiB")
            if time.monotonic() > end:
                raise TimeoutError
        if answer.length:
            raise _PassingError("got an answer that breaks off")
        return b"".join(parts)

    def _detail(self, error: urllib.error.HTTPError) -> str:
        """What the server says of it, without the key, which some repeat."""
        try:
            text = error.read(1 << 16).decode("utf-8", "replace")
        except (HTTPException, OSError):
            text = ""
        text = text.replace(self._key, "…") if self._key else text
        return quoted(" ".join(text.split()) or str(error.reason), 200)

    def _refuse(self, problem: str) -> NoReturn:
        raise ValueError(f"{self.url}: {problem}")


def _checked(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or any(map(str.isspace, url)) or not url.isascii():
        raise ValueError(f"endpoint: got {quoted(url)}, expected an address such as https://HOST/v1; correct it")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("endpoint: got an address with a name, password or query in it; leave them out, and give the "
                         "name of an environment variable with the key")  # fmt: skip
    url = url.rstrip("/")
    return url if url.endswith("/chat/completions") else f"{url}/chat/completions"


def _content(answer: bytes) -> str:
    """The text of the first choice. Raises NonsenseError."""
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise NonsenseError("an answer that is no chat completion") from None
    if not isinstance(content, str):
        raise NonsenseError("an answer without a text")
    return content


def _wait_of(value: str | None) -> float | None:
    """Seconds of a `Retry-After`, a number or a date; None where it says nothing."""
    if not value:
        return None
    try:
        return max(0.0, float(value)) if float(value) < float("inf") else MOST_WAIT
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
