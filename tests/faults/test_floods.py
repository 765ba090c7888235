"""Floods, slow clients and clients that do not read: bounded memory, others are served, everything is back afterwards.

Tests are named by the row of the list of bad input (docs/hostile-input.md), which says where a flood is smaller here.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import select
import shutil
import socket
import threading
import time

import grpc
import pytest

from harness import http, http2, rpc
from harness.background import Undisturbed
from harness.misuse import Afterwards, refusals
from harness.paths import TRAINED, binary, golden_json
from harness.processes import ANY, Process, Stack, descriptors, resident_bytes
from harness.metrics import Metrics
from harness.waiting import wait_until

EXAMPLE = golden_json("drafters/trained_pair/greedy_examples.json")[0]
WRITE_STALL = 30.0 if os.environ.get("TANDEM_SOAK") == "1" else 3.0  # s; 30 by default
MIB = 1 << 20


@pytest.fixture(scope="module")
def stack():
    with Stack(TRAINED, gateway=["--write-stall", f"{WRITE_STALL:.0f}s"]) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(stack):
    with Undisturbed(stack.http, EXAMPLE["user"], count=2) as streams:
        yield streams


@pytest.fixture(scope="module")
def afterwards(stack, undisturbed):
    return Afterwards(stack, EXAMPLE["user"], EXAMPLE["greedy_text"])


@pytest.fixture
def good_afterwards(afterwards, undisturbed):
    yield
    undisturbed.check()
    afterwards.check()


class Growth:
    """The most that a process's memory has grown, looked at all the while."""

    def __init__(self, pid):
        self._pid, self._begin = pid, resident_bytes(pid)
        self.most, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self):
        while not self._stop.wait(0.02):
            self.most = max(self.most, resident_bytes(self._pid) - self._begin)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *unused):
        self._stop.set()
        self._thread.join()


def flood(connection, pieces):
    """Sends all pieces while reading what comes back. Whether the peer cut the connection before the end."""
    def drain():
        with contextlib.suppress(OSError):
            while connection.socket.recv(1 << 20):
                pass

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    try:
        return not all(connection.send(piece) for piece in pieces)
    except TimeoutError:
        return True  # it reads no more of this connection
    finally:
        with contextlib.suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)
        reader.join()


@pytest.mark.parametrize("whole", [False, True], ids=["headers only", "whole requests"])
def test_b29_100_000_resets(stack, protos, good_afterwards, whole):
    """Streams that are taken back at once, before their request or behind it; over new connections when one is cut."""
    message = http2.message(protos.chat("Tell me a story.", max_tokens=400).SerializeToString())
    wanted, sent = 100_000, 0

    def stream(number):
        body = http2.frame(http2.DATA, http2.END_STREAM, number, message) if whole else b""
        return (http2.headers(number, http2.call_fields()) + body +
                http2.frame(http2.RST_STREAM, 0, number, bytes([0, 0, 0, 8])))

    def pieces():
        nonlocal sent
        for begin in range(0, wanted - sent, 100):
            yield b"".join(stream(2 * i + 1) for i in range(begin, begin + 100))
            sent += 100

    first = None
    with Growth(stack.gateway.pid) as growth:
        while sent < wanted:
            before = sent
            with http2.Connection(stack.grpc, timeout=3) as connection:
                flood(connection, pieces())
            assert sent > before, "a new connection takes nothing"
            first = first or growth.most
    assert first < 100 * MIB, f"{first >> 20} MiB more by one connection"
    assert growth.most < 200 * MIB, f"{growth.most >> 20} MiB more by all"
    wait_until(lambda: stack.gateway_metrics.read().sum("tandem_streams_open", api="grpc") == 0, "all streams ended")


def test_b31_pings_are_cut(stack, good_afterwards):
    ping = http2.frame(http2.PING, 0, 0, bytes(8))
    with Growth(stack.gateway.pid) as growth, http2.Connection(stack.grpc) as connection:
        connection.send(ping * 100)
        # ENHANCE_YOUR_CALM, unless the end overtook it.
        assert connection.wait_for_end() in (11, None)
        with http2.Connection(stack.grpc) as other:
            assert flood(other, (ping * 1000 for _ in range(1000)))
    # 17 MB of pings. gRPC makes an error of 5 KB of each that it has read before it cuts the connection.
    assert growth.most < 100 * MIB


SETTINGS = http2.frame(http2.SETTINGS, payload=bytes([0, 3, 0, 0, 0, 100])) * 1000
LOOK = 1.0  # s, between two looks at all connections


def test_b31_settings_are_cut(stack, good_afterwards):
    with Growth(stack.gateway.pid) as growth:
        with http2.Connection(stack.grpc) as connection:  # which takes all answers
            assert flood(connection, forever(SETTINGS, 4 * LOOK))
        # One that takes none: reading stops at 10,000 answers, and the connection ends when it has stalled.
        with http2.Connection(stack.grpc, timeout=1, receive_bytes=4096) as connection:
            with contextlib.suppress(TimeoutError):
                while connection.send(SETTINGS):
                    pass
            wait_until(lambda: ended(connection.socket), "connection ended", WRITE_STALL + 4 * LOOK)
    assert growth.most < 100 * MIB, f"{growth.most >> 20} MiB more"


def test_b31_data_is_cut(stack, protos, good_afterwards):
    with Growth(stack.gateway.pid) as growth:
        with http2.Connection(stack.grpc) as connection:  # empty frames of a call that goes on
            connection.send(http2.headers(1, http2.call_fields()))
            assert flood(connection, forever(http2.frame(http2.DATA, 0, 1) * 1000, 4 * LOOK))
        with http2.Connection(stack.grpc) as connection:  # a whole request, and then more and more of them
            connection.send(http2.headers(1, http2.call_fields()))
            big = http2.frame(http2.DATA, 0, 1, http2.message(bytes(16000)))
            assert flood(connection, forever(big * 10, 4 * LOOK))
    assert growth.most < 100 * MIB, f"{growth.most >> 20} MiB more"


def forever(piece, seconds):
    """The piece again and again, until so many seconds have passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield piece


def ended(connection):
    """Whether the peer has ended it, with what it sent left unread."""
    hang_up = select.poll()
    hang_up.register(connection, select.POLLRDHUP)
    return bool(hang_up.poll(0))


def silent_connections(address, count):
    host, port = address.rsplit(":", 1)
    held = []
    for _ in range(count):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex((host, int(port)))
        held.append(connection)
    return held


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_b32_300_connections_at_128_descriptors(stack, protos, door):
    gateway = Process(["prlimit", "--nofile=128", binary("tandem-gateway"), "--verifier", stack.verifier_address, "--model",
                       TRAINED, "--http", ANY, "--grpc", ANY, "--metrics", ANY])
    held = []
    try:
        addresses = gateway.addresses()
        wait_until(lambda: http.get(addresses["http"], "/ready").status == 200, "gateway ready")
        metrics = Metrics(addresses["metrics"])

        def good():
            begin = time.monotonic()
            answer = http.chat(addresses["http"], EXAMPLE["user"], temperature=0)
            assert answer.json()["choices"][0]["message"]["content"] == EXAMPLE["greedy_text"]
            with rpc.channel(addresses["grpc"]) as channel:
                stub = protos.generation_grpc.GenerationStub(channel)
                request = protos.chat(EXAMPLE["user"], sampling=protos.generation.Sampling(temperature=0))
                assert rpc.collect(stub.Generate(request, timeout=10))[2][0] == EXAMPLE["greedy_text"]
            assert time.monotonic() - begin <= 2 * 2.0, "two requests, 2 s each"

        good()
        before = descriptors(gateway.pid)
        held = silent_connections(addresses[door], 300)
        wait_until(lambda: descriptors(gateway.pid) >= 100, "connections taken")
        good()  # while they are held
        assert metrics.read().sum("tandem_emfile_total") > 0
        for connection in held:
            connection.close()
        wait_until(lambda: descriptors(gateway.pid) <= before + 4, "descriptors back")
        good()
    finally:
        for connection in held:
            connection.close()
        gateway.kill()


def test_b33_readers_that_stall_are_ended(stack, protos, good_afterwards):
    """40 of them here, half over each door, each with more to come than all buffers on the way hold."""
    stalls = stack.gateway_metrics.read().sum("tandem_write_stalls_total")
    fields = {"model": "default", "messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 300, "n": 2,
              "ignore_eos": True, "stream": True, "logprobs": True, "top_logprobs": 20}
    body = json.dumps(fields).encode()
    request = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
               f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    message = http2.message(protos.chat("Tell me a story.", max_tokens=300, n=2, ignore_eos=True,
                                        num_logprobs=20).SerializeToString())
    # A window of 1,000 bytes: settings say so.
    small_window = bytes([0, 4, 0, 0]) + (1000).to_bytes(2, "big")
    with contextlib.ExitStack() as open_ones, Growth(stack.gateway.pid) as growth:
        begin = time.monotonic()
        for _ in range(20):
            connection = open_ones.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            host, port = stack.http.rsplit(":", 1)
            connection.connect((host, int(port)))
            connection.sendall(request)
            call = open_ones.enter_context(http2.Connection(stack.grpc, settings=small_window))
            call.send(http2.headers(1, http2.call_fields()) + http2.frame(http2.DATA, http2.END_STREAM, 1, message))
        wait_until(lambda: stack.gateway_metrics.read().sum("tandem_write_stalls_total") >= stalls + 40,
                   "40 stalls", 10 * WRITE_STALL)
        assert time.monotonic() - begin >= WRITE_STALL
        # Ended at both ends of the gateway although the clients are still there; the two good streams remain.
        wait_until(lambda: stack.gateway_metrics.read().sum("tandem_streams_open", api="grpc") == 0, "gRPC calls ended",
                   4 * WRITE_STALL)
        wait_until(lambda: stack.gateway_metrics.read().sum("tandem_streams_open", api="http") <= 2, "HTTP streams ended")
        wait_until(lambda: stack.verifier_metrics.read().sum("tandem_sequences_running") <= 2, "sequences ended")
    assert growth.most < 100 * MIB, f"{growth.most >> 20} MiB more"


def test_b34_slow_clients_are_closed_on_every_port(stack, good_afterwards):
    ports = {"http": stack.http, "grpc": stack.grpc, "gateway metrics": stack.gateway_metrics.address,
             "verifier": stack.verifier_address, "verifier metrics": stack.verifier_metrics.address}
    header = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-" + b"a" * 100
    begins = {"http": header, "grpc": http2.PREFACE[:20] + b"x" * 80, "gateway metrics": b"GET /metrics HTTP/1.1\r\nX: " +
              b"a" * 100, "verifier": http2.PREFACE, "verifier metrics": b"GET /" + b"a" * 100}

    def silence(address):
        begin = time.monotonic()
        with http.raw_connection(address, timeout=20) as connection, contextlib.suppress(ConnectionResetError):
            while connection.recv(65536):
                pass
        return time.monotonic() - begin

    with concurrent.futures.ThreadPoolExecutor(2 * len(ports)) as pool:
        silent = {name: pool.submit(silence, address) for name, address in ports.items()}
        slow = {name: pool.submit(http2.slow_bytes, address, begins[name]) for name, address in ports.items()}
        for kind, found in (("silent", silent), ("slow", slow)):
            for name, seconds in found.items():
                assert seconds.result() <= 11, f"{kind} client of {name}"


def test_memory_is_shed_before_it_ends(stack):
    """From 90 % of the limit on: 429, and still alive. A gateway's programs alone need more than 16 MiB."""
    gateway = Process([binary("tandem-gateway"), "--verifier", stack.verifier_address, "--model", TRAINED, "--http", ANY,
                       "--grpc", ANY, "--metrics", ANY, "--memory-limit", "16MiB"])
    try:
        addresses = gateway.addresses()
        wait_until(lambda: http.get(addresses["http"], "/ready").status == 200, "gateway ready")
        for _ in range(3):
            answer = http.chat(addresses["http"], "Hi.")
            assert answer.status == 429 and answer.error()["code"] == "rate_limit_exceeded", answer
            assert int(answer.headers["retry-after"]) >= 1
        with rpc.channel(addresses["grpc"]) as channel, pytest.raises(grpc.RpcError) as raised:
            list(channel.unary_stream(http2.GENERATE)(b"\x0a\x07default\x1a\x01a", timeout=10))
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "grpc-retry-pushback-ms" in dict(raised.value.trailing_metadata())
        rejected = Metrics(addresses["metrics"]).read().by_label("tandem_requests_rejected_total", "reason")
        assert rejected["memory"] == 4
        assert http.get(addresses["http"], "/health").status == 200
    finally:
        gateway.kill()


TEMPLATES = {
    "loop": "{% for i in range(1000000000) %}x{% endfor %}",
    "loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
    "1 GB": "{{ 'a' * 1000000000 }}",
    "doubling": "{% set ns = namespace(a='aaaaaaaa') %}{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a }}",
    "recursion": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ messages[0].__init__.__globals__['os'].system('id') }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.getcwd() }}",
    "raise": "{{ raise_exception('no') }}",
    "open": "{{ open('/etc/passwd').read() }}",
    "unclosed": "{% if %}{{",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_b22_hostile_templates(tmp_path, template):
    """Either no start, in one line, or 400 for whoever uses the template, and the gateway lives."""
    for source in pathlib.Path(TRAINED).iterdir():
        shutil.copy(source, tmp_path / source.name)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = template
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    for other in ("chat_template.jinja", "chat_template.json"):
        (tmp_path / other).unlink(missing_ok=True)
    gateway = Process([binary("tandem-gateway"), "--verifier", "127.0.0.1:1", "--model", str(tmp_path), "--http", ANY, "--grpc",
                       ANY, "--metrics", ANY])
    try:
        try:
            addresses = gateway.addresses()
        except AssertionError:
            assert gateway.wait() == 1
            assert len(gateway.stderr().strip().splitlines()) == 1, gateway.stderr()
            return
        before = resident_bytes(gateway.pid)
        messages = {"model": "default", "messages": [{"role": "user", "content": "Hi."}]}
        begin = time.monotonic()
        for path in ("/tokenize", "/v1/chat/completions"):
            answer = http.post(addresses["http"], path, messages)
            assert answer.status == 400, answer
            assert "/etc" not in answer.body.decode() and "root:" not in answer.body.decode()
        assert time.monotonic() - begin < 2
        assert resident_bytes(gateway.pid) - before < 16 * MIB
        assert http.post(addresses["http"], "/tokenize", {"model": "default", "prompt": "Hi."}).status == 200
    finally:
        gateway.kill()
