"""What curl shows of an event stream, byte for byte, and the health routes."""

import json
import subprocess

from harness import http
from harness.paths import golden_json

EXAMPLE = golden_json("drafters/trained_pair/greedy_examples.json")[0]


def curl(address, path, *arguments):
    """(head, body) as curl prints them."""
    done = subprocess.run(["curl", "--silent", "--show-error", "--no-buffer", "--include", "--max-time", "60",
                           f"http://{address}{path}", *arguments], capture_output=True, check=True)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    return head.decode().lower(), body


def test_an_event_stream_has_the_shape_that_clients_expect(trained):
    request = {"model": "default", "messages": [{"role": "user", "content": EXAMPLE["user"]}], "temperature": 0,
               "stream": True, "stream_options": {"include_usage": True}}
    head, body = curl(trained.http, "/v1/chat/completions", "--header", "Content-Type: application/json", "--data",
                      json.dumps(request))
    assert head.startswith("http/1.1 200")
    assert "content-type: text/event-stream; charset=utf-8" in head
    assert "cache-control: no-cache" in head
    assert "x-accel-buffering: no" in head
    assert "x-request-id:" in head and "x-tandem-seed:" in head
    events = body.decode("utf-8").split("\n\n")
    assert events[-1] == "", "the last event ends with a blank line"
    events = [event for event in events[:-1] if not event.startswith(":")]
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event[6:]) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == len(EXAMPLE["greedy_ids"])
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks[:-1])
    assert text == EXAMPLE["greedy_text"]


def test_an_answer_in_one_piece_is_json(trained):
    head, body = curl(trained.http, "/v1/completions", "--header", "Content-Type: application/json", "--data",
                      json.dumps({"model": "default", "prompt": "1 2 3", "temperature": 0}))
    assert head.startswith("http/1.1 200") and "content-type: application/json" in head
    assert json.loads(body)["choices"][0]["finish_reason"] in ("stop", "length")


def test_health_and_ready_say_200(trained):
    for path in ("/health", "/ready"):
        head, _ = curl(trained.http, path)
        assert head.startswith("http/1.1 200"), path


def test_tokenize_and_detokenize_are_inverse(trained):
    ids = http.post(trained.http, "/tokenize", {"model": "default", "prompt": "A story."}).json()
    found = next(value for value in ids.values() if isinstance(value, list))
    assert found == list(b"A story.")
    text = http.post(trained.http, "/detokenize", {"model": "default", "tokens": found})
    assert text.status == 200 and "A story." in text.json().values()


def test_metrics_count_the_requests(trained):
    before = trained.gateway_metrics.read().sum("tandem_requests_total")
    tokens = trained.gateway_metrics.read().sum("tandem_generation_tokens_total")
    assert http.chat(trained.http, EXAMPLE["user"], temperature=0).status == 200
    after = trained.gateway_metrics.read()
    assert after.sum("tandem_requests_total") == before + 1
    assert after.sum("tandem_generation_tokens_total") == tokens + len(EXAMPLE["greedy_ids"])
    assert trained.verifier_metrics.read().sum("tandem_step_seconds_count") > 0
