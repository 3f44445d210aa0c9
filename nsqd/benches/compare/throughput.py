"""Rows that `nsq bench` measures: throughput, latency, synced publishing."""

import dataclasses
import json
import pathlib
import subprocess
from typing import Callable

from daemon import DEADLINE_SECONDS, Daemon


@dataclasses.dataclass
class Row:
    """One measurement. `run` gets a fresh daemon and the generator, and returns figures by name."""

    name: str
    run: Callable[[Daemon, pathlib.Path], dict[str, float]]
    flags: list[str] = dataclasses.field(default_factory=list)
    our_flags: list[str] = dataclasses.field(default_factory=list)
    reference_flags: list[str] = dataclasses.field(default_factory=list)
    most_pairs: int = 1_000


def bench(daemon: Daemon, nsq: pathlib.Path, arguments: str) -> dict:
    """Returns the report of `nsq bench --json`."""
    addresses = ["--nsqd-tcp", f"127.0.0.1:{daemon.tcp}", "--nsqd-http", f"127.0.0.1:{daemon.http}"]
    command = [nsq, "bench", *arguments.split(), *addresses, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    if done.returncode != 0:
        raise SystemExit(f"compare: nsq bench {arguments}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def throughput(arguments: str) -> Callable[[Daemon, pathlib.Path], dict[str, float]]:
    def run(daemon: Daemon, nsq: pathlib.Path) -> dict[str, float]:
        report = bench(daemon, nsq, arguments)
        figures = {
            "nsqd, us of CPU per message": report["server"]["cpu_us_per_message"],
            "generator, us of CPU per message": report["generator"]["cpu_us_per_message"],
            "messages/s": (report.get("delivered") or report["published"])["messages_per_second"],
        }
        if report.get("preload"):
            figures["messages/s of the preload"] = report["preload"]["messages_per_second"]
        return figures

    return run


def latency(rate: int) -> Callable[[Daemon, pathlib.Path], dict[str, float]]:
    def run(daemon: Daemon, nsq: pathlib.Path) -> dict[str, float]:
        report = bench(daemon, nsq, f"latency --rate {rate} --duration 10s")
        delivered, sent = report["latency_ms"]["delivered"], report["latency_ms"]["sent"]
        return {
            "p50, ms": delivered["p50"],
            "p99, ms": delivered["p99"],
            "p99 of the generator itself, ms": sent["p99"],
            "nsqd, us of CPU per message": report["server"]["cpu_us_per_message"],
        }

    return run


THROUGHPUT = {
    "MPUB of 200, publish only": "pub --batch 200 --messages 2000000",
    "MPUB of 200, a consumer keeping up": "pubsub --batch 200 --messages 1500000",
    "backlog, 1 consumer": "sub --preload 1000000 --consumers 1",
    "backlog, 2 consumers": "sub --preload 1000000 --consumers 2",
    "backlog, 8 consumers": "sub --preload 1000000 --consumers 8",
    "PUB, pipelined": "pub --messages 600000",
    "PUB, 8 connections, each waiting for its OK": "pub --connections 8 --in-flight 1 --messages 250000",
    "PUB, 64 connections, each waiting for its OK": "pub --connections 64 --in-flight 1 --messages 250000",
    "PUB of 100 KB, 2 connections": "pub --size 100000 --connections 2 --messages 12000",
    "MPUB of 50 x 10 KB": "pub --size 10000 --batch 50 --messages 100000",
    "backlog, 1 consumer with RDY 1": "sub --preload 50000 --rdy 1",
    "backlog of 10 KB, 1 consumer": "sub --preload 60000 --size 10000",
    "HTTP /pub, 8 keep-alive connections": "pub --http --connections 8 --messages 200000",
    "HTTP /mpub of 200 lines": "pub --http --batch 200 --connections 8 --messages 1000000",
    "1 topic, 10 channels": "fanout --channels 10 --batch 200 --messages 150000",
    "requeue once, then finish": "sub --preload 400000 --requeue",
}

ROWS = [Row(name, throughput(arguments)) for name, arguments in THROUGHPUT.items()]
ROWS.append(Row("all through disk", throughput("sub --preload 500000"), flags=["--mem-queue-size=0"]))

LATENCY_ROWS = [Row(f"latency at {rate:,} messages/s", latency(rate)) for rate in (100, 1_000, 10_000, 50_000)]

# The reference answers before its sync, so only its throughput shows the cost of a sync.
SYNCED = {"our_flags": ["--durability=sync"], "reference_flags": ["--mem-queue-size=0", "--sync-every=1"]}
SYNC_ROWS = [
    Row("synced, MPUB of 200", throughput("pub --batch 200 --duration 5s"), **SYNCED),
    Row("synced, PUB pipelined", throughput("pub --duration 5s"), **SYNCED),
    Row("synced, PUB on 1 connection", throughput("pub --in-flight 1 --duration 5s"), **SYNCED),
    Row("synced, PUB on 8 connections", throughput("pub --connections 8 --in-flight 1 --duration 5s"), **SYNCED),
    Row("synced, PUB on 64 connections", throughput("pub --connections 64 --in-flight 1 --duration 5s"), **SYNCED),
]
