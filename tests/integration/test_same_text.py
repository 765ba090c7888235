"""Text is a function of (model, numerics, prompt, parameters, seed): of nothing else that happens to the request.

The reference is each request alone on a server that does nothing else; every other way must give the same bytes, on each
model of harness/subjects.py. The same across kill -9 of the verifier: tests/faults/test_verifier_killed.py.
"""

import dataclasses
import json

import pytest

from harness.processes import Stack
from harness.subjects import CONCURRENT
from harness.workload import answers, assert_equal

ALONE_KV_BYTES = 256 << 20
BLOCK = 16  # positions


@dataclasses.dataclass
class Alone:
    """What each request and the first streams give while nothing else runs, without prefix cache."""
    requests: list
    streams: list
    block_bytes: int  # of KV memory


@pytest.fixture(scope="module")
def alone(subject):
    flags = ["--threads", "1", "--prefix-cache", "off", "--kv-bytes", str(ALONE_KV_BYTES)]
    with Stack(subject.model, verifier=flags) as stack:
        found = answers(stack.http, subject.requests + subject.streams[:8], concurrency=1)
        blocks = stack.verifier_metrics.read().sum("tandem_kv_blocks")
    return Alone(found[:CONCURRENT], found[CONCURRENT:], -(-ALONE_KV_BYTES // int(blocks)))


WAYS = {
    "default flags": [],
    "one thread, prefill chunks of 16": ["--threads", "1", "--prefill-chunk", "16"],
    "two threads, prefill chunks of 512": ["--threads", "2", "--prefill-chunk", "512", "--max-step-tokens", "1024"],
    "small steps, no prefix cache": ["--max-step-tokens", "64", "--prefill-chunk", "16", "--prefix-cache", "off"],
}


@pytest.mark.parametrize("flags", WAYS.values(), ids=WAYS.keys())
def test_64_at_once_give_what_each_gives_alone(subject, alone, flags):
    with Stack(subject.model, verifier=flags) as stack:
        assert_equal(subject.requests, answers(stack.http, subject.requests, CONCURRENT), alone.requests)
        stack.wait_until_idle()


FORCED = ["--run-transport", "grpc"]
TRANSPORTS = {"socket": ([], [], "unix"), "gRPC, forced by the verifier": (FORCED, [], "grpc"),
              "gRPC, forced by the gateway": ([], FORCED, "grpc")}


@pytest.mark.parametrize("verifier, gateway, transport", TRANSPORTS.values(), ids=TRANSPORTS.keys())
def test_plans_and_reports_by_either_transport(subject, alone, verifier, gateway, transport):
    with Stack(subject.model, verifier=verifier, gateway=gateway) as stack:
        assert_equal(subject.requests, answers(stack.http, subject.requests, CONCURRENT), alone.requests)
        stack.wait_until_idle()
        streams = stack.verifier_metrics.read().by_label("tandem_run_message_streams", "transport")
        assert streams == {"unix": 0, "grpc": 0} | {transport: 1}


@pytest.mark.parametrize("cache", ["on", "off"])
def test_with_and_without_prefix_cache(subject, alone, cache):
    with Stack(subject.model, verifier=["--prefix-cache", cache]) as stack:
        for _ in range(2):
            before = stack.gateway_metrics.read().sum("tandem_cached_prompt_tokens_total")
            assert_equal(subject.requests, answers(stack.http, subject.requests, CONCURRENT), alone.requests)
        hits = stack.gateway_metrics.read().sum("tandem_cached_prompt_tokens_total") - before
        assert (hits > 0) == (cache == "on"), f"{hits} tokens of the second round's prompts came from the cache"


def positions(request, answer):
    """That the request's longest sequence may need, by its answer's counts."""
    return json.loads(answer)[1]["prompt_tokens"] + request[1]["max_tokens"]


@pytest.mark.parametrize("cache", ["on", "off"])
def test_preempted_sequences_go_on_with_the_same_text(subject, alone, cache):
    # Room for a little more than the longest of the streams, each of which needs most of the pool in the end: most must
    # be preempted again and again.
    streams = list(zip(subject.streams[:8], alone.streams, strict=True))
    longest = max(positions(*stream) for stream in streams)
    asked = [pair for pair in zip(subject.requests, alone.requests, strict=True) if positions(*pair) <= longest] + streams
    requests, expected = zip(*asked)
    assert len(requests) >= CONCURRENT // 2
    blocks = longest // BLOCK + 3
    with Stack(subject.model, verifier=["--kv-bytes", str(blocks * alone.block_bytes), "--prefix-cache", cache]) as stack:
        assert_equal(requests, answers(stack.http, requests, CONCURRENT), expected)
        assert stack.gateway_metrics.read().sum("tandem_preemptions_total") > 0, "no sequence was preempted"
        stack.wait_until_idle()
