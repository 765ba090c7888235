"""Greedy examples of the small trained model, plain decoding, through the real processes."""

import concurrent.futures

import pytest

from harness import http, rpc
from harness.paths import TRAINED, golden_json
from harness.processes import Stack

EXAMPLES = golden_json("drafters/trained_pair/greedy_examples.json")
NUMERICS = {
    "default": [],
    "f32": ["--dtype", "f32", "--activations", "f32", "--kv-dtype", "f32"],
    "activations f32": ["--activations", "f32"],
}


@pytest.fixture(scope="module", params=NUMERICS.values(), ids=NUMERICS.keys())
def stack(request):
    with Stack(TRAINED, verifier=request.param) as running:
        yield running


def test_every_example_has_its_ids_and_text_over_grpc(stack, protos):
    with rpc.channel(stack.grpc) as channel:
        stub = protos.generation_grpc.GenerationStub(channel)
        for example in EXAMPLES:
            request = protos.chat(example["user"], sampling=protos.generation.Sampling(temperature=0))
            started, tokens, text, _, _ = rpc.collect(stub.Generate(request, timeout=60))
            assert started.prompt_tokens == len(example["prompt_ids"]), example["user"]
            assert tokens[0] == example["greedy_ids"], example["user"]
            assert text[0] == example["greedy_text"], example["user"]


def test_every_example_has_its_text_over_http_all_at_once(stack):
    def text(example):
        answer = http.chat(stack.http, example["user"], temperature=0)
        assert answer.status == 200, answer
        return answer.json()["choices"][0]["message"]["content"]

    with concurrent.futures.ThreadPoolExecutor(len(EXAMPLES)) as pool:
        texts = list(pool.map(text, EXAMPLES))
    assert texts == [example["greedy_text"] for example in EXAMPLES]
