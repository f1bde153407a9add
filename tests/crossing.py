"""Two processes that do the same at once, played by two threads."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest


def twice_at_once(
    call: Callable[[], Any], module: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Any], list[tuple[tuple, Any]]]:
    """What `call` gives to either of two threads, the second of which begins while the first is in `module.name`; and
    the arguments and the result of each call of that, in their order."""
    inside, leave, calls, real = threading.Event(), threading.Event(), [], getattr(module, name)

    def held(*given):
        found = real(*given)
        calls.append((given, found))
        inside.set()
        assert leave.wait(20)
        return found

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(module, name, held)
        made = [pool.submit(call)]
        assert inside.wait(20)
        made.append(pool.submit(call))
        time.sleep(0.2)
        leave.set()
        return [one.result() for one in made], calls
