"""The same on a real model, whose tokens are pieces of words and whose matrices fill many tiles."""

import pytest

from harness.paths import smollm2_path
from harness.processes import Stack
from harness.workload import answers, assert_equal, mixed_requests

REQUESTS = [(path, {**fields, "max_tokens": min(fields["max_tokens"], 20)}, streamed)
            for path, fields, streamed in mixed_requests(14, seed=3)]


@pytest.fixture(scope="module")
def alone():
    with Stack(smollm2_path(), verifier=["--threads", "1", "--prefix-cache", "off"]) as stack:
        return answers(stack.http, REQUESTS, concurrency=1)


@pytest.mark.parametrize("flags", [["--threads", "2", "--prefill-chunk", "16"],
                                   ["--threads", "2", "--prefill-chunk", "512", "--max-step-tokens", "1024"]],
                         ids=["chunks of 16", "chunks of 512"])
def test_all_at_once_give_what_each_gives_alone(alone, flags):
    with Stack(smollm2_path(), verifier=flags) as stack:
        assert_equal(REQUESTS, answers(stack.http, REQUESTS, len(REQUESTS)), alone)
