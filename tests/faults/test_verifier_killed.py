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

KILLS = int(os.environ.get("TANDEM_KILLS", "4"))
USER = golden_json("drafters/trained_pair/greedy_examples.json")[0]["user"]


def test_streams_survive_several_kills_under_tandem_up():
    requests = long_streams(64)
    with Stack(TRAINED) as stack:
        expected = answers(stack.http, requests, 8)
    # One at a time, so that the small model takes long enough to be killed several times in the middle.
    with Up(TRAINED, "--set", "verifier.max-num-seqs=1") as up, concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
        futures = [pool.submit(answer, up.http, request) for request in requests]
        done = 0
        for kill in range(KILLS):
            def progressed():
                assert not all(future.done() for future in futures), f"all ended before kill {kill}"
                scrape = up.gateway_metrics.read()
                tokens = scrape.sum("tandem_generation_tokens_total")
                return up.child("verifier") and scrape.sum("tandem_requests_running") and \
                    tokens >= done + 100 and tokens

            done = wait_until(progressed, f"tokens before kill {kill}", timeout=60, interval=0.005)
            victim = up.child("verifier")
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: up.child("verifier") not in (None, victim), "verifier restarted")
            wait_until(lambda: up.process.stderr().count("verifier restarted") > kill,
                       "`tandem up` says that it restarted the verifier")
        found = [future.result(timeout=120) for future in futures]
        assert_equal(requests, found, expected)
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


def test_a_stream_waits_for_a_new_verifier_and_new_requests_are_refused_soon():
    request = long_streams(1)[0]
    with Stack(TRAINED) as stack:
        expected = answer(stack.http, request)
        address = stack.verifier_address
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            fields = {**request[1], "model": "default"}
            with http.EventStream(stack.http, request[0], fields) as events:
                for _ in range(5):
                    next(events)
                stack.verifier.kill()
                wait_until(lambda: http.get(stack.http, "/ready").status == 503, "not ready without verifier")
                assert http.get(stack.http, "/health").status == 200
                begin = time.monotonic()
                refused = http.chat(stack.http, USER)
                assert time.monotonic() - begin < 6
                assert refused.status == 503, refused
                assert refused.error()["code"] == "unavailable"
                assert refused.error()["type"] == "server_error"
                assert 1 <= int(refused.headers["retry-after"]) <= 60
                future = pool.submit(restart_verifier, stack, address)
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
