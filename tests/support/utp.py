"""uTP byte by byte, and TLS in it: what somebody may send to the background transport who keeps no rule.

On loopback packets are neither lost nor overtaken, so nothing is sent twice.
"""

from __future__ import annotations

import socket
import ssl
import struct
from pathlib import Path
from typing import Final

from peer.background.ticket import Ticket
from tests.support.registry_server import PATIENCE_S

HEADER: Final = struct.Struct("!BBHIIIHH")
VERSION: Final = 1
DATA, FIN, STATE, RESET, SYN = range(5)
MTU_BYTES: Final = 1200
WINDOW_BYTES: Final = 1 << 20


class Utp:
    """One connection to a UDP port of loopback."""

    def __init__(self, port: int, number: int = 1, within_s: float = PATIENCE_S) -> None:
        """Raises TimeoutError if nobody answers."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(within_s)
        self._number = number
        self._sent = 0
        self._received = 0
        self.is_over = False
        self._packet(SYN, number)
        try:
            self._take()
        except TimeoutError:
            self._socket.close()
            raise

    def send(self, data: bytes) -> None:
        for at in range(0, len(data), MTU_BYTES):
            self._packet(DATA, self._number + 1, data[at : at + MTU_BYTES])

    def receive(self) -> bytes:
        """What comes next; nothing if the other side has ended it. Raises TimeoutError."""
        while not self.is_over:
            data = self._take()
            if data:
                self._packet(STATE, self._number + 1)
                return data
        return b""

    def close(self) -> None:
        self._socket.close()

    def _packet(self, kind: int, number: int, data: bytes = b"") -> None:
        if kind in (SYN, DATA):
            self._sent += 1
        head = HEADER.pack(kind << 4 | VERSION, 0, number, 0, 0, WINDOW_BYTES, self._sent & 0xFFFF, self._received)
        self._socket.send(head + data)

    def _take(self) -> bytes:
        packet = self._socket.recv(65_536)
        kind, extension, _, _, _, _, sequence, _ = HEADER.unpack_from(packet)
        data = packet[HEADER.size :]
        while extension:
            extension, length = data[0], data[1]
            data = data[2 + length :]
        self.is_over = kind >> 4 in (FIN, RESET)
        if kind >> 4 == STATE:
            self._received = self._received or (sequence - 1) & 0xFFFF
            return b""
        if kind >> 4 == DATA and sequence == (self._received + 1) & 0xFFFF:
            self._received = sequence
            return data
        return b""


class Tls:
    """TLS in a uTP connection, with the certificate of a ticket or with none, for the torrent of this SHA-1."""

    def __init__(self, utp: Utp, info_hash: str, shown: Ticket | None, directory: Path) -> None:
        """Raises ssl.SSLError if the other side refuses."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if shown is not None:
            file = directory / "shown.pem"
            file.write_bytes(shown.certificate + shown.key)
            context.load_cert_chain(file)
        self._utp = utp
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=info_hash)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._more()
            else:
                self._flush()
                return

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self._flush()

    def receive(self) -> bytes:
        """What comes next; nothing once the other side has ended it. Raises ssl.SSLError, TimeoutError."""
        while True:
            try:
                return self._tls.read(65_536)
            except ssl.SSLWantReadError:
                if not self._more():
                    return b""

    def _flush(self) -> None:
        self._utp.send(self._out.read())

    def _more(self) -> bool:
        data = self._utp.receive()
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
        return bool(data)
