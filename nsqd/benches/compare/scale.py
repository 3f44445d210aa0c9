"""Rows about scale: idle connections, topics, deferred messages, restarts with a backlog."""

import pathlib
import signal
import statistics
import struct
import threading
import time

import wire
from daemon import Daemon, allow_many_files
from throughput import Row, bench

IDLE_SECONDS = 10
DEFERRED_BODY = 200


def settled_bytes(daemon: Daemon) -> int:
    """Returns the resident memory once it stays the same for a while."""
    before = daemon.resident_bytes()
    for _ in range(20):
        time.sleep(0.25)
        now = daemon.resident_bytes()
        if abs(now - before) < 64 << 10:
            break
        before = now
    return now


def idle_connections(count: int):
    def run(daemon: Daemon, _: pathlib.Path) -> dict[str, float]:
        allow_many_files()
        first = daemon.connect(daemon.tcp)
        wire.subscribe(first, "idle", "channel", 1)
        before = settled_bytes(daemon)
        connections = []
        for _ in range(count):
            connection = daemon.connect(daemon.tcp)
            wire.subscribe(connection, "idle", "channel", 1)
            connections.append(connection)
        each = (settled_bytes(daemon) - before) / count
        cpu = daemon.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        cpu = daemon.cpu_seconds() - cpu
        for connection in [first, *connections]:
            connection.close()
        return {"resident bytes per connection": each, "idle, ms of CPU per second": 1000 * cpu / IDLE_SECONDS}

    return run


def many_connections(count: int):
    def run(daemon: Daemon, nsq: pathlib.Path) -> dict[str, float]:
        allow_many_files()
        report = bench(daemon, nsq, f"pub --connections {count} --in-flight 1 --messages 500000")
        return {
            "nsqd, us of CPU per message": report["server"]["cpu_us_per_message"],
            "messages/s": report["published"]["messages_per_second"],
            "peak of resident bytes": report["server"]["resident_bytes_peak"],
        }

    return run


def topics(count: int):
    def run(daemon: Daemon, _: pathlib.Path) -> dict[str, float]:
        before = settled_bytes(daemon)
        connections = [daemon.connect(daemon.http) for _ in range(2)]
        began = time.monotonic()
        threads = [
            threading.Thread(target=create, args=(connection, range(part, count, len(connections))))
            for part, connection in enumerate(connections)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        created = time.monotonic() - began
        for connection in connections:
            connection.close()
        each = (settled_bytes(daemon) - before) / count
        cpu = daemon.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        cpu = daemon.cpu_seconds() - cpu
        stopped = daemon.stop()
        began = time.monotonic()
        daemon.start()
        return {
            "created/s, a topic and its channel": count / created,
            "resident bytes per topic": each,
            "idle, ms of CPU per second": 1000 * cpu / IDLE_SECONDS,
            "stop, ms": 1000 * stopped,
            "start, ms": 1000 * (time.monotonic() - began),
        }

    def create(connection, numbers) -> None:
        paths = []
        for number in numbers:
            paths.append(f"/topic/create?topic=topic-{number}")
            paths.append(f"/channel/create?topic=topic-{number}&channel=channel")
        wire.post_all(connection, paths)

    return run


def deferred(count: int):
    def run(daemon: Daemon, _: pathlib.Path) -> dict[str, float]:
        consumer = daemon.connect(daemon.tcp)
        wire.subscribe(consumer, "deferred", "channel", 1)
        before = settled_bytes(daemon)
        publisher = daemon.connect(daemon.tcp)
        publisher.sendall(wire.MAGIC)
        ahead = 500
        commands = wire.dpub("deferred", 3_000_000, bytes(DEFERRED_BODY)) * ahead
        began = time.monotonic()
        for _ in range(count // ahead):
            publisher.sendall(commands)
            wire.expect_ok(publisher, ahead)
        took = time.monotonic() - began
        each = (settled_bytes(daemon) - before) / count
        consumer.close()
        publisher.close()
        return {"resident bytes per message": each, "published/s": count / took}

    return run


def falling_due(per_second: int, seconds: int):
    """Measures how late deferred messages arrive if `per_second` are due each second. Bodies hold the due time."""

    def run(daemon: Daemon, _: pathlib.Path) -> dict[str, float]:
        total = per_second * seconds
        consumer = daemon.connect(daemon.tcp)
        wire.subscribe(consumer, "due", "channel", 2_500)
        start = time.monotonic() + 8
        publisher = threading.Thread(target=publish, args=(daemon, start, per_second, total))
        publisher.start()
        reader = wire.MessageReader(consumer)
        late = []
        while len(late) < total:
            messages = reader.receive()
            now = time.monotonic()
            late += [1000 * (now - struct.unpack_from(">d", body)[0]) for _, body in messages]
            reader.finish(messages)
        publisher.join()
        late.sort()
        return {
            "late, p50, ms": statistics.median(late),
            "late, p99, ms": late[len(late) * 99 // 100],
            "late, most, ms": late[-1],
            "early, most, ms": max(0.0, -late[0]),
        }

    def publish(daemon: Daemon, start: float, per_second: int, total: int) -> None:
        connection = daemon.connect(daemon.tcp)
        connection.sendall(wire.MAGIC)
        ahead = 100
        for at in range(0, total, ahead):
            commands = []
            for number in range(at, at + ahead):
                # Delays are whole milliseconds, so each is rounded up.
                now = time.monotonic()
                delay = int(1000 * (start + number / per_second - now)) + 1
                commands.append(wire.dpub("due", delay, struct.pack(">d", now + delay / 1000)))
            connection.sendall(b"".join(commands))
            wire.expect_ok(connection, ahead)
        connection.close()
        if time.monotonic() > start:
            raise SystemExit("compare: publishing the deferred messages took too long; the result is invalid")

    return run


def restart(count: int):
    def run(daemon: Daemon, nsq: pathlib.Path) -> dict[str, float]:
        batch = f"pub --batch 200 --channels 1 --channel channel --topic backlog --keep --messages {count}"
        bench(daemon, nsq, batch)
        resident = settled_bytes(daemon)
        figures = {"resident MB": resident / 1e6}
        for how, name in [(signal.SIGTERM, "stop"), (signal.SIGKILL, "kill")]:
            stopped = daemon.stop(how)
            began = time.monotonic()
            daemon.start()
            consumer = daemon.connect(daemon.tcp)
            wire.subscribe(consumer, "backlog", "channel", 1)
            kind, _ = wire.receive_frame(consumer)
            assert kind == wire.MESSAGE
            if how == signal.SIGTERM:
                figures["stop, ms"] = 1000 * stopped
            figures[f"start to first delivery after a {name}, ms"] = 1000 * (time.monotonic() - began)
            consumer.close()
        return figures

    return run


ROWS = [
    Row("5,000 idle subscribed connections", idle_connections(5_000), most_pairs=3),
    Row("10,000 connections, each waiting for its OK", many_connections(10_000), most_pairs=3),
    Row("2,000 topics with a channel", topics(2_000), most_pairs=3),
    Row("50,000 topics with a channel", topics(50_000), most_pairs=1),
    Row("1 million deferred messages", deferred(1_000_000), most_pairs=1),
    Row("24,000 deferred messages due per second", falling_due(24_000, 10), most_pairs=3),
    Row("restart with a backlog of 1 million", restart(1_000_000), most_pairs=3),
    Row("restart with a backlog of 10 million", restart(10_000_000), most_pairs=1),
]
