"""SmolLM2 through the real processes against reference texts, in float32 throughout.

An item is compared up to its first position whose recorded margin is at most 1e-3 (a toss-up there). By default
every third item (TANDEM_ALL_ITEMS=1: all), so that two slow cores need less than two minutes.
"""

import concurrent.futures
import hashlib
import os
import pathlib

import pytest

from harness import rpc
from harness.paths import golden_json, smollm2_path
from harness.processes import Stack

GOLDEN = golden_json("smollm2/smollm2.json")
MARGIN = 1e-3
STEP = 1 if os.environ.get("TANDEM_ALL_ITEMS") == "1" else 3
FLAGS = ["--dtype", "f32", "--activations", "f32", "--kv-dtype", "f32"]


@pytest.fixture(scope="module")
def stack():
    path = smollm2_path()
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    assert digest == GOLDEN["sha256"], "the references are of another file"
    with Stack(path, verifier=FLAGS) as running:
        yield running


def comparable(item):
    """How many output tokens of the item are no toss-up."""
    for position, margin in enumerate(item["margins"]):
        if margin <= MARGIN:
            return position
    return len(item["output_ids"])


def test_greedy_tokens_and_text_equal_the_reference(stack, protos):
    m = protos.generation
    items = GOLDEN["items"][::STEP]
    with rpc.channel(stack.grpc) as channel:
        stub = protos.generation_grpc.GenerationStub(channel)

        def generate(item):
            messages = [m.Message(role=x["role"], content=x["content"]) for x in item["messages"]]
            request = m.GenerateRequest(model="default", conversation=m.Conversation(messages=messages),
                                        max_tokens=GOLDEN["max_new_tokens"], sampling=m.Sampling(temperature=0))
            return rpc.collect(stub.Generate(request, timeout=110))

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(generate, items))
    compared = 0
    for item, (started, tokens, text, _, _) in zip(items, answers):
        count = comparable(item)
        assert started.prompt_tokens == len(item["prompt_ids"]), item["messages"]
        assert tokens[0][:count] == item["output_ids"][:count], item["messages"]
        if count == len(item["output_ids"]):
            assert text[0] == item["output_text"], item["messages"]
        compared += count
    assert compared > 0, "no position was compared"
