"""A daemon under measurement: start and stop, CPU time and memory."""

import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
DEADLINE_SECONDS = 120


class Daemon:
    """An nsqd on free ports of 127.0.0.1, with its own data directory, which is removed on exit."""

    def __init__(self, binary: pathlib.Path, flags: list[str], parent: pathlib.Path | None):
        self.binary = binary
        self.flags = flags
        self.directory = tempfile.mkdtemp(prefix="compare-", dir=parent)
        self.tcp, self.http = free_ports(2)
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "Daemon":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        if self.process is not None:
            self.stop()
        shutil.rmtree(self.directory)

    def start(self) -> None:
        """Starts the daemon; returns once it accepts connections."""
        self.process = subprocess.Popen(
            [
                self.binary,
                f"--data-path={self.directory}",
                f"--tcp-address=127.0.0.1:{self.tcp}",
                f"--http-address=127.0.0.1:{self.http}",
                *self.flags,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=allow_many_files,
        )
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                self.connect(self.http).close()
                return
            except ConnectionRefusedError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"compare: {self.binary} {' '.join(self.flags)} does not start") from None
                time.sleep(0.001)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> float:
        """Stops the daemon; returns the seconds until it has ended."""
        began = time.monotonic()
        self.process.send_signal(how)
        try:
            self.process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        return time.monotonic() - began

    def connect(self, port: int) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def cpu_seconds(self) -> float:
        """Returns the CPU time of its present threads; ended threads are not included."""
        threads = pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    def resident_bytes(self) -> int:
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE_BYTES


def allow_many_files() -> None:
    """Raises the limit of open files to the hard limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def free_ports(count: int) -> list[int]:
    """Returns different ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
