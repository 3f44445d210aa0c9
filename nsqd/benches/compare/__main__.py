"""Compare this nsqd with another one, such as NSQ's, using the same load generator: python3 nsqd/benches/compare

Runs alternate between the two; each uses a fresh daemon and an empty data directory. Every figure is the median of all
pairs. Without --reference, only this nsqd is measured. Build first: cargo build --profile dist --workspace. Keep the machine
otherwise idle.
"""

import argparse
import json
import pathlib
import signal
import statistics
import sys

import scale
import sweep
import throughput
from daemon import Daemon

TARGET = pathlib.Path(__file__).parents[3] / "target" / "dist"
ROWS = throughput.ROWS + throughput.LATENCY_ROWS + throughput.SYNC_ROWS + scale.ROWS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", default=TARGET / "nsqd", type=pathlib.Path, help="nsqd [target/dist/nsqd]")
    parser.add_argument("--reference", type=pathlib.Path, help="nsqd to compare with, such as NSQ's")
    parser.add_argument("--nsq", default=TARGET / "nsq", type=pathlib.Path, help="nsq [default: target/dist/nsq]")
    parser.add_argument("--directory", type=pathlib.Path, help="parent of data directories [default: the system's]")
    parser.add_argument("--pairs", default=5, type=int, help="number of runs of each row with each daemon [default: 5]")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="append figures to FILE, one line per row")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument(
        "--sweep", action="store_true", help="measure many small loads instead, and print the ten worst ratios"
    )
    parser.add_argument("rows", nargs="*", help="measure only rows whose names contain one of these [default: all]")
    arguments = parser.parse_args()
    rows = [row for row in ROWS if not arguments.rows or any(part in row.name for part in arguments.rows)]
    cells = [cell for cell in sweep.cells() if not arguments.rows or any(part in cell.name for part in arguments.rows)]
    if arguments.list:
        print("\n".join(each.name for each in (cells if arguments.sweep else rows)))
        return 0
    if not (cells if arguments.sweep else rows):
        sys.exit("compare: no row name matches; --list prints the names")
    if arguments.pairs < 1:
        sys.exit("compare: --pairs must be at least 1")
    sides = {"ours": arguments.ours}
    if arguments.reference:
        sides["reference"] = arguments.reference
    for path in [*sides.values(), arguments.nsq]:
        if not path.is_file():
            sys.exit(f"compare: {path} is missing; run cargo build --profile dist --workspace to build this project")
    # On SIGTERM, stop the running daemon and remove its directory.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    if arguments.sweep:
        return run_sweep(cells, sides, arguments)
    for row in rows:
        medians = measure(row, sides, arguments)
        print_row(row, medians)
        if arguments.json:
            with arguments.json.open("a") as file:
                file.write(json.dumps({"row": row.name, **medians}) + "\n")
    return 0


def run_sweep(cells: list[sweep.Cell], sides: dict[str, pathlib.Path], arguments) -> int:
    if "reference" not in sides:
        sys.exit("compare: --sweep needs --reference")
    results = sweep.run(cells, sides, arguments.nsq, arguments.pairs, arguments.directory)
    print("\nworst ten, by rate")
    for result in results[:10]:
        sweep.print_result(result)
    if arguments.json:
        with arguments.json.open("a") as file:
            file.writelines(json.dumps(result) + "\n" for result in results)
    return 0


def measure(row, sides, arguments) -> dict[str, dict[str, float]]:
    """Returns the medians of a row's figures, by side and figure."""
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
