"""The same on a real model with its own drafter."""

import pytest

from harness.drafters import Drafter, SpeculatingStack, speculation
from harness.paths import smollm2_path
from harness.processes import Stack
from harness.workload import answers, assert_equal

PROMPTS = ["What is the capital of France?", "Count from one to twenty.", "Write a short poem about the sea.",
           "List three fruits.", "Why is the sky blue?", "Say hello."]
REQUESTS = [("/v1/chat/completions",
             {"model": "default", "messages": [{"role": "user", "content": prompt}], "max_tokens": 16, "seed": i,
              "temperature": [0, 0.7, 1][i % 3], **({"repetition_penalty": 1.2} if i % 2 else {})}, i % 2 == 0)
            for i, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def alone():
    with Stack(smollm2_path(), verifier=["--prefix-cache", "off"]) as stack:
        return answers(stack.http, REQUESTS, 1)


@pytest.mark.parametrize("policy, concurrent, transport", [
    ("fixed:7", len(REQUESTS), "shm"),
    ("fixed:4", len(REQUESTS), "inline"),
    ("fixed:2", 1, "inline"),
    ("fixed:1", 2, "shm"),
    ("threshold:0.5", len(REQUESTS), "inline"),
    ("prefix", len(REQUESTS), "shm"),
])
def test_text_is_the_same(alone, policy, concurrent, transport):
    drafter = Drafter("default", target=smollm2_path())
    with SpeculatingStack([drafter], ["--policy", policy, "--row-transport", transport],
                          model=smollm2_path()) as stack:
        assert_equal(REQUESTS, answers(stack.http, REQUESTS, concurrent), alone)
        stack.wait_until_idle()
        drafted, checked, accepted = speculation(stack.verifier_metrics.read())
    if policy != "prefix":  # which may find that no draft pays on this machine
        assert drafted > 0
        assert accepted > 0, "nothing was accepted"
        assert checked > accepted, "nothing was rejected"
