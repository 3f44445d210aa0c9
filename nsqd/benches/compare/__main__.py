"""Measures this nsqd beside another one, such as NSQ's, by the same generator: python3 nsqd/benches/compare

Runs are interleaved, each on a fresh daemon and an empty data directory; every figure is the median of all pairs.
Build first: cargo build --profile dist --workspace. Without --reference only ours is measured. Keep the machine quiet.
"""

import argparse
import json
import pathlib
import signal
import statistics
import sys

import scale
import throughput
from daemon import Daemon

TARGET = pathlib.Path(__file__).parents[3] / "target" / "dist"
ROWS = throughput.ROWS + throughput.LATENCY_ROWS + throughput.SYNC_ROWS + scale.ROWS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", default=TARGET / "nsqd", type=pathlib.Path, help="our nsqd [target/dist/nsqd]")
    parser.add_argument("--reference", type=pathlib.Path, help="the nsqd to compare with, such as NSQ's")
    parser.add_argument("--nsq", default=TARGET / "nsq", type=pathlib.Path, help="the generator [target/dist/nsq]")
    parser.add_argument("--directory", type=pathlib.Path, help="where data directories are made [the system's]")
    parser.add_argument("--pairs", default=5, type=int, help="runs of each row and daemon [5]")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="append the figures to FILE, a line per row")
    parser.add_argument("--list", action="store_true", help="print the rows' names")
    parser.add_argument("rows", nargs="*", help="parts of the names of the rows to measure [all]")
    arguments = parser.parse_args()
    rows = [row for row in ROWS if not arguments.rows or any(part in row.name for part in arguments.rows)]
    if arguments.list:
        print("\n".join(row.name for row in rows))
        return 0
    if not rows:
        sys.exit("compare: no row has such a name; --list tells them")
    if arguments.pairs < 1:
        sys.exit("compare: --pairs must be at least 1")
    sides = {"ours": arguments.ours}
    if arguments.reference:
        sides["reference"] = arguments.reference
    for path in [*sides.values(), arguments.nsq]:
        if not path.is_file():
            sys.exit(f"compare: {path} is missing; cargo build --profile dist --workspace makes ours")
    # A kill from outside still ends the daemon that runs, and removes its directory.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    for row in rows:
        medians = measure(row, sides, arguments)
        print_row(row, medians)
        if arguments.json:
            with arguments.json.open("a") as file:
                file.write(json.dumps({"row": row.name, **medians}) + "\n")
    return 0


def measure(row, sides, arguments) -> dict[str, dict[str, float]]:
    """The medians of a row's figures, by side and figure."""
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for pair in range(min(arguments.pairs, row.most_pairs)):
        for side in sides if pair % 2 == 0 else reversed(sides):
            flags = row.flags + (row.our_flags if side == "ours" else row.reference_flags)
            with Daemon(sides[side], flags, arguments.directory) as daemon:
                runs[side].append(row.run(daemon, arguments.nsq))
    return {
        side: {figure: statistics.median(run[figure] for run in found) for figure in found[0]}
        for side, found in runs.items()
    }


def print_row(row, medians: dict[str, dict[str, float]]) -> None:
    print(f"\n{row.name}")
    ours, reference = medians["ours"], medians.get("reference")
    for figure, value in ours.items():
        line = f"  {figure:34} {value:14,.3f}"
        if reference:
            ratio = max(value, reference[figure]) / max(min(value, reference[figure]), 1e-9)
            line += f" {reference[figure]:14,.3f}   x {ratio:.1f}"
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
