"""Text is a function of (model, numerics, prompt, parameters, seed): of nothing else that happens to the request.

The reference is each request alone on a server that does nothing else; every other way must give the same bytes.
"""

import pytest

from harness.paths import TRAINED, trained_config
from harness.processes import Stack
from harness.workload import answers, assert_equal, long_streams, mixed_requests

CONCURRENT = 64
REQUESTS = mixed_requests(CONCURRENT)


def context_bytes():
    """KV bytes of one sequence of full length at 32 bits."""
    config = trained_config()
    return (4 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]
            * config["max_position_embeddings"])


@pytest.fixture(scope="module")
def alone():
    """Each request's answer while nothing else runs, without prefix cache."""
    with Stack(TRAINED, verifier=["--threads", "1", "--prefix-cache", "off"]) as stack:
        return answers(stack.http, REQUESTS, concurrency=1)


WAYS = {
    "default flags": [],
    "one thread": ["--threads", "1"],
    "two threads": ["--threads", "2"],
    "prefill chunks of 16": ["--prefill-chunk", "16"],
    "prefill chunks of 512": ["--prefill-chunk", "512", "--max-step-tokens", "1024"],
    "prefix cache off": ["--prefix-cache", "off"],
    "small steps": ["--max-step-tokens", "64", "--prefill-chunk", "16"],
}


@pytest.mark.parametrize("flags", WAYS.values(), ids=WAYS.keys())
def test_64_at_once_give_what_each_gives_alone(alone, flags):
    with Stack(TRAINED, verifier=flags) as stack:
        assert_equal(REQUESTS, answers(stack.http, REQUESTS, CONCURRENT), alone)
        stack.wait_until_idle()


def test_answers_from_the_prefix_cache_are_the_same(alone):
    with Stack(TRAINED, verifier=["--prefix-cache", "on"]) as stack:
        assert_equal(REQUESTS, answers(stack.http, REQUESTS, 8), alone)
        before = stack.gateway_metrics.read().sum("tandem_cached_prompt_tokens_total")
        assert_equal(REQUESTS, answers(stack.http, REQUESTS, CONCURRENT), alone)
        hits = stack.gateway_metrics.read().sum("tandem_cached_prompt_tokens_total") - before
        assert hits > 0, "the second round took nothing from the cache"


def test_without_prefix_cache_nothing_is_taken_from_it(alone):
    with Stack(TRAINED, verifier=["--prefix-cache", "off"]) as stack:
        for _ in range(2):
            assert_equal(REQUESTS[:16], answers(stack.http, REQUESTS[:16], 16), alone[:16])
        assert stack.gateway_metrics.read().sum("tandem_cached_prompt_tokens_total") == 0


@pytest.mark.parametrize("cache", ["on", "off"])
def test_preempted_sequences_go_on_with_the_same_text(alone, cache):
    # Room for a little more than one sequence of full length: most must be preempted again and again.
    flags = ["--kv-bytes", str(context_bytes() * 17 // 16), "--prefix-cache", cache, "--kv-dtype", "f32"]
    requests = REQUESTS + long_streams(8)  # each of which needs most of the pool in the end
    with Stack(TRAINED, verifier=flags) as stack:
        found = answers(stack.http, requests, CONCURRENT)
        preemptions = stack.gateway_metrics.read().sum("tandem_preemptions_total")
        assert preemptions > 0, "no sequence was preempted"
        with Stack(TRAINED, verifier=["--kv-dtype", "f32"]) as roomy:
            assert_equal(requests, found, answers(roomy.http, requests, 8))
        stack.wait_until_idle()
