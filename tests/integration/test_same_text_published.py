"""The same on published models, whose tokens are pieces of words and whose matrices fill many tiles."""

import pytest

from harness.paths import pulled_path
from harness.processes import Stack
from harness.workload import CONTEXT_FILLER, answers, assert_equal, mixed_requests



def without_template(path, fields, streamed):
    """Gemma 3 270M's file has no chat template."""
    if "messages" not in fields:
        return path, fields, streamed
    fields = dict(fields)
    prompt = fields.pop("messages")[-1]["content"]
    if fields.pop("logprobs", False):
        fields["logprobs"] = min(fields.pop("top_logprobs"), 5)
    return "/v1/completions", {**fields, "prompt": prompt}, streamed


MIXED = [without_template(path, {**fields, "max_tokens": min(fields["max_tokens"], 20)}, streamed)
         for path, fields, streamed in mixed_requests(14, seed=3)]
# Longer than the windows of Gemma 3's local layers, 512 positions.
LONG = [("/v1/completions", {"model": "default", "prompt": CONTEXT_FILLER * 30 + beginning, "temperature": 0,
                             "max_tokens": 12, "ignore_eos": True}, False) for beginning in ("Then", "But")]
REQUESTS = MIXED + LONG


@pytest.fixture(scope="module", params=["smollm2-135m", "gemma3-270m"])
def model(request):
    return pulled_path(request.param)


@pytest.fixture(scope="module")
def alone(model):
    with Stack(model, verifier=["--threads", "1", "--prefix-cache", "off"]) as stack:
        return answers(stack.http, REQUESTS, concurrency=1)


@pytest.mark.parametrize("flags", [["--threads", "2", "--prefill-chunk", "16"],
                                   ["--threads", "2", "--prefill-chunk", "512", "--max-step-tokens", "1024"]],
                         ids=["chunks of 16", "chunks of 512"])
def test_all_at_once_give_what_each_gives_alone(model, alone, flags):
    with Stack(model, verifier=flags) as stack:
        assert_equal(REQUESTS, answers(stack.http, REQUESTS, len(REQUESTS)), alone)
