"""A peer that is no client of this project: raw HTTP/2 and protobuf, as far as the hostile drills need them."""

import socket
import struct
import threading

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
END_HEADERS, END_STREAM, ACK = 4, 1, 1
STREAMS_A_CONNECTION = 64


def varint(number):
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def message(fields):
    """An encoded protobuf message of numbers, bytes, texts and messages, by field number."""
    encoded = b""
    for number, value in fields.items():
        if isinstance(value, int):
            encoded += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            encoded += varint(number << 3 | 2) + varint(len(value)) + value
    return encoded


def framed(encoded):
    """A message as gRPC sends it."""
    return b"\0" + struct.pack(">I", len(encoded)) + encoded


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(path, authority):
    """HPACK without an index of its own: POST, http, and the headers of a gRPC call."""

    def text(value):
        return bytes([len(value)]) + value.encode()

    block = b"\x83\x86" + b"\x04" + text(path) + b"\x01" + text(authority)
    return block + b"\x0f\x10" + text("application/grpc") + b"\x00" + text("te") + text("trailers")


class Stranger:
    """One HTTP/2 connection. Answers are read and dropped, and the peer may always send more."""

    def __init__(self, host, port):
        self.authority = f"{host}:{port}"
        self.connection = socket.create_connection((host, port), timeout=10)
        self.connection.settimeout(None)
        self.lock = threading.Lock()
        self.next_stream = 1
        self.open = True
        self._send(PREFACE + frame(SETTINGS, 0, 0, b""))
        threading.Thread(target=self._read, daemon=True).start()

    def _send(self, octets):
        with self.lock:
            self.connection.sendall(octets)

    def _read(self):
        try:
            file = self.connection.makefile("rb")
            while head := file.read(9):
                length = int.from_bytes(head[:3], "big")
                payload = file.read(length)
                if head[3] == SETTINGS and not head[4] & ACK:
                    self._send(frame(SETTINGS, ACK, 0, b""))
                elif head[3] == PING and not head[4] & ACK:
                    self._send(frame(PING, ACK, 0, payload))
                elif head[3] == DATA and length:
                    self._send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", length)))
        except (OSError, ValueError):
            pass
        self.open = False

    def call(self, method):
        """Opens a call, and returns the number of its stream."""
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        self._send(frame(HEADERS, END_HEADERS, stream, headers(f"/paxos.v1.{method}", self.authority)))
        return stream

    def send(self, stream, octets, last=False):
        """Sends bytes of a call. Raises OSError when the connection has ended."""
        self._send(frame(DATA, END_STREAM if last else 0, stream, octets))

    def close(self):
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.connection.close()
