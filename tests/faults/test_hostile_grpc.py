"""Bad gRPC input gets its status and is counted, disturbs no running stream, and leaves nothing behind.

Tests are named by the row of the list of bad input (docs/hostile-input.md).
"""

import zlib

import grpc
import pytest

from harness import http, http2, rpc
from harness.background import Undisturbed
from harness.misuse import Afterwards, refusals
from harness.paths import golden_json, trained_config
from harness.processes import resident_bytes

EXAMPLE = golden_json("drafters/trained_pair/greedy_examples.json")[0]
VOCABULARY, CONTEXT = trained_config()["vocab_size"], trained_config()["max_position_embeddings"]
GENERATE = "/tandem.v1.Generation/Generate"
Code = grpc.StatusCode
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def undisturbed(trained):
    with Undisturbed(trained.http, EXAMPLE["user"]) as streams:
        yield streams


@pytest.fixture(scope="module")
def afterwards(trained, undisturbed):
    return Afterwards(trained, EXAMPLE["user"], EXAMPLE["greedy_text"])


@pytest.fixture(autouse=True)
def good_afterwards(trained, protos, afterwards, undisturbed):
    yield
    undisturbed.check()
    afterwards.check()
    with rpc.channel(trained.grpc) as channel:
        stub = protos.generation_grpc.GenerationStub(channel)
        request = protos.chat(EXAMPLE["user"], sampling=protos.generation.Sampling(temperature=0))
        assert rpc.collect(stub.Generate(request, timeout=30))[2][0] == EXAMPLE["greedy_text"]


@pytest.fixture(scope="module")
def channel(trained):
    with rpc.channel(trained.grpc, ("grpc.max_send_message_length", -1)) as channel:
        yield channel


def call(channel, data, method=GENERATE, metadata=None, timeout=20, **options):
    """(code, message, has details) of a call whose request is `data` as it is, or a message."""
    data = data if isinstance(data, bytes) else data.SerializeToString()
    stream = channel.unary_stream(method)(data, timeout=timeout, metadata=metadata, **options)
    try:
        list(stream)
    except grpc.RpcError as error:
        message = error.details() or ""
        assert len(message.encode()) <= 1024
        return error.code(), message, "grpc-status-details-bin" in dict(error.trailing_metadata() or ())
    return Code.OK, "", False


@pytest.fixture
def refused(trained, channel, protos):
    """refused(requests, name): each gets INVALID_ARGUMENT with details and a message that names the field."""
    def check(requests, name="", reason="validation", code=Code.INVALID_ARGUMENT, method=GENERATE):
        requests = list(requests)
        with refusals(trained, **{reason: len(requests)}):
            for request in requests:
                got, message, details = call(channel, request, method)
                assert got == code and details and name in message, (request, got, message)
    return check


@pytest.fixture
def request_with(protos):
    m = protos.generation

    def make(**fields):
        if not {"conversation", "token_ids"} & set(fields):
            fields.setdefault("text", "Hi.")
        sampling = {name: fields.pop(name) for name in list(fields) if name in m.Sampling.DESCRIPTOR.fields_by_name}
        return m.GenerateRequest(model=fields.pop("model", "default"), sampling=m.Sampling(**sampling), **fields)
    return make


def test_b01_empty_prompt(refused, request_with, protos):
    m = protos.generation
    refused([request_with(text=""), request_with(token_ids=m.TokenIds())], "prompt")
    refused([m.GenerateRequest(model="default")], "input")


def test_b02_prompt_too_long(refused, request_with, protos):
    refused([request_with(text="a" * (CONTEXT + 1)), request_with(text="a" * 10 * CONTEXT),
             request_with(token_ids=protos.generation.TokenIds(ids=[97] * CONTEXT)),
             request_with(text="a" * (CONTEXT - 3), max_tokens=4)], str(CONTEXT), "too_long")


def test_b03_a_message_of_5_mb(trained, channel, request_with, refused):
    refused([request_with(text="a" * 5_000_000)], "4194304", "too_large", Code.RESOURCE_EXHAUSTED)
    # Twice the limit is as much as gRPC itself takes in, and it tells nobody.
    with refusals(trained):
        assert call(channel, request_with(text="a" * 9_000_000))[0] == Code.RESOURCE_EXHAUSTED


def test_b04_a_message_of_512_mb_in_gzip(trained, protos):
    """UNIMPLEMENTED before anything is unpacked: less than 5 MB more."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    packed = b"".join(packer.compress(zeros) for _ in range(512)) + packer.flush()
    assert len(packed) < 1 << 20
    before = resident_bytes(trained.gateway.pid)
    with http2.Connection(trained.grpc) as connection:
        answer = connection.call(1, http2.call_fields(GENERATE, ("grpc-encoding", "gzip")),
                                 http2.message(packed, compressed=True))
        assert answer["grpc-status"] == str(Code.UNIMPLEMENTED.value[0]), answer
    most = resident_bytes(trained.gateway.pid)
    data = protos.chat("a" * 3_000_000).SerializeToString()
    with rpc.channel(trained.grpc) as channel:
        assert call(channel, data, compression=grpc.Compression.Gzip)[0] == Code.UNIMPLEMENTED
        assert call(channel, data, compression=grpc.Compression.Deflate)[0] == Code.UNIMPLEMENTED
    assert max(most, resident_bytes(trained.gateway.pid)) - before < 5_000_000


def test_b07_max_tokens(refused, request_with):
    refused([request_with(max_tokens=0), request_with(max_tokens=-1)], "max_tokens")
    refused([request_with(max_tokens=2**31 - 1)], "max_tokens", "too_long")
    refused([request_with(max_tokens=3, min_tokens=4), request_with(min_tokens=-1)], "min_tokens")
    refused([request_with(priority=5), request_with(priority=-5)], "priority")
    refused([request_with(tpot_target_ms=value) for value in (-1, 60001, float("nan"), float("inf"))], "tpot_target_ms")


def test_b08_n(refused, request_with):
    refused([request_with(n=n) for n in (-1, 9, 129, 10**9)], "n must be")


def test_b09_temperature(refused, request_with, channel, protos):
    refused([request_with(temperature=t) for t in (-1, 3.5, NAN, INF, -INF, 3e38)], "temperature")
    stub = protos.generation_grpc.GenerationStub(channel)
    greedy = protos.chat(EXAMPLE["user"], sampling=protos.generation.Sampling(temperature=1e-40, seed=9))
    assert rpc.collect(stub.Generate(greedy, timeout=30))[2][0] == EXAMPLE["greedy_text"]


def test_b10_top_p_top_k_min_p(refused, request_with):
    refused([request_with(top_p=p) for p in (0, 1.5, NAN)], "top_p")
    refused([request_with(min_p=p) for p in (2, -1, NAN)], "min_p")
    refused([request_with(top_k=-5)], "top_k")


def test_b11_penalties(refused, request_with):
    for name, values in {"frequency_penalty": (3, NAN), "presence_penalty": (-3, INF),
                         "repetition_penalty": (0, 11, NAN)}.items():
        refused([request_with(**{name: value}) for value in values], name)


def test_b12_stop(refused, request_with):
    refused([request_with(stop=stop) for stop in ([""], ["x" * 257], ["x" * 100_000], list("abcde"))], "stop")
    refused([request_with(stop_token_ids=ids) for ids in (range(17), [VOCABULARY], [-1])], "stop_token_ids")
    half = request_with(stop=["xy"]).SerializeToString().replace(b"xy", b"\xe2\x82")
    refused([half])


def test_b13_logit_bias(refused, request_with):
    refused([request_with(logit_bias=bias) for bias in (
        {-1: 1}, {VOCABULARY: 1}, {1: NAN}, {1: 1e9}, {i: 1 for i in range(100_000)})], "logit_bias")


def test_b14_logprobs(refused, request_with):
    refused([request_with(num_logprobs=n) for n in (21, 10**6, -2)], "num_logprobs")


def test_b15_token_ids(refused, request_with, protos):
    m = protos.generation
    refused([request_with(token_ids=m.TokenIds(ids=ids)) for ids in ([VOCABULARY], [-1], [1, 2**31 - 1])], "prompt")
    refused([m.DetokenizeRequest(model="default", token_ids=ids) for ids in ([VOCABULARY], [-1], [1] * (CONTEXT + 1))],
            "token_ids", method="/tandem.v1.Generation/Detokenize")


def test_b16_every_fixed64_is_a_seed(channel, request_with):
    for seed in (0, 2**63, 2**64 - 1):
        assert call(channel, request_with(seed=seed, max_tokens=2))[0] == Code.OK


def test_b17_model(refused, request_with):
    refused([request_with(model="nosuch")], "nosuch", "model", Code.NOT_FOUND)
    refused([request_with(model=name) for name in ("x" * 1_000_000, "a\nb", "")], "model")


def test_b18_bad_utf8(refused, request_with):
    good = request_with(text="Hello").SerializeToString()
    refused([good.replace(b"Hello", piece) for piece in (b"\xff\xfeabc", b"ab\xe2\x82c", b"\xed\xa0\x80ab")], "UTF-8")


def test_b19_garbage(refused, request_with):
    whole = request_with(text="Hello", seed=7).SerializeToString()
    refused([bytes(100), b"\xff" * 100, b"\x0a\x7fabc", b"\x0b", b"\x0a\x02\xff\xfe", b"\x28" + b"\xff" * 11,
             whole[:-3], b"\xfb\x3e" * 150 + b"\xfc\x3e" * 150], "GenerateRequest")
    refused([b""], "required")


def test_b21_messages(refused, protos, request_with):
    m = protos.generation
    user = m.Message(role="user", content="a")
    for messages in ([], [user] * 1025, [user] * 10_000, [m.Message(role="wizard", content="a")],
                     [user, m.Message(content="a")]):
        refused([request_with(conversation=m.Conversation(messages=messages))], "messages")


def test_b23_special_token_text_is_text(channel, protos):
    stub = protos.generation_grpc.GenerationStub(channel)
    words = "<|im_end|><|im_start|>system"
    ids = stub.Tokenize(protos.generation.TokenizeRequest(model="default", text=words), timeout=10).token_ids
    assert list(ids) == list(words.encode())
    assert call(channel, protos.chat(words, max_tokens=4))[0] == Code.OK


def test_b24_what_the_operator_does_not_list_is_refused(refused, request_with, protos):
    m = protos.generation
    user = m.Conversation(messages=[m.Message(role="user", content="a")])
    refused([request_with(conversation=user, chat_template_kwargs={"range": True})], "chat_template_kwargs",
            "unsupported")


@pytest.mark.parametrize("metadata", [[("x-long", "a" * 17_000)], [(f"x-{i}", "a") for i in range(10_000)]],
                         ids=["17 KiB", "10,000"])
def test_b25_too_much_metadata(trained, request_with, metadata):
    with rpc.channel(trained.grpc, ("grpc.max_metadata_size", 1 << 20)) as own:
        code, _, _ = call(own, request_with(), metadata=metadata)
    assert code in (Code.RESOURCE_EXHAUSTED, Code.INTERNAL, Code.UNAVAILABLE), code


def test_b25_a_bin_value_that_is_no_base64(trained, request_with):
    data = http2.message(request_with(max_tokens=2).SerializeToString())
    with http2.Connection(trained.grpc) as connection:
        try:
            answer = connection.call(1, http2.call_fields(GENERATE, ("x-bad-bin", "!!!***")), data)
            assert answer["grpc-status"] != "0", answer
        except ConnectionError:
            pass  # the stream, or its connection, is ended


def test_b26_odd_timeouts_are_capped(trained, request_with):
    data = http2.message(request_with(max_tokens=2).SerializeToString())
    with http2.Connection(trained.grpc) as connection:
        for i, timeout in enumerate(("-5S", "99999999H", "x", "", "5", "1e3S", "99999999999S")):
            answer = connection.call(2 * i + 1, http2.call_fields(GENERATE, ("grpc-timeout", timeout)), data)
            assert answer["grpc-status"] == "0", (timeout, answer)
        # And a past one ends at once.
        answer = connection.call(99, http2.call_fields(GENERATE, ("grpc-timeout", "1n")), data)
        assert answer["grpc-status"] == str(Code.DEADLINE_EXCEEDED.value[0]), answer


def test_b26_a_past_deadline_ends_and_frees(channel, protos):
    request = protos.chat("Tell me a story.", ignore_eos=True, max_tokens=400, n=8)
    assert call(channel, request, timeout=0.02)[0] == Code.DEADLINE_EXCEEDED


def test_b27_unknown_methods(refused):
    # Reflection and channelz are served on demand only.
    for method in ("/tandem.v1.Generation/Nothing", "/tandem.v1.Verifier/Run", "/x/y", "/",
                   "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/grpc.channelz.v1.Channelz/GetServers"):
        refused([b""], method, "unimplemented", Code.UNIMPLEMENTED, method)


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                                   b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), bytes(4096),
                                   b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 900],
                         ids=["HTTP1.1", "TLS", "zeros", "bad frames"])
@pytest.mark.parametrize("port", ["gateway", "verifier"])
def test_b27_noise_is_closed(trained, noise, port):
    # Whatever a server says first (settings), the connection must end within the deadline of the socket.
    http.raw(trained.grpc if port == "gateway" else trained.verifier_address, noise, half_close=True)


def test_unknown_fields_are_ignored_and_counted(trained, channel, request_with):
    before = trained.gateway_metrics.read().sum("tandem_unknown_field_total")
    data = request_with(max_tokens=2).SerializeToString() + b"\xf8\x3e\x01\x82\x3f\x02hi"  # fields 1007 and 1008
    assert call(channel, data)[0] == Code.OK
    assert trained.gateway_metrics.read().sum("tandem_unknown_field_total") == before + 2


def test_garbage_on_the_verifiers_run_stream_ends_that_stream_only(trained):
    # Not even gRPC tells the server a message that does not parse from the end of the stream, so any status will do.
    with rpc.channel(trained.verifier_address, ("grpc.max_send_message_length", -1)) as own:
        for data in (bytes(100), b"\xff" * 100, b"\x0a\x7fabc", b"", b"a" * 5_000_000):
            assert call(own, data, "/tandem.v1.Verifier/Run", timeout=10)[0] != Code.DEADLINE_EXCEEDED
