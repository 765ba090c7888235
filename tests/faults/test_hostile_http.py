"""Bad HTTP input gets its status and code, disturbs no running stream, and a good request works afterwards."""

import gzip
import json
import time

import pytest

from harness import http
from harness.background import Undisturbed
from harness.paths import golden_json, trained_config

EXAMPLE = golden_json("drafters/trained_pair/greedy_examples.json")[0]
VOCABULARY, CONTEXT = trained_config()["vocab_size"], trained_config()["max_position_embeddings"]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def undisturbed(trained):
    with Undisturbed(trained.http, EXAMPLE["user"]) as streams:
        yield streams


@pytest.fixture(autouse=True)
def good_afterwards(trained, undisturbed):
    """After each bad input: the streams went on, and a good request gives the right text."""
    yield
    undisturbed.check()
    answer = http.chat(trained.http, EXAMPLE["user"], temperature=0)
    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == EXAMPLE["greedy_text"]


def chat_with(**fields):
    return {"model": "default", "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 4, **fields}


def prompt_with(**fields):
    return {"model": "default", "prompt": "Hi.", "max_tokens": 4, **fields}


def assert_error(answer, status, code):
    assert answer.status == status, (answer.status, answer.body[:500])
    error = answer.error()
    assert error["code"] == code, error
    assert error["type"] == "invalid_request_error", error
    assert 0 < len(error["message"].encode()) <= 1024
    return error


# A body as bytes is sent as it is: what a JSON library would not write.
def text(value):
    return json.dumps(value).encode()


BAD_VALUES = {
    "temperature 3.5": (CHAT, chat_with(temperature=3.5)),
    "temperature -1": (CHAT, chat_with(temperature=-1)),
    "temperature 1e308": (CHAT, chat_with(temperature=1e308)),
    "temperature text": (CHAT, chat_with(temperature="hot")),
    "temperature true": (CHAT, chat_with(temperature=True)),
    "top_p 0": (CHAT, chat_with(top_p=0)),
    "top_p 1.5": (CHAT, chat_with(top_p=1.5)),
    "top_k -5": (CHAT, chat_with(top_k=-5)),
    "min_p 2": (CHAT, chat_with(min_p=2)),
    "presence_penalty 3": (CHAT, chat_with(presence_penalty=3)),
    "repetition_penalty 0": (CHAT, chat_with(repetition_penalty=0)),
    "max_tokens 0": (CHAT, chat_with(max_tokens=0)),
    "max_tokens -1": (CHAT, chat_with(max_tokens=-1)),
    "max_tokens 1.5": (CHAT, chat_with(max_tokens=1.5)),
    "max_tokens 2^63": (CHAT, chat_with(max_tokens=2**63)),
    "n 0": (CHAT, chat_with(n=0)),
    "n 129": (CHAT, chat_with(n=129)),
    "n 10^9": (CHAT, chat_with(n=10**9)),
    "33 choices": (COMPLETIONS, prompt_with(prompt=["a"] * 11, n=3)),
    "stop number": (CHAT, chat_with(stop=5)),
    "stop empty": (CHAT, chat_with(stop="")),
    "stop 100 KB": (CHAT, chat_with(stop="x" * 100_000)),
    "stop five": (CHAT, chat_with(stop=list("abcde"))),
    "bias on -1": (CHAT, chat_with(logit_bias={"-1": 1})),
    "bias on vocab_size": (CHAT, chat_with(logit_bias={str(VOCABULARY): 1})),
    "bias of 1e9": (CHAT, chat_with(logit_bias={"1": 1e9})),
    "bias on a word": (CHAT, chat_with(logit_bias={"hello": 1})),
    "bias on 1,025 ids": (CHAT, chat_with(logit_bias={str(i): 1 for i in range(1025)})),
    "top_logprobs 10^6": (CHAT, chat_with(logprobs=True, top_logprobs=10**6)),
    "top_logprobs -2": (CHAT, chat_with(logprobs=True, top_logprobs=-2)),
    "logprobs 6": (COMPLETIONS, prompt_with(logprobs=6)),
    "id vocab_size": (COMPLETIONS, prompt_with(prompt=[1, VOCABULARY])),
    "id -1": (COMPLETIONS, prompt_with(prompt=[-1])),
    "prompt empty": (COMPLETIONS, prompt_with(prompt="")),
    "prompt empty list": (COMPLETIONS, prompt_with(prompt=[])),
    "prompt mixed": (COMPLETIONS, prompt_with(prompt=["a", 1])),
    "seed 2^64": (CHAT, chat_with(seed=2**64)),
    "no messages": (CHAT, {"model": "default"}),
    "messages empty": (CHAT, chat_with(messages=[])),
    "messages 1,025": (CHAT, chat_with(messages=[{"role": "user", "content": "a"}] * 1025)),
    "odd role": (CHAT, chat_with(messages=[{"role": "wizard", "content": "a"}])),
    "content number": (CHAT, chat_with(messages=[{"role": "user", "content": 7}])),
    "stream_options without stream": (CHAT, chat_with(stream_options={"include_usage": True})),
    "empty body": (CHAT, b""),
    "not JSON": (CHAT, b"model=default"),
    "half JSON": (CHAT, text(chat_with())[:-2]),
    "array": (CHAT, b"[]"),
    "NaN": (CHAT, text(chat_with(temperature=0)).replace(b'"temperature": 0', b'"temperature": NaN')),
    "1e400": (CHAT, text(chat_with(temperature=0)).replace(b'"temperature": 0', b'"temperature": 1e400')),
    "depth 200,000": (CHAT, b"[" * 200_000),
    "depth in a field": (CHAT, text(chat_with(x=0)).replace(b'"x": 0', b'"x": ' + b"[" * 40 + b"]" * 40)),
    "100,000 keys": (CHAT, text({f"k{i}": 0 for i in range(100_000)})),
    "duplicate keys": (CHAT, text(chat_with()).replace(b'{"model"', b'{"max_tokens": 9, "model"', 1)),
    "bad UTF-8": (CHAT, text(chat_with()).replace(b"Hi.", b"\xff\xfe")),
    "half a character": (CHAT, text(chat_with()).replace(b"Hi.", b"\xe2\x82")),
    "lone surrogate": (CHAT, text(chat_with()).replace(b"Hi.", b"\\ud800")),
    "NUL": (CHAT, text(chat_with()).replace(b"Hi.", b"\x00")),
}


@pytest.mark.parametrize("path, body", BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_bad_values_get_400(trained, path, body):
    assert_error(http.post(trained.http, path, body), 400, "invalid_value")


def test_the_message_names_field_limit_and_value(trained):
    error = assert_error(http.post(trained.http, CHAT, chat_with(temperature=3.5)), 400, "invalid_value")
    assert error["param"] == "temperature"
    assert error["message"] == "temperature must be in 0..2, got 3.5"


UNSUPPORTED = {
    "tools": chat_with(tools=[{"type": "function", "function": {"name": "f"}}]),
    "json_object": chat_with(response_format={"type": "json_object"}),
    "chat_template": chat_with(chat_template="{% for i in range(10**9) %}{% endfor %}"),
    "audio": chat_with(modalities=["audio"], audio={"voice": "x", "format": "wav"}),
}


@pytest.mark.parametrize("fields", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_unsupported_fields_get_400(trained, fields):
    assert_error(http.post(trained.http, CHAT, fields), 400, "unsupported_value")


TOO_LONG = {
    "prompt": prompt_with(prompt="a" * (CONTEXT + 1)),
    "prompt 10 x": prompt_with(prompt="a" * 10 * CONTEXT),
    "ids": prompt_with(prompt=[97] * (CONTEXT + 1)),
    "max_tokens": prompt_with(max_tokens=CONTEXT),
    "max_tokens 2^31-1": prompt_with(max_tokens=2**31 - 1),
}


@pytest.mark.parametrize("fields", TOO_LONG.values(), ids=TOO_LONG.keys())
def test_what_exceeds_the_context_gets_its_own_code(trained, fields):
    error = assert_error(http.post(trained.http, COMPLETIONS, fields), 400, "context_length_exceeded")
    assert str(CONTEXT) in error["message"]


@pytest.mark.parametrize("name", ["nosuch", "x" * 1000, "", "a\nb"])
def test_an_unknown_model_gets_404(trained, name):
    answer = http.post(trained.http, CHAT, chat_with(model=name))
    if name == "nosuch":
        assert_error(answer, 404, "model_not_found")
    else:
        assert answer.status in (400, 404) and answer.error()["code"] in ("invalid_value", "model_not_found")
    assert len(answer.body) < 1000, "the message repeats a long value"


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/", 404), ("GET", "/v2/models", 404), ("POST", "/v1/embeddings", 404), ("GET", "/v1/models/nosuch", 404),
    ("GET", "/../../etc/passwd", 404), ("GET", CHAT, 405), ("DELETE", "/v1/models", 405), ("PUT", CHAT, 405)])
def test_unknown_routes_and_methods(trained, method, path, status):
    answer = http.request(trained.http, method, path)
    assert answer.status == status, answer
    assert answer.error()["type"] == "invalid_request_error"


@pytest.mark.parametrize("seed", [-1, -2**63, 2**63 - 1])
def test_every_int64_is_a_seed(trained, seed):
    assert http.post(trained.http, CHAT, chat_with(seed=seed)).status == 200


def test_extreme_but_valid_values_are_taken(trained):
    for fields in ({"temperature": 1e-40}, {"temperature": 2, "top_p": 1e-30}, {"min_p": 1}, {"top_k": 2**31 - 1},
                   {"frequency_penalty": 2, "presence_penalty": -2, "repetition_penalty": 10},
                   {"logit_bias": {str(i): -100 for i in range(VOCABULARY)}}):
        assert http.post(trained.http, CHAT, chat_with(**fields)).status == 200, fields


def test_a_body_of_5_mb_gets_413(trained):
    answer = http.post(trained.http, CHAT, text(chat_with(messages=[{"role": "user", "content": "a" * 5_000_000}])))
    assert_error(answer, 413, "request_too_large")
    assert "2097152" in answer.error()["message"]


def test_a_compressed_body_gets_415(trained):
    answer = http.request(trained.http, "POST", CHAT, gzip.compress(text(chat_with())),
                          {"Content-Type": "application/json", "Content-Encoding": "gzip"})
    assert answer.status == 415, answer
    assert "gzip" in answer.error()["message"]


def head(*lines, request_line=f"POST {CHAT} HTTP/1.1"):
    return "\r\n".join([request_line, "Host: a", "Content-Type: application/json", *lines, "", ""]).encode()


def test_bad_chunk_sizes_get_400(trained):
    for size in (b"-2", b"zz", b"ffffffffffffffffffff"):
        answer = http.parse(http.raw(trained.http, head("Transfer-Encoding: chunked") + size + b"\r\n{}\r\n0\r\n\r\n"))
        assert answer.status in (400, 413), (size, answer)


def test_an_announced_2_gb_gets_413_before_it_is_sent(trained):
    answer = http.parse(http.raw(trained.http, head("Content-Length: 2147483648") + b"{"))
    assert_error(answer, 413, "request_too_large")


def test_endless_chunks_get_413(trained):
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    answer = http.parse(http.raw(trained.http, head("Transfer-Encoding: chunked") + piece * 64))
    assert answer.status == 413, answer


def test_contradicting_lengths_get_400(trained):
    body = text(chat_with())
    for lines in ([f"Content-Length: {len(body)}", "Content-Length: 3"],
                  [f"Content-Length: {len(body)}", "Transfer-Encoding: chunked"],
                  ["Content-Length: -1"], ["Content-Length: 12x"]):
        answer = http.parse(http.raw(trained.http, head(*lines) + body))
        assert answer.status == 400, (lines, answer)


@pytest.mark.parametrize("lines", [["X-Long: " + "a" * 20_000], [f"X-{i}: a" for i in range(10_000)],
                                   [f"X-{i}: {'a' * 7000}" for i in range(4)]],
                         ids=["one long", "10,000", "17 KiB in all"])
def test_too_many_headers_get_431(trained, lines):
    answer = http.parse(http.raw(trained.http, head(*lines, "Content-Length: 2") + b"{}"))
    assert answer.status == 431, answer
    assert answer.error()["code"] == "request_too_large"


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), b"\x00" * 4096,
                                   b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), b"GET / HTTP/9.9\r\n\r\n",
                                   b"\r\n\r\n\r\n", b"POST /v1/chat/completions\r\n\r\n"],
                         ids=["TLS", "zeros", "HTTP/2", "HTTP/9.9", "blank lines", "no version"])
def test_noise_on_the_http_port_is_closed(trained, noise):
    received = http.raw(trained.http, noise, half_close=True)
    if received:
        assert http.parse(received).status in (400, 404, 405, 431, 505)


def test_a_body_that_never_comes_ends_with_its_connection(trained):
    with http.raw_connection(trained.http) as connection:
        connection.sendall(head("Content-Length: 100") + b'{"model"')
    with http.raw_connection(trained.http) as connection:
        connection.sendall(b"POST /v1/chat")


def test_headers_that_never_end_are_cut_off(trained):
    begin = time.monotonic()
    with http.raw_connection(trained.http, timeout=25) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: a\r\n".encode())
        while connection.recv(4096):
            pass
    assert 5 < time.monotonic() - begin < 20


def test_pipelined_requests_are_answered_in_order(trained):
    good = text(chat_with(temperature=0))
    bad = text(chat_with(temperature=9))
    both = b"".join(head(f"Content-Length: {len(body)}", *more) + body
                    for body, more in ((good, []), (bad, ["Connection: close"])))
    with http.raw_connection(trained.http, timeout=30) as connection:
        connection.sendall(both)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.count(b"HTTP/1.1 200") == 1 and received.count(b"HTTP/1.1 400") == 1
    assert received.index(b"HTTP/1.1 200") < received.index(b"HTTP/1.1 400")


def test_rejections_are_counted_by_reason(trained):
    before = trained.gateway_metrics.read().by_label("tandem_requests_rejected_total", "reason")
    http.post(trained.http, CHAT, chat_with(temperature=9))
    http.post(trained.http, CHAT, chat_with(model="nosuch"))
    http.post(trained.http, COMPLETIONS, prompt_with(max_tokens=CONTEXT))
    after = trained.gateway_metrics.read().by_label("tandem_requests_rejected_total", "reason")
    for reason in ("validation", "model", "too_long"):
        assert after[reason] == before[reason] + 1, (reason, before, after)
