"""`kfjax demo [--model NAME|FOLDER] [--port N]`: the page at http://127.0.0.1:7860, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kfjax import command
from kfjax.commands.jobs import EXAMPLE

if TYPE_CHECKING:
    from kfjax.pipeline import Model

TEXT = """\
A web page: upload or record a clip, or write a prompt, hear the sound, and change parts of it.

  kfjax demo                                   http://127.0.0.1:7860, for this machine alone; Ctrl-C ends it
  kfjax demo --model mmaudio-large-44k-v2      with a model that knows real footage
  kfjax demo --host 0.0.0.0 --port 8000        for whoever reaches this machine, without a password

Requests are made one after the other. Uploads and results are deleted when their page is closed, and all when the
server ends. Page and server ask no other host for anything.
"""
PORT = 7860
SWEEP_SECONDS = 30.0
#: Starting points that the page offers: a clip or none, and a prompt from the built-in model's world.
EXAMPLES = [
    (EXAMPLE, "glass balls fall on the ground"),
    (EXAMPLE, "a wooden ball bounces on the floor"),
    (None, "heavy rain"),
    (None, "a clock ticks fast"),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = command.Parser(prog="kfjax demo", description=TEXT, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    command.add_model(add)
    command.add_dtype(add)
    add("--host", default="127.0.0.1", help="address to listen on; default 127.0.0.1: this machine alone")
    add("--port", type=int, default=PORT, help=f"default {PORT}; 0: any free one")
    add("--max-seconds", type=float, default=30.0, metavar="SECONDS", help="longest clip (default 30)")
    add("--max-megabytes", type=float, default=64.0, metavar="MB", help="largest clip (default 64)")
    add("--max-samples", type=int, default=4, metavar="N", help="most versions at a time (default 4)")
    args = parser.parse_args(argv)
    with _listener(args.host, args.port) as listener, _folder() as folder:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the folder goes
        _serve(args, folder, listener)
    return 0


def _serve(args: Namespace, folder: Path, listener: socket.socket) -> None:
    from kfjax import pipeline
    from kfjax.demo import page as pages
    from kfjax.demo.studio import Studio
    from kfjax.demo.wish import Limits

    limits = replace(Limits(), seconds=args.max_seconds, megabytes=args.max_megabytes, samples=args.max_samples)
    studio = Studio(pipeline.load(args.model, dtype=args.dtype), folder, limits)
    knows, card = _about(args.model, studio.model)
    page = pages.build(studio, title="kfjax", knows=knows, card=card, examples=EXAMPLES)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with pages.serving(page, studio, listener):
        host = f"[{args.host}]" if ":" in args.host else args.host
        print(f"http://{host}:{listener.getsockname()[1]}", flush=True)
        while not ended.wait(SWEEP_SECONDS):
            studio.sweep()
        studio.close()


def _about(name: str, model: Model) -> tuple[str, str]:
    """What a model knows, in one sentence, and its card, empty where there is none."""
    from kfjax.pipeline import BUILT_IN, SMALL_WORLD, cache_folder
    from kfjax.system import CARD

    if model.built_in:
        folder, knows = BUILT_IN, f"{SMALL_WORLD[0].upper()}{SMALL_WORLD[1:]}; real footage is beyond it."
    else:
        folder, knows = Path(name), f"The model is {Path(name).resolve().name}."
    cards = [place / CARD for place in (folder, cache_folder() / "models" / name)]
    return knows, next((card.read_text(errors="replace") for card in cards if card.is_file()), "")


@contextmanager
def _folder() -> Iterator[Path]:
    """The folder of all files, deleted at the end; the framework is told of it before it is imported.

    Whatever the environment says to the framework is dropped: it could open other folders, or report home.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="kfjax-demo-", ignore_cleanup_errors=True) as folder:
        os.environ |= {
            "GRADIO_TEMP_DIR": folder,
            "GRADIO_EXAMPLES_CACHE": str(Path(folder) / "unused"),
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",  # events between two summaries, which nobody reads
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        yield Path(folder).resolve()


def _listener(host: str, port: int) -> socket.socket:
    """A socket at the port, or at a free one for 0: ours from the start, however long a model takes to load.

    Raises:
      ValueError: it can't be had.
    """
    listener = None
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
        return listener
    except (OSError, OverflowError) as error:
        if listener is not None:
            listener.close()
        raise ValueError(f"got {host}, port {port}, which can't be listened on ({error}); give another") from None


if __name__ == "__main__":
    sys.exit(command.run(main, sys.argv[1:]))
