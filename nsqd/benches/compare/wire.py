"""The parts of NSQ's protocol and of HTTP that the rows of scale.py need."""

import socket
import struct

MAGIC = b"  V2"
MESSAGE = 2
BODY_AT = 26


def dpub(topic: str, delay_ms: int, body: bytes) -> bytes:
    return b"DPUB %s %d\n%s%s" % (topic.encode(), delay_ms, struct.pack(">I", len(body)), body)


def receive_exactly(connection: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        more = connection.recv(count - len(received))
        if not more:
            raise SystemExit("compare: the daemon closed the connection")
        received += more
    return bytes(received)


def receive_frame(connection: socket.socket) -> tuple[int, bytes]:
    """Returns type and data of the next frame."""
    size, kind = struct.unpack(">II", receive_exactly(connection, 8))
    return kind, receive_exactly(connection, size - 4)


def expect_ok(connection: socket.socket, count: int = 1) -> None:
    """Reads `count` OK responses."""
    ok = struct.pack(">II", 6, 0) + b"OK"
    if receive_exactly(connection, len(ok) * count) != ok * count:
        raise SystemExit("compare: the daemon refused a command")


def subscribe(connection: socket.socket, topic: str, channel: str, rdy: int) -> None:
    connection.sendall(MAGIC + b"SUB %s %s\n" % (topic.encode(), channel.encode()))
    expect_ok(connection)
    connection.sendall(b"RDY %d\n" % rdy)


class MessageReader:
    """Splits the input of a subscribed connection into messages."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.buffer = b""

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Returns ids and bodies of the messages in one read, possibly none. Answers heartbeats."""
        self.buffer += self.connection.recv(1 << 20)
        messages, at = [], 0
        while len(self.buffer) >= at + 8:
            size, kind = struct.unpack_from(">II", self.buffer, at)
            end = at + 4 + size
            if len(self.buffer) < end:
                break
            if kind == MESSAGE:
                messages.append((self.buffer[at + 18 : at + 34], self.buffer[at + 8 + BODY_AT : end]))
            else:
                self.connection.sendall(b"NOP\n")
            at = end
        self.buffer = self.buffer[at:]
        return messages

    def finish(self, messages: list[tuple[bytes, bytes]]) -> None:
        self.connection.sendall(b"".join(b"FIN %s\n" % identity for identity, _ in messages))


def post_all(connection: socket.socket, paths: list[str], ahead: int = 64) -> None:
    """Sends an empty POST to each path, up to `ahead` requests before their answers. All must succeed."""
    answers = b""
    for at in range(0, len(paths), ahead):
        some = paths[at : at + ahead]
        request = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        connection.sendall("".join(request.format(path) for path in some).encode())
        # The answers have no body, so each ends with its headers.
        while answers.count(b"\r\n\r\n") < len(some):
            more = connection.recv(1 << 16)
            if not more:
                raise SystemExit("compare: the daemon closed the connection")
            answers += more
        if answers.count(b"HTTP/1.1 200") != len(some):
            raise SystemExit(f"compare: POST {some[0]} or a following path failed: {answers[:200]!r}")
        answers = b""
