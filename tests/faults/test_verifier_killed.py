"""kill -9 of the verifier in the middle of streams: the client sees a pause, then the same text."""

import concurrent.futures
import os
import signal
import time

import pytest

from harness import http
from harness.paths import TRAINED, binary, golden_json
from harness.processes import NO_DRAIN_DELAY, Process, Stack, Up
from harness.waiting import wait_until
from harness.workload import answer, answers, assert_equal, long_streams

KILLS = int(os.environ.get("TANDEM_KILLS", "3"))
CLIENTS = 8
USER = golden_json("drafters/trained_pair/greedy_examples.json")[0]["user"]


def test_streams_survive_several_kills_under_tandem_up(subject):
    requests = subject.streams
    with Stack(subject.model) as stack:
        expected = answers(stack.http, requests, 8)
    # One at a time on the verifier, and always some more in the queue, however long they wait: each kill hits a stream.
    flags = ("--set", "verifier.max-num-seqs=1", "--set", "gateway.max-queue-wait=0s")
    with Up(subject.model, *flags) as up, concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        started = []

        def keep_clients_busy():
            while sum(not future.done() for future in started) < CLIENTS:
                started.append(pool.submit(answer, up.http, requests[len(started) % len(requests)]))

        done = 0
        for kill in range(KILLS):
            def progressed():
                scrape = up.gateway_metrics.read()
                # A request that comes while there is no verifier may be refused, so none does.
                if not scrape.sum("tandem_verifiers", state="ready"):
                    return False
                keep_clients_busy()
                tokens = scrape.sum("tandem_generation_tokens_total")
                return scrape.sum("tandem_requests_running") and tokens >= done + 100 and tokens

            done = wait_until(progressed, f"tokens before kill {kill}", timeout=60, interval=0.005)
            victim = up.child("verifier")
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: up.child("verifier") not in (None, victim), "verifier restarted")
            wait_until(lambda: up.process.stderr().count("verifier restarted") > kill,
                       "`tandem up` says that it restarted the verifier")
        found = [future.result(timeout=120) for future in started]
        asked = [i % len(requests) for i in range(len(started))]
        assert_equal([requests[i] for i in asked], found, [expected[i] for i in asked])
        scrape = up.gateway_metrics.read()
        assert scrape.sum("tandem_failovers_total") > 0
        assert scrape.sum("tandem_requests_running") == 0
        # And it serves on.
        assert_equal(requests[:4], answers(up.http, requests[:4], 4), expected[:4])


def restart_verifier(stack, address):
    verifier = Process([binary("tandem-verifier"), "--model", stack.model, "--listen", address, "--metrics",
                        "127.0.0.1:0"] + NO_DRAIN_DELAY)
    verifier.addresses()
    return verifier


def begin_stream_and_kill_verifier(stack, request):
    """A stream of which a part has come and that lost its verifier; leaves the gateway not ready.

    The verifier may have said all before it dies: then another one is started and the next stream begun.
    """
    path, fields, _ = request
    for _ in range(20):
        events = http.EventStream(stack.http, path, {**fields, "model": "default"})
        next(events, None)
        next(events, None)
        stack.verifier.kill()
        wait_until(lambda: http.get(stack.http, "/ready").status == 503, "not ready without verifier")
        scrape = stack.gateway_metrics.read()
        if scrape.sum("tandem_requests_waiting") == 1:
            return events
        for _ in events:
            pass
        events.close()
        stack.verifier = restart_verifier(stack, stack.verifier_address)
        wait_until(lambda: http.get(stack.http, "/ready").status == 200, "ready with a new verifier")
    raise AssertionError("no stream was hit in the middle")


def test_a_stream_waits_for_a_new_verifier_and_new_requests_are_refused_soon():
    request = long_streams(1)[0]
    with Stack(TRAINED) as stack, concurrent.futures.ThreadPoolExecutor(1) as pool:
        expected = answer(stack.http, request)
        with begin_stream_and_kill_verifier(stack, request) as events:
            assert http.get(stack.http, "/health").status == 200
            begin = time.monotonic()
            refused = http.chat(stack.http, USER)
            assert time.monotonic() - begin < 6
            assert refused.status == 503, refused
            assert refused.error()["code"] == "unavailable"
            assert refused.error()["type"] == "server_error"
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            future = pool.submit(restart_verifier, stack, stack.verifier_address)
            for _ in events:
                pass
            assert events.done
        with future.result(timeout=30):
            assert answer(stack.http, request) == expected
            stack.gateway.terminate()


if os.environ.get("TANDEM_SOAK") == "1":
    def test_a_stream_whose_verifier_stays_away_ends_with_an_error_after_30_s():
        path, fields, _ = long_streams(1)[0]
        with Stack(TRAINED) as stack, http.EventStream(stack.http, path, fields) as events:
            next(events)
            stack.verifier.kill()
            begin = time.monotonic()
            with pytest.raises(AssertionError, match="backend lost"):
                for _ in events:
                    pass
            assert 25 < time.monotonic() - begin < 40
