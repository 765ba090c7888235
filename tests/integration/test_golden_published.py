"""Published models through the real processes against reference texts, in float32 throughout.

An item is compared up to its first position whose recorded margin is at most 1e-3 (a toss-up there). By default
every third item (TANDEM_ALL_ITEMS=1: all), so that two slow cores need less than two minutes.
"""

import concurrent.futures
import hashlib
import os
import pathlib

import pytest

from harness import rpc
from harness.paths import golden_json, pulled_path
from harness.processes import Stack

MODELS = {"smollm2": "smollm2-135m", "gemma3": "gemma3-270m"}
MARGIN = 1e-3
STEP = 1 if os.environ.get("TANDEM_ALL_ITEMS") == "1" else 3
FLAGS = ["--dtype", "f32", "--activations", "f32", "--kv-dtype", "f32"]


@pytest.fixture(scope="module", params=MODELS)
def published(request):
    """The golden file of a model and a stack that serves it."""
    golden = golden_json(f"smollm2/{request.param}.json")
    path = pulled_path(MODELS[request.param])
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    assert digest == golden["sha256"], "the references are of another file"
    with Stack(path, verifier=FLAGS) as running:
        yield golden, running


def comparable(item):
    """How many output tokens of the item are no toss-up."""
    for position, margin in enumerate(item["margins"]):
        if margin <= MARGIN:
            return position
    return len(item["output_ids"])


def prompt(item, m):
    """The conversation of an instruct model's item, the plain text of a base model's."""
    if "messages" not in item:
        return {"text": item["prompt_text"]}
    messages = [m.Message(role=x["role"], content=x["content"]) for x in item["messages"]]
    return {"conversation": m.Conversation(messages=messages)}


def test_greedy_tokens_and_text_equal_the_reference(published, protos):
    golden, stack = published
    m = protos.generation
    items = golden["items"][::STEP]
    with rpc.channel(stack.grpc) as channel:
        stub = protos.generation_grpc.GenerationStub(channel)

        def generate(item):
            request = m.GenerateRequest(model="default", max_tokens=golden["max_new_tokens"],
                                        sampling=m.Sampling(temperature=0), **prompt(item, m))
            return rpc.collect(stub.Generate(request, timeout=110))

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(generate, items))
    compared = 0
    for item, (started, tokens, text, _, _) in zip(items, answers):
        count = comparable(item)
        assert started.prompt_tokens == len(item["prompt_ids"]), item["prompt_text"]
        assert tokens[0][:count] == item["output_ids"][:count], item["prompt_text"]
        if count == len(item["output_ids"]):
            assert text[0] == item["output_text"], item["prompt_text"]
        compared += count
    assert compared > 0, "no position was compared"
