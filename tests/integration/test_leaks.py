"""2,000 requests, many of them cut off at random, leave nothing behind.

TANDEM_SOAK=1 multiplies the requests by 20.
"""

import concurrent.futures
import contextlib
import os
import random

import grpc
import pytest

from harness import http, rpc
from harness.paths import TRAINED
from harness.processes import Stack, descriptors, resident_bytes
from harness.waiting import wait_until
from harness.workload import mixed_requests

HALF = 20_000 if os.environ.get("TANDEM_SOAK") == "1" else 1_000
CLIENTS = 24
ALLOWED_GROWTH = 8 << 20


def whole(stack, stub, protos, chance, path, fields):
    assert http.post(stack.http, path, fields).status == 200


def whole_stream(stack, stub, protos, chance, path, fields):
    with http.EventStream(stack.http, path, fields) as events:
        for _ in events:
            pass


def closed_stream(stack, stub, protos, chance, path, fields):
    """Closes or resets after a few events."""
    with http.EventStream(stack.http, path, {**fields, "ignore_eos": True}) as events:
        for _ in zip(range(chance.randrange(4)), events):
            pass
        if chance.random() < 0.5:
            events.reset()


def closed_before_the_answer(stack, stub, protos, chance, path, fields):
    body = http.json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with http.raw_connection(stack.http) as connection:
        # Sometimes in the middle of the body.
        data = head.encode() + body
        connection.sendall(data[:len(data) - chance.choice([0, 0, 5])])


def refused(stack, stub, protos, chance, path, fields):
    assert http.post(stack.http, path, {**fields, "temperature": 9}).status == 400


@contextlib.contextmanager
def ending_with(code):
    """The call inside may end with `code`, and no other error."""
    try:
        yield
    except grpc.RpcError as error:
        assert error.code() == code, error


def grpc_cancelled(stack, stub, protos, chance, path, fields):
    call = stub.Generate(protos.chat("Tell me a story.", ignore_eos=True, max_tokens=200, n=chance.choice([1, 3])),
                         timeout=60)
    for _ in zip(range(chance.randrange(6)), call):
        pass
    call.cancel()


def grpc_deadline(stack, stub, protos, chance, path, fields):
    with ending_with(grpc.StatusCode.DEADLINE_EXCEEDED):
        list(stub.Generate(protos.chat("Tell me a story.", ignore_eos=True, max_tokens=200),
                           timeout=chance.uniform(0.001, 0.05)))


KINDS = [whole, whole_stream, closed_stream, closed_stream, closed_stream, closed_before_the_answer, refused,
         grpc_cancelled, grpc_deadline]


def run(stack, protos, requests, seed):
    """Every request once, each its own random kind of client."""
    def one(item):
        number, (path, fields, _) = item
        chance = random.Random(f"{seed} {number}")
        chance.choice(KINDS)(stack, stub, protos, chance, path, fields)

    with rpc.channel(stack.grpc) as channel, concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        stub = protos.generation_grpc.GenerationStub(channel)
        for _ in pool.map(one, enumerate(requests)):
            pass
    stack.wait_until_idle()


@pytest.fixture(scope="module")
def small_pool():
    """With KV memory that the warm-up touches as a whole: in a large pool new blocks would look like a leak."""
    with Stack(TRAINED, verifier=["--kv-bytes", "4MiB"]) as stack:
        yield stack


def test_nothing_leaks_over_2000_requests_with_cancels_and_disconnects(small_pool, protos):
    processes = {"gateway": small_pool.gateway.pid, "verifier": small_pool.verifier.pid}
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    run(small_pool, protos, mixed_requests(100, seed=seed), f"{seed} warm")
    before = {name: descriptors(pid) for name, pid in processes.items()}
    resident = []
    for half in range(2):
        run(small_pool, protos, mixed_requests(HALF, seed=seed + half), f"{seed} {half}")
        resident.append({name: resident_bytes(pid) for name, pid in processes.items()})
    for name, pid in processes.items():
        wait_until(lambda: descriptors(pid) <= before[name],
                   f"{name}: descriptors back to {before[name]}, now {os.listdir(f'/proc/{pid}/fd')}")
        first, second = resident[0][name], resident[1][name]
        print(f"{name}: {first >> 10} KiB after {HALF} requests, {second >> 10} KiB after {2 * HALF}")
        assert second <= first * 1.02 + ALLOWED_GROWTH, f"{name} grew from {first} to {second} bytes"
    scrape = small_pool.gateway_metrics.read()
    ended, accepted = scrape.sum("tandem_requests_total"), scrape.sum("tandem_requests_accepted_total")
    assert accepted > HALF, "hardly any request was accepted"
    assert ended >= accepted, "an accepted request never ended"
    assert small_pool.gateway.running() and small_pool.verifier.running()
