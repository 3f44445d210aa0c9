"""Lets gnsq, unchanged, connect through WebSockets: nsqd's HTTP address takes the place of its TCP address.

install() replaces the function with which gnsq opens a socket. The WebSocket here has no dependencies.
"""

import base64
import hashlib
import os
import struct

import gnsq.stream.stream
from gevent import socket as gevent_socket

SUBPROTOCOL = "nsq.v2"
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


class WebSocket:
    """A byte stream in the binary frames of a WebSocket, with the methods of a socket that gnsq calls."""

    def __init__(self, connection, host, target):
        self.connection = connection
        self.received = b""
        self.unread = b""
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
        )
        connection.sendall(request.encode())
        while b"\r\n\r\n" not in self.received:
            self._receive()
        head, self.received = self.received.split(b"\r\n\r\n", 1)
        lines = head.decode().lower().split("\r\n")
        if " 101 " not in lines[0]:
            raise gevent_socket.error(0, f"not upgraded: {lines[0]}")
        accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
        if f"sec-websocket-accept: {accept}".lower() not in lines or f"sec-websocket-protocol: {SUBPROTOCOL}" not in lines:
            raise gevent_socket.error(0, f"wrong answer: {lines}")

    def sendall(self, data):
        self._send(BINARY, data)

    def send(self, data):
        self.sendall(data)
        return len(data)

    def recv(self, size):
        while not self.unread:
            kind, data = self._frame()
            if kind == CLOSE:
                return b""
            if kind == PING:
                self._send(PONG, data)
            elif kind == BINARY:
                self.unread = data
        data, self.unread = self.unread[:size], self.unread[size:]
        return data

    def settimeout(self, timeout):
        self.connection.settimeout(timeout)

    def close(self):
        try:
            self._send(CLOSE, b"")
        except gevent_socket.error:
            pass
        self.connection.close()

    def _send(self, kind, data):
        mask = os.urandom(4)
        length = len(data)
        if length < 126:
            head = struct.pack(">BB", 0x80 | kind, 0x80 | length)
        elif length < 1 << 16:
            head = struct.pack(">BBH", 0x80 | kind, 0x80 | 126, length)
        else:
            head = struct.pack(">BBQ", 0x80 | kind, 0x80 | 127, length)
        pad = (mask * (length // 4 + 1))[:length]
        masked = (int.from_bytes(data, "big") ^ int.from_bytes(pad, "big")).to_bytes(length, "big")
        self.connection.sendall(head + mask + masked)

    def _frame(self):
        first, second = self._exactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._exactly(8))
        return first & 0x0F, self._exactly(length)

    def _exactly(self, size):
        while len(self.received) < size:
            self._receive()
        data, self.received = self.received[:size], self.received[size:]
        return data

    def _receive(self):
        packet = self.connection.recv(65536)
        if not packet:
            raise gevent_socket.error(0, "the connection is closed")
        self.received += packet


class Sockets:
    """The socket module as gnsq sees it, with another create_connection."""

    def __init__(self, target):
        self.target = target

    def __getattr__(self, name):
        return getattr(gevent_socket, name)

    def create_connection(self, address, timeout=None):
        connection = gevent_socket.create_connection(address=address, timeout=timeout)
        return WebSocket(connection, "%s:%s" % address, self.target)


def install(target="/v2"):
    gnsq.stream.stream.socket = Sockets(target)
