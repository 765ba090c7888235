"""Drafters that lie, are replaced by another version, or by something that is no drafter at all: the text is the same,
the metrics say what was wrong, and a drafter that is well again is used within 5 s.
"""

import contextlib
import os
import pathlib
import socket
import threading

import pytest

from harness.background import Streams
from harness.drafters import (BACK, FALLBACK, LONGEST_PAUSE, TRAINED_DRAFTER, Drafter, SpeculatingStack, accepted,
                              fallbacks, known_texts, nothing_left, rings, speculation, wait_until_used,
                              with_other_projection, write_script)
from harness.paths import TRAINED, golden_json
from harness.processes import Stack, descriptors
from harness.waiting import wait_until
from harness.workload import answers, long_streams

CLIENTS = 4
REQUESTS = long_streams(32)
PROTOCOL = "tandem_protocol_errors_total"
ENDED = "tandem_drafter_streams_ended_total"
# What a drafter may do wrong, which is right otherwise -> what the verifier says about it: (metric, labels).
LIES = {
    "too_many_tokens": (PROTOCOL, {"check": "token_count"}),
    "no_tokens": (PROTOCOL, {"check": "token_count"}),
    "id_beyond_vocab": (PROTOCOL, {"check": "token_id"}),
    "negative_id": (PROTOCOL, {"check": "token_id"}),
    "nan_confidence": (PROTOCOL, {"check": "confidence"}),
    "wrong_epoch": (FALLBACK, {"reason": "stale"}),
    "stale_length": (FALLBACK, {"reason": "stale"}),
    "wrong_anchor": (FALLBACK, {"reason": "stale"}),
    "wrong_round": (FALLBACK, {"reason": "stale"}),
    "unknown_sequence": (FALLBACK, {"reason": "timeout"}),
    "number_gap": (ENDED, {"reason": "protocol"}),
    "credit_falls": (ENDED, {"reason": "protocol"}),
    "flood": (ENDED, {"reason": "protocol"}),
    "silence": (FALLBACK, {"reason": "timeout"}),
    "out_of_sync": ("tandem_out_of_sync_total", {"stream": "speculate"}),
}


@pytest.fixture(scope="module")
def expected():
    """Answers to REQUESTS without drafter."""
    with Stack(TRAINED) as stack:
        return answers(stack.http, REQUESTS, 8)


def streams(target, expected, clients=CLIENTS):
    return Streams(target.http, REQUESTS, expected, clients)


@pytest.fixture(scope="module")
def greedy():
    """Requests that known_texts() is right about, and their answers."""
    requests = [("/v1/chat/completions",
                 {"model": "default", "messages": [{"role": "user", "content": example["user"]}], "temperature": 0,
                  "max_tokens": 100}, True)
                for example in golden_json("drafters/trained_pair/greedy_examples.json")]
    with Stack(TRAINED) as stack:
        return requests, answers(stack.http, requests, 8)


@pytest.mark.parametrize("kind", LIES)
def test_a_drafter_that_lies_in_every_tenth_batch(greedy, tmp_path, kind):
    requests, expected = greedy
    head = {"block_size": 7, "vocab_size": 260, "confidence": 20}
    script = write_script(tmp_path / "lies", [head, *known_texts(), {"misbehave": kind, "every": 10}])
    metric, labels = LIES[kind]
    with SpeculatingStack([Drafter(script)], ["--policy", "fixed:7"]) as stack:
        metrics, before = stack.verifier_metrics, descriptors(stack.verifier.pid)
        with Streams(stack.http, requests, expected, CLIENTS) as running:
            wait_until(lambda: metrics.read().sum(metric, **labels) >= 2, f"{metric} counts {kind}")
            assert accepted(metrics) > 0
            wait_until_used(metrics, more=50)
            running.check()
        stack.wait_until_idle()
        wait_until(lambda: descriptors(stack.verifier.pid) <= before, "descriptors back")
        wait_until(lambda: not rings(stack.verifier.pid), "no shared memory left")


def test_a_drafter_that_lies_about_its_projection_is_refused(expected, tmp_path):
    script = write_script(tmp_path / "lies", [*known_texts(), {"misbehave": "wrong_projection"}])
    with Drafter(script) as drafter, Stack(TRAINED, ["--drafter", drafter.address, "--policy", "fixed:7"]) as stack:
        metrics = stack.verifier_metrics
        with streams(stack, expected) as running:
            wait_until(lambda: metrics.read().sum(ENDED, reason="protocol") >= 3, "refused again and again")
            running.check()
        assert fallbacks(metrics, "drafter_down") > 0, "no stream had missed it"
        assert speculation(metrics.read()) == (0, 0, 0)


def test_a_drafter_is_replaced_by_another_version_of_its_model(expected, tmp_path):
    drafter = Drafter()
    versions = [with_other_projection(TRAINED_DRAFTER, tmp_path / "other"), TRAINED_DRAFTER]
    # Two at a time and others waiting: some stream runs whenever a drafter comes, though clients read slowly.
    flags = ["--policy", "fixed:7", "--max-num-seqs", "2"]
    with SpeculatingStack([drafter], flags) as stack, streams(stack, expected, 8) as running:
        metrics = stack.verifier_metrics
        wait_until_used(metrics)
        with nothing_left(stack.verifier.pid, metrics):
            for version in 2 * versions:
                down = fallbacks(metrics, "drafter_down")
                drafter.command(version)
                running.take_longest_gap()
                drafter.kill()
                drafter.start()
                wait_until_used(metrics, timeout=BACK)
                assert pathlib.Path(version).name in drafter.metrics.read().by_label("tandem_model_info", "name")
                assert fallbacks(metrics, "drafter_down") > down, "no stream was hit"
                assert running.take_longest_gap() < LONGEST_PAUSE
            # Streams that ran on had rows of the other projection.
            assert fallbacks(metrics, "no_rows") > 0
            running.check()


@contextlib.contextmanager
def garbage_at(address):
    """A server that says something else than gRPC to whoever comes; yields a list with an entry for each."""
    host, port = address.rsplit(":", 1)
    came = []
    with socket.create_server((host, int(port))) as server:
        def run():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                came.append(1)
                with connection, contextlib.suppress(OSError):
                    connection.sendall(os.urandom(65536))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield came
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_garbage_at_the_drafters_address(expected):
    drafter = Drafter()
    with SpeculatingStack([drafter], ["--policy", "fixed:7"]) as stack, streams(stack, expected) as running:
        metrics = stack.verifier_metrics
        wait_until_used(metrics)
        with nothing_left(stack.verifier.pid, metrics):
            running.take_longest_gap()
            drafter.kill()
            with garbage_at(drafter.address) as came:
                # By then its pauses have grown as long as they get.
                wait_until(lambda: len(came) >= 8, "the verifier has come again and again", 60)
                assert fallbacks(metrics, "drafter_down") > 0
                running.check()
            drafter.start()
            wait_until_used(metrics, timeout=BACK)
            assert running.take_longest_gap() < LONGEST_PAUSE
            running.check()
