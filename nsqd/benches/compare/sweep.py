"""The sweep: many small measurements, of which the worst ratios are printed.

A cell is one load. It runs with both daemons in turn, and its ratio is that of the medians: below 1, the reference is
faster. Rates of cells with rates below a few thousand depend on the machine's timers more than on the daemon.
"""

import dataclasses
import pathlib
import statistics
import subprocess
import tempfile

import throughput
from daemon import Daemon

BODY_SIZES = [10, 200, 2_000, 10_000, 100_000, 1_000_000]
WAITING_CONNECTIONS = [1, 8, 64, 256]
RDY_COUNTS = [1, 10, 100, 2_500]
CHANNELS = [1, 10, 100]
STREAMS = {"TLS": "--tls --tls-insecure", "snappy": "--snappy", "deflate": "--deflate"}
# Bytes that a backlog has at most, so that a cell takes seconds.
BACKLOG_BYTES = 400_000_000
# NSQ's default is 5 MiB for a batch.
BATCH_BYTES = 4_000_000
SECONDS = 2


@dataclasses.dataclass
class Cell:
    """A load: what it is, and the arguments of `nsq bench`."""

    name: str
    arguments: str


def cells() -> list[Cell]:
    found = []
    for size in BODY_SIZES:
        bodies = f"--size {size}"
        timed = f"{bodies} --duration {SECONDS}s"
        for connections in WAITING_CONNECTIONS:
            # Large bodies on many connections only measure the machine's memory.
            if size * connections <= 64_000_000:
                waiting = f"pub {timed} --connections {connections} --in-flight 1"
                found.append(Cell(f"PUB of {size} B, {connections} connections, each waiting", waiting))
        found.append(Cell(f"PUB of {size} B, pipelined", f"pub {timed}"))
        batch = min(200, BATCH_BYTES // size)
        found.append(Cell(f"MPUB of {batch} x {size} B, no consumer", f"pub {timed} --batch {batch}"))
        found.append(Cell(f"MPUB of {batch} x {size} B, a consumer", f"pubsub {timed} --batch {batch}"))
        for rdy in RDY_COUNTS:
            count = min(BACKLOG_BYTES // size, 20_000 if rdy == 1 else 400_000)
            found.append(Cell(f"backlog of {size} B, RDY {rdy}", f"sub {bodies} --preload {count} --rdy {rdy}"))
    for channels in CHANNELS:
        count = 200_000 // channels
        fanout = f"fanout --channels {channels} --batch 200 --messages {count}"
        found.append(Cell(f"1 topic, {channels} channels", fanout))
    for connections in WAITING_CONNECTIONS:
        http = f"pub --http --connections {connections} --duration {SECONDS}s"
        found.append(Cell(f"HTTP /pub, {connections} connections", http))
    for stream, flags in STREAMS.items():
        found.append(Cell(f"MPUB of 200, a consumer, {stream}", f"pubsub --batch 200 --duration {SECONDS}s {flags}"))
        waiting = f"pub --connections 8 --in-flight 1 --duration {SECONDS}s {flags}"
        found.append(Cell(f"PUB, 8 connections, each waiting, {stream}", waiting))
    return found


def run(chosen: list[Cell], sides: dict[str, pathlib.Path], nsq: pathlib.Path, pairs: int, parent) -> list[dict]:
    """Measures the cells, and prints each. Returns them with their figures and ratios, worst rate first."""
    results = []
    with tempfile.TemporaryDirectory(prefix="compare-tls-") as folder:
        flags = certificate(pathlib.Path(folder))
        for cell in chosen:
            measured: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
            for pair in range(pairs):
                for side in sides if pair % 2 == 0 else reversed(sides):
                    with Daemon(sides[side], flags, parent) as daemon:
                        measured[side].append(rate_and_cpu(throughput.bench(daemon, nsq, cell.arguments)))
            figures = {
                side: [statistics.median(run[index] for run in runs) for index in (0, 1)]
                for side, runs in measured.items()
            }
            (rate, cpu), (their_rate, their_cpu) = figures["ours"], figures["reference"]
            result = {
                "cell": cell.name,
                "messages_per_second": rate,
                "reference_messages_per_second": their_rate,
                "ratio": rate / max(their_rate, 1e-9),
                "cpu_ratio": cpu / max(their_cpu, 1e-9),
            }
            results.append(result)
            print_result(result)
    return sorted(results, key=lambda result: result["ratio"])


def rate_and_cpu(report: dict) -> tuple[float, float]:
    rate = (report.get("delivered") or report["published"])["messages_per_second"]
    return rate, report["server"]["cpu_us_per_message"]


def print_result(result: dict) -> None:
    print(
        f"{result['cell']:56} {result['messages_per_second']:12,.0f} {result['reference_messages_per_second']:12,.0f}"
        f"   rate x {result['ratio']:6.2f}   CPU x {result['cpu_ratio']:5.2f}",
        flush=True,
    )


def certificate(folder: pathlib.Path) -> list[str]:
    """Makes a certificate for 127.0.0.1. Returns the daemon's flags."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1".split()
    try:
        subprocess.run([*make, "-keyout", key, "-out", cert], check=True, capture_output=True)
    except FileNotFoundError:
        raise SystemExit("compare: openssl is missing; run apt-get install openssl") from None
    return [f"--tls-cert={cert}", f"--tls-key={key}"]
