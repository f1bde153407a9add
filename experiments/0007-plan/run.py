"""Plans of the paper's sizes on TPU pods with ten-second clips, one compile at a time, into results.json.

    python -m experiments 0007 [--only 6b:v6e-64 …]            compile what results.json does not have yet
    python -m experiments 0007 --only 6b:h200 --batch 8 64     these batches alone
    python -m experiments 0007 --print                         the table of what is there

Needs the `plan` extra, up to 11 GB of memory and 3 to 20 minutes of two processors a try. Every try is
written at once, refusals included; stop it at any time and start it again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.harness import ROOT, markdown, read_json, write_json

RESULTS = Path(__file__).with_name("results.json")
SIZES = ("1.5b", "3b", "6b")
TOPOLOGIES = ("h200", "v5e-64", "v6e-64", "v5p-256", "2xv5e-256", "2xv6e-256", "2xv5p-256")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cells = [f"{size}:{topology}" for topology in TOPOLOGIES for size in SIZES]
    parser.add_argument("--only", nargs="+", default=cells, metavar="SIZE:TOPOLOGY")
    parser.add_argument("--batch", nargs="+", type=int, metavar="N", help="clips a chip; default: find the largest")
    parser.add_argument("--print", action="store_true", help="print the table, compile nothing")
    args = parser.parse_args()
    if args.print:
        print("\n".join(table(read_json(RESULTS, []))))
        return
    for cell in args.only:
        size, _, topology = cell.partition(":")
        fill(size, topology, args.batch)


def of_cell(tries: list[dict], size: str, topology: str, sync_align: str = "timed") -> list[dict]:
    cell = (size, topology, sync_align)
    return [one for one in tries if (one["size"], one["topology"], one["sync_align"]) == cell]


def fill(size: str, topology: str, batches: list[int] | None) -> None:
    """Try batches until the largest that fits is known; or those that are given."""
    from kfjax.plan import topology as machines

    machines.leave_chips_alone(machines.find(topology))
    import jax

    from kfjax.plan.plan import DoesNotFit, Planner, next_batch, report, to_json
    from kfjax.train.config import load_config

    config = load_config(f"{ROOT}/configs/flow.py:{size}")
    planner = Planner(config, f"flow.py:{size}", machines.find(topology))
    while True:
        tried = {one["batch_per_chip"]: one["peak_bytes"] for one in of_cell(read_json(RESULTS, []), size, topology)}
        left = [b for b in batches or () if b not in tried]
        batch = next(iter(left), None) if batches else next_batch(tried, planner.capacity)
        if batch is None:
            return
        one = {"size": size, "topology": topology, "sync_align": "timed", "batch_per_chip": batch}
        try:
            plan = planner.plan(batch)
            one |= {"fits": True} | to_json(plan)
            print(report(plan), flush=True)
        except DoesNotFit as error:
            one |= {"fits": False, "peak_bytes": max(error.needed_bytes, 1.01 * planner.capacity)}
            print(error, flush=True)
        write_json(RESULTS, [*read_json(RESULTS, []), one])
        jax.clear_caches()


def table(tries: list[dict]) -> list[str]:
    """Markdown: the largest batch that fits, of every cell that was tried."""
    from kfjax.train.engine.flops import CHIPS

    header = [
        "model", "chips", "clips a chip", "memory of a chip, GiB", "state, GiB", "received per chip and step, GiB",
        "all-to-all", "lower bound of step time, s (limited by)", "clips/s at most", "utilisation at most",
    ]  # fmt: skip
    rows = []
    for topology in TOPOLOGIES:
        for size in SIZES:
            older = of_cell(tries, size, topology, "uniform")
            if not (done := of_cell(tries, size, topology) or older):
                continue
            fits = [one for one in done if one["fits"]]
            if not fits:
                rows.append([size, topology, "none fits", *[""] * 7])
                continue
            best = max(fits, key=lambda one: one["batch_per_chip"])
            kinds = {sent["kind"]: sent for sent in best["sent"]}
            wire = sum(sent["wire_bytes"] for sent in best["sent"]) / 2**30
            bound = max(best["bounds"], key=best["bounds"].get)
            seconds = best["bounds"][bound]
            peak, whole = best["peak_bytes"] / 2**30, CHIPS[best["chip"]].hbm_bytes / 2**30
            rows.append([
                size + ("*" if done is older else ""), f"{topology}: {best['chips']} {best['chip']}", largest(done),
                f"{peak:.1f} of {whole:.0f}", f"{best['memory']['arguments'] / 2**30:.2f}", f"{wire:.1f}",
                kinds["all-to-all"]["count"] if "all-to-all" in kinds else "none", f"{seconds:.2f} ({bound})",
                f"{best['batch'] / seconds:.0f}", f"{100 * best['mfu_bound']:.0f} %",
            ])  # fmt: skip
    return markdown(header, rows)


def largest(done: list[dict]) -> str:
    """The largest batch compiled, and what is known beyond it."""
    from kfjax.plan.plan import USABLE
    from kfjax.plan.topology import find
    from kfjax.train.engine.flops import CHIPS

    fits = {one["batch_per_chip"]: one["peak_bytes"] for one in done if one["fits"]}
    most = max(fits)
    if refused := min((one["batch_per_chip"] for one in done if not one["fits"]), default=0):
        return f"{most} ({refused} does not fit)"
    if len(fits) < 2:
        return f"at least {most}"
    least, found = min(fits), find(done[0]["topology"])
    slope = (fits[most] - fits[least]) / (most - least)
    room = USABLE[found.platform] * CHIPS[found.kind].hbm_bytes - fits[most]
    return f"at least {most}; {most + int(room / slope)} on the line through {least} and {most}"
