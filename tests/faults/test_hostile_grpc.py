"""Bad gRPC input gets its status, disturbs no running stream, and a good call works afterwards."""

import grpc
import pytest

from harness import http, rpc
from harness.background import Undisturbed
from harness.paths import golden_json, trained_config
from harness.processes import resident_bytes

EXAMPLE = golden_json("drafters/trained_pair/greedy_examples.json")[0]
VOCABULARY, CONTEXT = trained_config()["vocab_size"], trained_config()["max_position_embeddings"]
GENERATE = "/tandem.v1.Generation/Generate"
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def undisturbed(trained):
    with Undisturbed(trained.http, EXAMPLE["user"]) as streams:
        yield streams


@pytest.fixture(autouse=True)
def good_afterwards(trained, protos, undisturbed):
    yield
    undisturbed.check()
    with rpc.channel(trained.grpc) as channel:
        stub = protos.generation_grpc.GenerationStub(channel)
        request = protos.chat(EXAMPLE["user"], sampling=protos.generation.Sampling(temperature=0))
        assert rpc.collect(stub.Generate(request, timeout=30))[2][0] == EXAMPLE["greedy_text"]


def call_bytes(address, data, method=GENERATE, metadata=None, timeout=20, **options):
    """The status of a call whose request is `data` as it is."""
    with rpc.channel(address, ("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 20)) as channel:
        call = channel.unary_stream(method)(data, timeout=timeout, metadata=metadata, **options)
        try:
            list(call)
        except grpc.RpcError as error:
            assert len((error.details() or "").encode()) <= 1024
            return error.code()
        return Code.OK


GARBAGE = {
    "zeros": bytes(100),
    "ones": b"\xff" * 100,
    "length past the end": b"\x0a\x7fabc",
    "group never ended": b"\x0b",
    "bad UTF-8": b"\x0a\x02\xff\xfe",
    "varint of eleven bytes": b"\x28" + b"\xff" * 11,
    "150 groups deep": b"\xfb\x3e" * 150 + b"\xfc\x3e" * 150,
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_bytes_that_are_no_request_get_invalid_argument(trained, data):
    assert call_bytes(trained.grpc, data) == Code.INVALID_ARGUMENT


def test_an_empty_request_names_no_model(trained):
    assert call_bytes(trained.grpc, b"") in (Code.INVALID_ARGUMENT, Code.NOT_FOUND)


def bad_requests(m):
    def request(**fields):
        fields.setdefault("text", "Hi.")
        if "conversation" in fields or "token_ids" in fields:
            fields.pop("text")
        return m.GenerateRequest(model="default", **fields)

    sampling = {"temperature": [-1, 3.5, float("nan"), float("inf")], "top_p": [0, 1.5], "min_p": [2, float("nan")],
                "top_k": [-5], "repetition_penalty": [0, 11], "frequency_penalty": [3], "presence_penalty": [-3]}
    for name, values in sampling.items():
        for value in values:
            yield f"{name} {value}", request(sampling=m.Sampling(**{name: value}))
    yield "bias on -1", request(sampling=m.Sampling(logit_bias={-1: 1}))
    yield "bias on vocab_size", request(sampling=m.Sampling(logit_bias={VOCABULARY: 1}))
    yield "bias nan", request(sampling=m.Sampling(logit_bias={1: float("nan")}))
    yield "no input", m.GenerateRequest(model="default")
    yield "empty text", request(text="")
    yield "no ids", request(token_ids=m.TokenIds())
    yield "id vocab_size", request(token_ids=m.TokenIds(ids=[VOCABULARY]))
    yield "id -1", request(token_ids=m.TokenIds(ids=[-1]))
    yield "no messages", request(conversation=m.Conversation())
    yield "odd role", request(conversation=m.Conversation(messages=[m.Message(role="wizard", content="a")]))
    yield "too long", request(text="a" * 10 * CONTEXT)
    yield "max_tokens 0", request(max_tokens=0)
    yield "max_tokens -1", request(max_tokens=-1)
    yield "max_tokens 2^31-1", request(max_tokens=2**31 - 1)
    yield "min_tokens > max_tokens", request(max_tokens=3, min_tokens=4)
    yield "n -1", request(n=-1)
    yield "n 9", request(n=9)
    yield "priority 5", request(priority=5)
    yield "stop empty", request(stop=[""])
    yield "stop long", request(stop=["x" * 257])
    yield "five stops", request(stop=list("abcde"))
    yield "17 stop ids", request(stop_token_ids=range(17))
    yield "stop id vocab_size", request(stop_token_ids=[VOCABULARY])
    yield "num_logprobs 21", request(num_logprobs=21)
    yield "kwarg not listed", request(conversation=m.Conversation(messages=[m.Message(role="user", content="a")]),
                                      chat_template_kwargs={"range": True})


def test_bad_values_get_invalid_argument(trained, protos):
    for name, request in bad_requests(protos.generation):
        assert call_bytes(trained.grpc, request.SerializeToString()) == Code.INVALID_ARGUMENT, name


def test_an_unknown_model_gets_not_found(trained, protos):
    request = protos.chat("Hi.")
    request.model = "nosuch"
    assert call_bytes(trained.grpc, request.SerializeToString()) == Code.NOT_FOUND


def test_an_unknown_method_gets_unimplemented(trained):
    for method in ("/tandem.v1.Generation/Nothing", "/tandem.v1.Verifier/Run", "/x/y"):
        assert call_bytes(trained.grpc, b"", method) == Code.UNIMPLEMENTED


def test_a_message_of_5_mb_gets_resource_exhausted(trained, protos):
    assert call_bytes(trained.grpc, protos.chat("a" * 5_000_000).SerializeToString()) == Code.RESOURCE_EXHAUSTED


def test_a_compressed_message_gets_unimplemented(trained, protos):
    resident = resident_bytes(trained.gateway.pid)
    data = protos.chat("a" * 3_000_000).SerializeToString()
    assert call_bytes(trained.grpc, data, compression=grpc.Compression.Gzip) == Code.UNIMPLEMENTED
    assert resident_bytes(trained.gateway.pid) - resident < 64 << 20


def test_metadata_of_17_kib_is_refused(trained, protos):
    data = protos.chat("Hi.").SerializeToString()
    code = call_bytes(trained.grpc, data, metadata=[("x-long", "a" * 17_000)])
    assert code in (Code.RESOURCE_EXHAUSTED, Code.INTERNAL, Code.UNAVAILABLE), code


def test_a_past_deadline_ends_and_frees(trained, protos):
    data = protos.chat("Tell me a story.", ignore_eos=True, max_tokens=400, n=8).SerializeToString()
    assert call_bytes(trained.grpc, data, timeout=0.02) == Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                                   b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), bytes(4096),
                                   b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 900],
                         ids=["HTTP/1.1", "TLS", "zeros", "bad frames"])
@pytest.mark.parametrize("port", ["gateway", "verifier"])
def test_noise_on_a_grpc_port_is_closed(trained, noise, port):
    # Whatever a server says first (settings), the connection must end within the deadline of the socket.
    http.raw(trained.grpc if port == "gateway" else trained.verifier_address, noise, half_close=True)


def test_garbage_on_the_verifiers_run_stream_ends_that_stream_only(trained):
    # Not even gRPC tells the server a message that does not parse from the end of the stream, so any status will do.
    for data in (*GARBAGE.values(), b"", b"a" * 5_000_000):
        assert call_bytes(trained.verifier_address, data, "/tandem.v1.Verifier/Run", timeout=10) != \
            Code.DEADLINE_EXCEEDED
