"""Requests with options drawn at random say the same over HTTP (whole and streamed) and gRPC, with the metrics flag on.

The openai client checks each HTTP answer against its own types.
"""

import random

import openai
import pytest

from harness import rpc
from harness.drafters import Drafter, SpeculatingStack
from harness.paths import trained_config

VOCABULARY = trained_config()["vocab_size"]
PROMPTS = ["Tell me a story about a red fox.", "Count from 1 to 20.", "Who lives in Oslo?"]
NUMBER = 24


@pytest.fixture(scope="module")
def stack():
    """With a drafter, so that figures of drafts are there."""
    with SpeculatingStack([Drafter()], gateway=["--per-request-spec-decode-metrics", "summary",
                                                "--prediction-tokens-in-usage"]) as running:
        yield running


@pytest.fixture(scope="module")
def client(stack):
    with openai.OpenAI(base_url=f"http://{stack.http}/v1", api_key="any", max_retries=0, timeout=60,
                       _strict_response_validation=True) as strict:
        yield strict


def draw(rng):
    """(fields as OpenAI's API has them, what only ours has): each option in about half of the requests."""
    options = {
        "temperature": rng.choice([0, 0.3, 1, 1.7]), "top_p": rng.choice([0.2, 0.9, 1]), "n": rng.choice([1, 2, 3]),
        "seed": rng.randrange(-2**63, 2**63), "max_tokens": rng.choice([1, 7, 40]), "stop": rng.choice(["e", ["a t", "."]]),
        "presence_penalty": rng.choice([-2, 0.5, 2]), "frequency_penalty": rng.choice([-1, 0.5, 2]),
        "logit_bias": {str(rng.randrange(VOCABULARY)): rng.choice([-100, -3, 5]) for _ in range(3)},
    }
    ours = {
        "top_k": rng.choice([-1, 0, 5, 2**31 - 1]), "min_p": rng.choice([0.0, 0.05, 0.5]),
        "repetition_penalty": rng.choice([0.5, 1.3]), "ignore_eos": rng.choice([True, False]), "min_tokens": rng.choice([0, 1]),
        "stop_token_ids": rng.sample(range(VOCABULARY), 3), "priority": rng.choice([-4, 0, 4]), "tpot_target_ms": rng.choice([0, 2.5, 60000]),
        "chat_template_kwargs": {"enable_thinking": rng.choice([True, False])},
    }
    options = {name: value for name, value in options.items() if rng.random() < 0.5}
    options.setdefault("seed", rng.randrange(2**31))
    options.setdefault("max_tokens", 30)
    ours = {name: value for name, value in ours.items() if rng.random() < 0.5}
    return options, ours, rng.choice([None, 0, 3, 20])


def test_b11_each_valid_penalty_with_a_drafter(client):
    for fields in ({"presence_penalty": -2}, {"presence_penalty": 2}, {"frequency_penalty": -2}, {"frequency_penalty": 2},
                   {"extra_body": {"repetition_penalty": 0.1}}, {"extra_body": {"repetition_penalty": 10}}):
        for temperature in (0, 1e-40, 2):
            answer = client.chat.completions.create(model="default", messages=[{"role": "user", "content": PROMPTS[0]}],
                                                    max_tokens=30, temperature=temperature, seed=1, **fields)
            assert answer.usage.completion_tokens > 0


def over_grpc(protos, stub, prompt, options, ours, num_logprobs):
    m = protos.generation
    fields = {**options, **ours}
    fields["seed"] %= 2**64
    if "logit_bias" in fields:
        fields["logit_bias"] = {int(id): bias for id, bias in fields["logit_bias"].items()}
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    sampling = {name: fields.pop(name) for name in list(fields) if name in m.Sampling.DESCRIPTOR.fields_by_name}
    request = protos.chat(prompt, sampling=m.Sampling(**sampling), **fields)
    if num_logprobs is not None:
        request.num_logprobs = num_logprobs
    return rpc.collect(stub.Generate(request, timeout=60))


def same_logprobs(content, entries):
    """Whether OpenAI's list of tokens and gRPC's say the same."""
    return ([pytest.approx(entry.logprob, abs=1e-6) for entry in entries] == [one.logprob for one in content]
            and [[bytes(top.token) for top in entry.top] for entry in entries]
            == [[bytes(top.bytes or b"") for top in one.top_logprobs] for one in content])


def test_both_doors_say_the_same(stack, client, protos):
    rng = random.Random(20)
    with rpc.channel(stack.grpc) as channel:
        stub = protos.generation_grpc.GenerationStub(channel)
        for _ in range(NUMBER):
            prompt, (options, ours, num_logprobs) = rng.choice(PROMPTS), draw(rng)
            shown = (prompt, options, ours, num_logprobs)
            started, tokens, texts, logprobs, finished = over_grpc(protos, stub, prompt, options, ours, num_logprobs)

            fields = dict(model="default", messages=[{"role": "user", "content": prompt}], extra_body=ours, **options)
            if num_logprobs is not None:
                fields.update(logprobs=True, top_logprobs=num_logprobs)
            whole = client.chat.completions.create(**fields)
            assert {c.index: c.message.content for c in whole.choices} == \
                {index: texts.get(index, "") for index in finished}, shown
            reasons = {protos.generation.FINISH_REASON_STOP: "stop", protos.generation.FINISH_REASON_LENGTH: "length"}
            assert {c.index: c.finish_reason for c in whole.choices} == \
                {index: reasons[end.reason] for index, end in finished.items()}, shown
            assert whole.usage.completion_tokens == sum(len(ids) for ids in tokens.values()), shown
            assert whole.usage.prompt_tokens == started.prompt_tokens, shown
            assert whole.system_fingerprint == started.system_fingerprint
            for choice in whole.choices:
                if num_logprobs is None:
                    assert choice.logprobs is None
                else:
                    assert same_logprobs(choice.logprobs.content, logprobs[choice.index]), shown
            figures = whole.to_dict()["metrics"]["speculative_decoding"]
            assert figures["num_spec_steps"] == sum(figures["acceptance_histogram"])
            assert figures["num_accepted_draft_tokens"] <= figures["num_draft_tokens"] <= figures["num_proposed_tokens"]
            details = whole.usage.completion_tokens_details
            assert details.accepted_prediction_tokens == figures["num_accepted_draft_tokens"]
            assert details.rejected_prediction_tokens == figures["num_draft_tokens"] - details.accepted_prediction_tokens

            streamed, ends, usage = {}, {}, None
            for chunk in client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **fields):
                usage = chunk.usage
                for choice in chunk.choices:
                    streamed[choice.index] = streamed.get(choice.index, "") + (choice.delta.content or "")
                    if choice.finish_reason:
                        ends[choice.index] = choice.finish_reason
            assert streamed == {c.index: c.message.content for c in whole.choices}, shown
            assert ends == {c.index: c.finish_reason for c in whole.choices}, shown
            assert usage.completion_tokens == whole.usage.completion_tokens, shown
