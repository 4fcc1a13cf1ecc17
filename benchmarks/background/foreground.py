"""The foreground: a plain TCP transfer between two hosts of the network, which takes what it gets of the line."""

from __future__ import annotations

import socket
import time
from typing import Final

from benchmarks.namespaces import NetworkHost

PORT: Final = 5001
CHUNK_BYTES: Final = 256 * 1024
CONNECT_S: Final = 5.0
WARM_UP_S: Final = 1.0
"""A connection's start is not counted: each of a site's transfers has one."""


def throughput(sender: NetworkHost, receiver: NetworkHost, seconds: float) -> float:
    """Bytes per second that one connection carries over `seconds`, after its start."""
    listening = sender.call(_listen, sender.address)
    with listening:
        sending = sender.start(_send, listening)
        try:
            return receiver.call(_receive, sender.address, seconds)
        finally:
            sending.result()


def _listen(address: str) -> socket.socket:
    listening = socket.create_server((address, PORT))
    listening.settimeout(CONNECT_S)
    return listening


def _send(listening: socket.socket) -> None:
    """Until the other end has had enough."""
    connection, _ = listening.accept()
    data = bytes(CHUNK_BYTES)
    with connection:
        try:
            while True:
                connection.sendall(data)
        except ConnectionError:
            return


def _receive(address: str, seconds: float) -> float:
    buffer = bytearray(CHUNK_BYTES)
    with socket.create_connection((address, PORT), CONNECT_S) as connection:
        _receive_for(connection, buffer, WARM_UP_S)
        began_s = time.monotonic()
        received = _receive_for(connection, buffer, seconds)
        return received / (time.monotonic() - began_s)


def _receive_for(connection: socket.socket, buffer: bytearray, seconds: float) -> int:
    ends_s, received = time.monotonic() + seconds, 0
    while time.monotonic() < ends_s:
        received += connection.recv_into(buffer)
    return received
