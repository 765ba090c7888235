"""tandem.v1.Generation through Python's gRPC, with a client generated from proto/ by the test."""

import grpc
import pytest

from harness import http, rpc
from harness.paths import golden_json, trained_config

CONFIG = trained_config()
EXAMPLES = golden_json("drafters/trained_pair/greedy_examples.json")


@pytest.fixture(scope="module")
def stub(trained, protos):
    with rpc.channel(trained.grpc) as channel:
        yield protos.generation_grpc.GenerationStub(channel)


def greedy(protos):
    return protos.generation.Sampling(temperature=0)


def test_generate_streams_started_deltas_and_finished(stub, protos):
    example = EXAMPLES[0]
    call = stub.Generate(protos.chat(example["user"], sampling=greedy(protos), request_id="abc.1"), timeout=60)
    started, tokens, text, _, finished = rpc.collect(call)
    assert started.request_id == "abc.1"
    assert started.prompt_tokens == len(example["prompt_ids"])
    assert started.system_fingerprint
    assert text[0] == example["greedy_text"]
    assert tokens[0] == example["greedy_ids"]
    assert finished[0].reason == protos.generation.FINISH_REASON_STOP
    assert finished[0].output_tokens == len(example["greedy_ids"])


def test_both_front_doors_give_the_same_text(trained, stub, protos):
    sampling = protos.generation.Sampling(temperature=1.1, seed=99, top_p=0.95, frequency_penalty=0.3)
    call = stub.Generate(protos.chat("Tell me a story.", sampling=sampling, max_tokens=80), timeout=60)
    answer = http.chat(trained.http, "Tell me a story.", temperature=1.1, seed=99, top_p=0.95, frequency_penalty=0.3,
                       max_tokens=80)
    assert rpc.collect(call)[2][0] == answer.json()["choices"][0]["message"]["content"]


def test_token_ids_stop_tokens_choices_and_logprobs(stub, protos):
    m = protos.generation
    request = m.GenerateRequest(model="default", token_ids=m.TokenIds(ids=EXAMPLES[0]["prompt_ids"]), n=2,
                                sampling=m.Sampling(temperature=0), stop_token_ids=[ord(" ")], num_logprobs=3)
    _, tokens, text, logprobs, finished = rpc.collect(stub.Generate(request, timeout=60))
    assert set(finished) == {0, 1}
    end = EXAMPLES[0]["greedy_ids"].index(ord(" "))
    for choice in (0, 1):
        assert text[choice] == EXAMPLES[0]["greedy_text"][:end]
        assert finished[choice].reason == m.FINISH_REASON_STOP
        assert len(logprobs[choice]) == len(tokens[choice]) >= end
        for entry in logprobs[choice]:
            assert len(entry.top) == 3
            assert entry.logprob == entry.top[0].logprob


def test_ignore_eos_and_min_tokens_go_on(stub, protos):
    beyond = stub.Generate(protos.chat(EXAMPLES[0]["user"], sampling=greedy(protos), ignore_eos=True, max_tokens=100),
                           timeout=60)
    _, tokens, _, _, finished = rpc.collect(beyond)
    assert len(tokens[0]) == 100 and finished[0].reason == protos.generation.FINISH_REASON_LENGTH
    minimum = len(EXAMPLES[0]["greedy_ids"]) + 5
    _, tokens, _, _, _ = rpc.collect(stub.Generate(
        protos.chat(EXAMPLES[0]["user"], sampling=greedy(protos), min_tokens=minimum, max_tokens=200), timeout=60))
    assert len(tokens[0]) >= minimum


def test_tokenize_and_detokenize(stub, protos):
    m = protos.generation
    conversation = m.Conversation(messages=[m.Message(role="user", content=EXAMPLES[0]["user"])])
    tokenized = stub.Tokenize(m.TokenizeRequest(model="default", conversation=conversation), timeout=10)
    assert list(tokenized.token_ids) == EXAMPLES[0]["prompt_ids"]
    assert tokenized.max_model_len == CONFIG["max_position_embeddings"]
    text = stub.Detokenize(m.DetokenizeRequest(model="default", token_ids=list("héllo".encode())), timeout=10)
    assert text.text == "héllo"


def test_tokenize_takes_the_flags_that_the_operator_lists(stub, protos):
    m = protos.generation
    conversation = m.Conversation(messages=[m.Message(role="user", content=EXAMPLES[0]["user"])])
    flags = m.TokenizeRequest(model="default", conversation=conversation, chat_template_kwargs={"enable_thinking": True})
    assert list(stub.Tokenize(flags, timeout=10).token_ids) == EXAMPLES[0]["prompt_ids"]
    flags.chat_template_kwargs["odd"] = True
    with pytest.raises(grpc.RpcError) as raised:
        stub.Tokenize(flags, timeout=10)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "chat_template_kwargs.odd" in raised.value.details()


def test_list_models_names_the_fingerprint(stub, protos):
    models = stub.ListModels(protos.generation.ListModelsRequest(), timeout=10).models
    assert len(models) == 1
    assert models[0].vocab_size == CONFIG["vocab_size"]
    assert models[0].max_model_len == CONFIG["max_position_embeddings"]
    assert models[0].system_fingerprint


def test_a_cancelled_call_frees_its_sequence(trained, stub, protos):
    call = stub.Generate(protos.chat("Tell me a story.", ignore_eos=True, max_tokens=400, n=8), timeout=60)
    for response in call:
        if response.WhichOneof("event") == "delta":
            call.cancel()
            break
    trained.wait_until_idle()


@pytest.mark.parametrize("change, code", [
    ({"model": "gpt-9"}, grpc.StatusCode.NOT_FOUND),
    ({"n": 9}, grpc.StatusCode.INVALID_ARGUMENT),
    ({"max_tokens": 5000}, grpc.StatusCode.INVALID_ARGUMENT),
    ({"num_logprobs": 21}, grpc.StatusCode.INVALID_ARGUMENT),
])
def test_errors_carry_the_code_and_details(stub, protos, change, code):
    request = protos.chat("Hello.")
    for field, value in change.items():
        setattr(request, field, value)
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.Generate(request, timeout=30))
    assert raised.value.code() == code
    assert raised.value.details()
    assert "grpc-status-details-bin" in dict(raised.value.trailing_metadata())


def test_health_service_answers_on_the_serving_port(trained):
    with rpc.channel(trained.grpc) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")  # messages as bytes
        assert check(b"", timeout=10) == b"\x08\x01"  # field 1 = 1: SERVING
        assert check(b"\x0a\x09readiness", timeout=10) == b"\x08\x01"
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\x0a\x09readiness", timeout=10)
        assert next(watch) == b"\x08\x01"
        watch.cancel()
        with pytest.raises(grpc.RpcError) as raised:
            check(b"\x0a\x04none", timeout=10)
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
