"""HTTP/2 frames as bytes: what a gRPC library would never send, and what comes back."""

import contextlib
import socket
import struct
import time

import hpack

from . import http

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FIRST_WINDOW, _LARGEST_FRAME = 65535, 16384  # unless settings say otherwise; only a larger window may be said
GENERATE = "/tandem.v1.Generation/Generate"


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def headers(stream, fields, flags=END_HEADERS):
    """A HEADERS frame. Fields are written out, never indexed, so that each frame stands alone."""
    block = b"".join(b"\x10" + _string(name) + _string(value) for name, value in fields)
    return frame(HEADERS, flags, stream, block)


def _string(text):
    data = text if isinstance(text, bytes) else text.encode("latin-1")
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, encoded = len(data) - 127, b"\x7f"
    while rest >= 128:
        encoded, rest = encoded + bytes([rest % 128 + 128]), rest // 128
    return encoded + bytes([rest]) + data


def call_fields(path=GENERATE, *more):
    """The fields that begin a gRPC call."""
    return [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"),
            ("content-type", "application/grpc"), ("te", "trailers"), *more]


def message(data, compressed=False):
    """A gRPC message with its prefix."""
    return struct.pack("!BI", compressed, len(data)) + data


class Connection:
    """One connection behind its preface. read_frame() gives (kind, flags, stream, payload); None once it has ended."""

    def __init__(self, address, timeout=20.0, settings=b"", receive_bytes=0):
        host, port = address.rsplit(":", 1)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(timeout)
        self.socket.connect((host, int(port)))
        self._received, self._decoder, self._window = b"", hpack.Decoder(), _FIRST_WINDOW
        self.send(PREFACE + frame(SETTINGS, payload=settings))

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.socket.close()

    def send(self, data):
        """Whether the peer took all of it."""
        try:
            self.socket.sendall(data)
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False

    def _take(self, size):
        while len(self._received) < size:
            try:
                piece = self.socket.recv(65536)
            except ConnectionResetError:
                piece = b""
            if not piece:
                return None
            self._received += piece
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def read_frame(self):
        head = self._take(9)
        if head is None:
            return None
        size = int.from_bytes(head[:3], "big")
        kind, flags, stream = struct.unpack("!BBI", head[3:])
        payload = self._take(size)
        return None if payload is None else (kind, flags, stream & 0x7FFFFFFF, payload)

    def wait_for_end(self):
        """Reads until the peer closes; TimeoutError of the socket if it does not. The last GOAWAY's error code."""
        code = None
        while (got := self.read_frame()) is not None:
            if got[0] == GOAWAY:
                code = int.from_bytes(got[3][4:8], "big")
        return code

    def call(self, stream, fields, data=b""):
        """{trailer: value} of a whole call; ConnectionError if the connection ends first, or the stream is reset.

        `data` goes out as far as the windows allow; an answer may come before its end.
        """
        self.send(headers(stream, fields))
        windows = {0: self._window, stream: _FIRST_WINDOW}
        sent, ended = 0, False
        while True:
            room = min(windows.values())
            if not ended and (sent == len(data) or room > 0):
                piece = data[sent:sent + min(room, _LARGEST_FRAME)]
                sent += len(piece)
                ended = sent == len(data)
                self.send(frame(DATA, END_STREAM if ended else 0, stream, piece))
                windows = {on: size - len(piece) for on, size in windows.items()}
                continue
            self._window = windows[0]
            got = self.read_frame()
            if got is None:
                break
            kind, flags, on, payload = got
            if kind in (HEADERS, CONTINUATION):
                found = dict(self._decoder.decode(payload, raw=False))
                if on == stream and flags & END_STREAM:
                    return found
            elif kind == SETTINGS and not flags & ACK:
                self.send(frame(SETTINGS, ACK))
            elif kind == PING and not flags & ACK:
                self.send(frame(PING, ACK, 0, payload))
            elif kind == DATA and payload:
                self.send(frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", len(payload))) +
                          frame(WINDOW_UPDATE, 0, on, struct.pack("!I", len(payload))))
            elif kind == WINDOW_UPDATE and on in windows:
                windows[on] += int.from_bytes(payload, "big")
            elif kind == RST_STREAM and on == stream:
                raise ConnectionError(f"stream reset, code {int.from_bytes(payload, 'big')}")
        raise ConnectionError("the connection ended in the middle of a call")


def slow_bytes(address, data, interval=0.5, limit=20.0):
    """Sends `data` byte by byte; the seconds until the peer closes. AssertionError if it does not within `limit`."""
    begin = time.monotonic()
    with http.raw_connection(address, interval) as connection:
        for byte in data:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(bytes([byte]))
            try:
                while connection.recv(65536):
                    pass
                return time.monotonic() - begin
            except ConnectionResetError:
                return time.monotonic() - begin
            except TimeoutError:  # of `interval`: it is still open
                assert time.monotonic() - begin < limit, f"{address} still open after {limit} s"
    raise AssertionError("ran out of bytes to send")
