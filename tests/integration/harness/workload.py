"""Requests of many kinds, and what of their answers must never change.

mixed_requests(n) is a function of n alone. answer() is everything that the contract calls a function of (model,
numerics, prompt, parameters, seed): texts, finish reasons, log-probabilities to the last bit, token counts.
"""

import concurrent.futures
import json
import random

from . import http
from .paths import golden_json

CONTEXT_FILLER = "The old man and the red fox went to the market. They bought bread, counted the coins, and went home. "


def mixed_requests(count, seed=1):
    """(path, fields, streamed) of `count` requests for the small trained model."""
    chance = random.Random(seed)
    users = [example["user"] for example in golden_json("drafters/trained_pair/greedy_examples.json")]
    return [_request(chance, users, number) for number in range(count)]


def long_streams(count):
    """Streams of 380 tokens each, otherwise as mixed as ever."""
    requests = []
    for path, fields, _ in mixed_requests(3 * count, seed=2):
        if "messages" not in fields:
            continue
        fields = {name: value for name, value in fields.items() if name not in ("stop", "n")}
        requests.append((path, {**fields, "ignore_eos": True, "max_tokens": 380}, True))
    return requests[:count]


def _request(chance, users, number):
    fields = {
        "model": "default",
        "seed": chance.randrange(-2**63, 2**63),
        "temperature": chance.choice([0, 0, 0.3, 0.7, 1.0, 1.0, 1.5]),
        "max_tokens": chance.choice([1, 2, 17, 40, 90, 150, 200]),
    }
    optional = {
        "top_p": lambda: chance.choice([0.5, 0.9, 0.99]),
        "top_k": lambda: chance.choice([1, 5, 40]),
        "min_p": lambda: chance.choice([0.02, 0.2]),
        "frequency_penalty": lambda: chance.choice([-0.5, 0.4, 1.2]),
        "presence_penalty": lambda: chance.choice([-0.3, 0.6]),
        "repetition_penalty": lambda: chance.choice([0.9, 1.1, 1.3]),
        "logit_bias": lambda: {str(chance.randrange(97, 123)): chance.choice([-5, 2]) for _ in range(3)},
        "stop": lambda: chance.choice([["."], [" the "], ["xyzzy", ", "]]),
        "ignore_eos": lambda: True,
    }
    for name, value in optional.items():
        if chance.random() < 0.25:
            fields[name] = value()
    if chance.random() < 0.2:
        fields["n"] = chance.choice([2, 3])
    if number % 3 == 2:
        # A shared beginning of many blocks (prefix cache) and lengths around multiples of blocks and chunks.
        length = chance.choice([15, 16, 17, 31, 33, 100, 160, 255, 257, 300])
        fields["prompt"] = (CONTEXT_FILLER * 4)[:length]
        if chance.random() < 0.5:
            fields["logprobs"] = chance.choice([0, 3, 5])
        path = "/v1/completions"
    else:
        fields["messages"] = [{"role": "user", "content": chance.choice(users)}]
        if chance.random() < 0.5:
            fields.update(logprobs=True, top_logprobs=chance.choice([0, 2, 20]))
        path = "/v1/chat/completions"
    return path, fields, chance.random() < 0.6


def answer(address, request, on_event=lambda: None):
    """The canonical answer of one request as text. `on_event` is called for each event of a stream."""
    path, fields, streamed = request
    if streamed:
        return _canonical(_streamed(address, path, fields, on_event))
    whole = http.post(address, path, fields)
    assert whole.status == 200, (whole.status, whole.body[:500], fields)
    value = whole.json()
    choices = {}
    for choice in value["choices"]:
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        choices[choice["index"]] = [text, choice["finish_reason"], _logprobs([choice])]
    return _canonical((choices, value["usage"]))


def _streamed(address, path, fields, on_event):
    choices, usage = {}, None
    pieces = {}
    with http.EventStream(address, path, {**fields, "stream_options": {"include_usage": True}}) as events:
        for event in events:
            on_event()
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                state = choices.setdefault(choice["index"], ["", None, None])
                text = choice["delta"].get("content") if "delta" in choice else choice["text"]
                state[0] += text or ""
                state[1] = choice["finish_reason"] or state[1]
                pieces.setdefault(choice["index"], []).append(choice)
    for index, state in choices.items():
        state[2] = _logprobs(pieces[index])
    return choices, usage


def _logprobs(choices):
    """Log-probabilities of one choice from its pieces, lists joined; offsets too."""
    joined = None
    for choice in choices:
        if choice.get("logprobs"):
            joined = joined or {}
            for key, values in choice["logprobs"].items():
                joined.setdefault(key, []).extend(values or [])
    return joined


def _canonical(value):
    choices, usage = value
    counts = {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    return json.dumps([sorted(choices.items()), counts], sort_keys=True, ensure_ascii=False)


def answers(address, requests, concurrency):
    """Answers of all requests, `concurrency` at a time."""
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(lambda request: answer(address, request), requests))


def assert_equal(requests, found, expected):
    """Fails with the first few requests whose answers differ."""
    wrong = [(request, a, b) for request, a, b in zip(requests, found, expected, strict=True) if a != b]
    report = "\n".join(f"request {r}\n  got      {a[:600]}\n  expected {b[:600]}" for r, a, b in wrong[:3])
    assert not wrong, f"{len(wrong)} of {len(requests)} answers differ\n{report}"
