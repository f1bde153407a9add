"""`kfjax caption TABLE --output TABLE2`: captions from audio caption, video caption and tags."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from kfjax import command
from kfjax.data.captions.chat import Chat
from kfjax.data.captions.endpoint import EndpointFuser
from kfjax.data.captions.rules import RuleFuser
from kfjax.data.captions.table import FIELDS, caption_table


def main(argv: Sequence[str]) -> int:
    """Fuse a table's texts by rules, or by a language model behind an endpoint.

    Raises:
      ValueError: no such table, arguments that do not go together, an endpoint that refuses or stays away.
    """
    args = _parser().parse_args(argv)
    fuse = _fuser(args)
    counts = caption_table(args.table, args.output, fuse)
    print(f"{counts['captions']} captions in {counts['rows']} rows, {counts['changed']} of them new or changed")
    if isinstance(fuse, EndpointFuser):
        print(f"answered {fuse.asked}, known before {fuse.known}, by rules for want of an answer {fuse.ruled}")
    return 0


def _fuser(args: argparse.Namespace) -> RuleFuser | EndpointFuser:
    if args.endpoint is None:
        if alone := [f"--{name}" for name in ("model", "key-env") if getattr(args, name.replace("-", "_"))]:
            raise ValueError(
                f"{alone[0]}: got it without --endpoint, expected both; add --endpoint URL or leave it out"
            )
        return RuleFuser()
    if not args.model:
        raise ValueError("--model: got none, expected the name of a model at the endpoint; add --model NAME")
    chat = Chat(
        args.endpoint, args.model, key=_key(args.key_env), per_minute=args.per_minute, timeout=args.timeout,
        attempts=args.attempts,
    )  # fmt: skip
    journal = args.output.with_name(f"{args.output.name}.answers.jsonl")
    return EndpointFuser(chat, journal, batch=args.batch, at_once=args.at_once)


def _key(name: str | None) -> str:
    """What the environment variable holds; its value is shown nowhere."""
    if name is None:
        return ""
    if not name.isidentifier():  # a key where the name belongs must not be repeated
        raise ValueError(
            "--key-env: got no name of a variable, expected one such as MY_KEY; keep keys off command lines"
        )
    if not (key := os.environ.get(name, "").strip()):
        raise ValueError(f"--key-env: the environment variable {name} is not set; export it")
    return key


def _parser() -> command.Parser:
    parser = command.Parser(
        prog="kfjax caption", description="Captions of a table; run again to go on where an endpoint stopped."
    )
    add = parser.add_argument
    add("table", type=command.local_path, metavar="TABLE", help="a table (.csv, .tsv, .parquet) with some of the "
        f"columns {', '.join(FIELDS)}, as `kfjax extract` and `kfjax clean` read and write them")  # fmt: skip
    add("--output", type=command.local_path, required=True, metavar="TABLE2", help="the same table with captions")
    add(
        "--endpoint",
        metavar="URL",
        help="of chat completions, e.g. https://HOST/v1; without it rules do the work, offline",
    )
    add("--model", metavar="NAME", help="which model answers there")
    add("--key-env", metavar="NAME", help="environment variable with the key that it wants")
    add("--batch", type=int, default=8, metavar="N", help="clips in a request (default 8)")
    add("--at-once", type=int, default=4, metavar="N", help="requests under way at a time (default 4)")
    add("--per-minute", type=float, default=60.0, metavar="N", help="requests a minute at most (default 60)")
    add("--attempts", type=int, default=6, metavar="N", help="for each request, with growing waits (default 6)")
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds for an answer (default 60)")
    return parser
