"""A small HTTP/1.1 client with nothing between a test and the bytes: answers, event streams, raw sockets."""

import contextlib
import dataclasses
import http.client
import json
import socket
import struct

TIMEOUT = 120.0


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)

    def error(self):
        """The `error` object, which must have exactly its four fields."""
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return error


def _connect(address, timeout=TIMEOUT):
    host, port = address.rsplit(":", 1)
    return http.client.HTTPConnection(host, int(port), timeout=timeout)


def _answer(response):
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def request(address, method, path, body=None, headers=None, timeout=TIMEOUT):
    with contextlib.closing(_connect(address, timeout)) as connection:
        connection.request(method, path, body, headers or {})
        return _answer(connection.getresponse())


def get(address, path):
    return request(address, "GET", path)


def post(address, path, value):
    """Sends `value` as JSON (bytes: as they are)."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return request(address, "POST", path, body, {"Content-Type": "application/json"})


def chat(address, content, **fields):
    """A chat request's fields with one user message."""
    return post(address, "/v1/chat/completions",
                {"model": "default", "messages": [{"role": "user", "content": content}], **fields})


class EventStream:
    """A streamed answer, event by event: iterate for decoded `data:`; `done` once [DONE] has come."""

    def __init__(self, address, path, value):
        self._connection = _connect(address)
        self._connection.request("POST", path, json.dumps({**value, "stream": True}),
                                 {"Content-Type": "application/json"})
        self.response = self._connection.getresponse()
        self.status, self.done = self.response.status, False
        if self.status != 200:
            raise AssertionError(f"status {self.status}: {self.response.read()[:1000]!r}")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            line = self.response.readline()
            if not line:
                assert self.done, "the stream ended without [DONE]"
                raise StopIteration
            assert not self.done or line == b"\n", f"after [DONE]: {line!r}"
            if line == b"\n" or line.startswith(b":"):
                continue
            assert line.startswith(b"data: "), f"not an event: {line!r}"
            data = line[6:].rstrip(b"\n").decode("utf-8")
            if data == "[DONE]":
                self.done = True
                continue
            event = json.loads(data)
            assert "error" not in event, f"error in the stream: {event}"
            return event

    def close(self):
        self.response.close()
        self._connection.close()

    def reset(self):
        """Ends the connection with RST instead of FIN."""
        raw = self._connection.sock or self.response.fp.raw._sock
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


def raw_connection(address, timeout=20.0):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=timeout)


def raw(address, data, timeout=20.0, half_close=False):
    """Sends bytes as they are; the bytes that come back until the server closes or resets ("" if none).

    A server that keeps the connection open after a whole answer is fine: reading stops at its Content-Length.
    """
    with raw_connection(address, timeout) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while not _whole(received):
                piece = connection.recv(65536)
                if not piece:
                    break
                received += piece
        return received


def _whole(received):
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator or not head.startswith(b"HTTP/1."):
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return len(body) >= int(value)
    return False


def parse(received):
    """An Answer from raw bytes."""
    head, separator, body = received.partition(b"\r\n\r\n")
    assert separator, f"no whole HTTP answer: {received[:200]!r}"
    lines = head.decode("latin-1").split("\r\n")
    headers = dict((name.strip().lower(), value.strip()) for name, _, value in (l.partition(":") for l in lines[1:]))
    return Answer(int(lines[0].split()[1]), headers, body)
