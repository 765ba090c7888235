"""More requests than the verifier has places for: who would wait too long, or comes when the queue is full, is told to
come back; who was taken gets the whole answer.
"""

import concurrent.futures

import grpc
import pytest

from harness import http, rpc
from harness.misuse import refusals
from harness.paths import TRAINED
from harness.processes import Stack
from harness.waiting import wait_until

QUEUE = 64  # places at least, of the queue
REQUEST = {"model": "default", "prompt": "Once", "max_tokens": 300, "ignore_eos": True}


def ask(stack):
    return http.post(stack.http, "/v1/completions", REQUEST)


def waiting(stack):
    return stack.gateway_metrics.read().sum("tandem_requests_waiting")


def assert_come_back(refused, message):
    assert refused.status == 429 and refused.error()["code"] == "rate_limit_exceeded", refused
    assert refused.error()["type"] == "rate_limit_error" and message in refused.error()["message"], refused
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def assert_come_back_over_grpc(stack, protos, message):
    with rpc.channel(stack.grpc) as channel, pytest.raises(grpc.RpcError) as raised:
        stub = protos.generation_grpc.GenerationStub(channel)
        list(stub.Generate(protos.chat("Hi."), timeout=10))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and message in raised.value.details()
    assert 1000 <= int(dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"]) <= 60_000


def test_a_predicted_wait_beyond_max_queue_wait_is_refused(protos):
    with Stack(TRAINED, verifier=["--max-num-seqs", "1"], gateway=["--max-queue-wait", "100ms"]) as stack, \
            concurrent.futures.ThreadPoolExecutor(QUEUE) as pool:
        # All at once: there is no experience yet, so all are taken.
        taken = [pool.submit(ask, stack) for _ in range(QUEUE)]
        # The first places that are freed tell how fast the queue moves.
        wait_until(lambda: sum(future.done() for future in taken) >= 12, "places freed")
        assert waiting(stack) > 8, "the queue moved too fast for the test"
        with refusals(stack, queue_full=2):
            assert_come_back(ask(stack), "predicted wait of ")
            assert_come_back_over_grpc(stack, protos, "predicted wait of ")
        assert [future.result().status for future in taken] == [200] * QUEUE
        assert ask(stack).status == 200
        stack.wait_until_idle()


def test_without_limit_only_a_full_queue_refuses():
    eight = {**REQUEST, "n": 8}
    with Stack(TRAINED, verifier=["--max-num-seqs", "1"], gateway=["--max-queue-wait", "0s"]) as stack, \
            concurrent.futures.ThreadPoolExecutor(QUEUE) as pool:
        # One runs, and seven of the same request wait.
        taken = [pool.submit(http.post, stack.http, "/v1/completions", eight)]
        wait_until(lambda: stack.gateway_metrics.read().sum("tandem_requests_running") == 1, "the first one runs",
                   interval=0.005)
        taken += [pool.submit(http.post, stack.http, "/v1/completions", eight) for _ in range(QUEUE // 8 - 1)]
        wait_until(lambda: waiting(stack) > QUEUE - 8, "queue full", interval=0.005)
        with refusals(stack, queue_full=1):
            assert_come_back(http.post(stack.http, "/v1/completions", eight), f"queue is full ({QUEUE})")
        assert [future.result().status for future in taken] == [200] * len(taken)
        assert ask(stack).status == 200
        stack.wait_until_idle()
