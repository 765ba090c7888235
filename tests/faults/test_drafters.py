"""Whatever a drafter does, and whatever becomes of it, the text is that of no drafter at all."""

import concurrent.futures
import os
import pathlib
import signal

import grpc
import pytest

from harness.paths import GOLDEN, TRAINED, trained_config
from harness.processes import Drafter, Stack
from harness.waiting import wait_until
from harness.workload import answers, assert_equal, long_streams, mixed_requests

REQUESTS, LONG = mixed_requests(24), long_streams(12)
NEURAL = str(GOLDEN / "drafters/trained_pair/drafter")
QUIET = ["--log-level", "error"]


@pytest.fixture(scope="module")
def alone():
    """Each request's answer without a drafter."""
    with Stack(TRAINED) as stack:
        return answers(stack.http, REQUESTS, concurrency=8)


@pytest.fixture(scope="module")
def long_alone():
    with Stack(TRAINED) as stack:
        return answers(stack.http, LONG, concurrency=8)


def with_drafter(drafter, *flags):
    return Stack(TRAINED, verifier=["--drafter", drafter.grpc, "--policy", "fixed:5", *flags])


def wait_until_connected(stack):
    wait_until(lambda: stack.verifier_metrics.read().sum("tandem_drafter_streams") == 1, "drafter connected")


def our_rings(pid):
    return [path.name for path in pathlib.Path("/dev/shm").glob(f"tandem-{pid}-*")]


def script(tmp_path, *lines):
    path = tmp_path / "script.jsonl"
    path.write_text("\n".join((f'{{"block_size": 5, "vocab_size": {trained_config()["vocab_size"]}}}', *lines)))
    return f"scripted:{path}"


@pytest.mark.parametrize("model", ["ngram", "random", NEURAL], ids=["ngram", "random", "neural"])
@pytest.mark.parametrize("transport", ["auto", "inline"])
def test_honest_drafters(alone, model, transport):
    with Drafter(model, "--target", TRAINED, "--row-transport", transport, *QUIET) as drafter:
        with with_drafter(drafter) as stack:
            wait_until_connected(stack)
            assert our_rings(stack.verifier.pid) == []
            assert_equal(REQUESTS, answers(stack.http, REQUESTS, 8), alone)
            metrics = stack.verifier_metrics.read()
            assert metrics.sum("tandem_spec_draft_tokens_total") > 0, "nothing was drafted"
            if model == NEURAL:
                assert metrics.sum("tandem_spec_accepted_tokens_total") > 0
                kind = "shm" if transport == "auto" else "inline"
                by_transport = metrics.by_label("tandem_hidden_state_bytes_total", "transport")
                assert {name for name, size in by_transport.items() if size > 0} == {kind}
            stack.wait_until_idle()
        wait_until(lambda: drafter.metrics.read().sum("tandem_drafter_sequences") == 0, "all sequences freed")


DROPPED = ["too_many_tokens", "no_tokens", "id_beyond_vocab", "negative_id", "nan_confidence"]
STALE = ["wrong_epoch", "stale_length", "wrong_anchor", "wrong_round", "unknown_sequence", "out_of_sync", "silence"]
FATAL = ["number_gap", "credit_falls", "flood"]


@pytest.mark.parametrize("misdeed", DROPPED + STALE + FATAL)
def test_drafters_that_break_the_protocol(alone, tmp_path, misdeed):
    model = script(tmp_path, f'{{"misbehave": "{misdeed}", "every": 5}}')
    with Drafter(model, *QUIET) as drafter, with_drafter(drafter) as stack:
        wait_until_connected(stack)
        assert_equal(REQUESTS, answers(stack.http, REQUESTS, 8), alone)
        metrics = stack.verifier_metrics.read()
        if misdeed in DROPPED:
            assert metrics.sum("tandem_protocol_errors_total", peer="drafter") > 0
        if misdeed in FATAL:
            assert metrics.sum("tandem_drafter_streams_ended_total", reason="protocol") > 0
        stack.wait_until_idle()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP],
                         ids=["killed", "terminated", "stopped"])
def test_a_drafter_that_goes_away_in_the_middle(long_alone, number):
    with Drafter(NEURAL, "--target", TRAINED, *QUIET) as drafter, with_drafter(drafter) as stack:
        wait_until_connected(stack)
        with concurrent.futures.ThreadPoolExecutor(1) as background:
            found = background.submit(answers, stack.http, LONG, 4)
            wait_until(lambda: stack.verifier_metrics.read().sum("tandem_spec_draft_tokens_total") > 50,
                       "drafts checked", interval=0.001)
            assert not found.done(), "all requests ended before the drafter did"
            drafter.process.signal(number)
            assert_equal(LONG, found.result(120), long_alone)
        stack.wait_until_idle()


def test_a_slow_drafter(alone, tmp_path):
    with Drafter(script(tmp_path, '{"delay_ms": 300}'), *QUIET) as drafter, with_drafter(drafter) as stack:
        wait_until_connected(stack)
        assert_equal(REQUESTS[:8], answers(stack.http, REQUESTS[:8], 8), alone[:8])
        stack.wait_until_idle()


class MuteDrafter:
    """Says hello, chooses shared memory, and never answers the ring."""

    def __init__(self, protos):
        self.m, self._protos = protos.speculate, protos
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        protos.speculate_grpc.add_DrafterServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *unused):
        self._server.stop(None).wait()

    def Speculate(self, requests, context):
        verifier, m = next(requests).hello, self.m
        width = 16
        yield m.SpeculateResponse(hello=m.DrafterHello(
            protocol=verifier.protocol, incarnation="0123456789abcdef", sampling_version=verifier.sampling_version,
            acceptance=verifier.acceptance, algorithm="scripted", name="mute", vocab_size=verifier.vocab_size,
            block_size=4, row_width=width, taps=[0], projection_hash="0" * 64,
            projection_bytes=4 * width * verifier.hidden_size, transport=m.ROW_TRANSPORT_SHARED_MEMORY,
            rows_granted=1024, max_sequences=4, max_context_rows=100))
        for _ in requests:
            pass


def test_a_verifier_killed_while_it_offers_a_ring_leaves_it_only_until_the_next_start(protos):
    with MuteDrafter(protos) as mute:
        with Stack(TRAINED, verifier=["--drafter", mute.address]) as stack:
            pid = stack.verifier.pid
            wait_until(lambda: our_rings(pid), "the ring offered")
            os.kill(pid, signal.SIGKILL)
            stack.verifier.wait(10)
            assert our_rings(pid), "nothing to tidy up"
        with Stack(TRAINED, verifier=["--drafter", mute.address]) as stack:
            assert our_rings(pid) == []
            next_pid = stack.verifier.pid
            wait_until(lambda: our_rings(next_pid), "the ring offered")
            assert stack.verifier.terminate(30) == 0
        assert our_rings(next_pid) == []
