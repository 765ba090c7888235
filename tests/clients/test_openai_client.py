"""The official `openai` client, unchanged, against gateway and verifier on the small trained model."""

import math
import subprocess

import openai
import pytest

from harness import http
from harness.paths import binary, golden_json, trained_config

VOCABULARY, CONTEXT = trained_config()["vocab_size"], trained_config()["max_position_embeddings"]
EXAMPLES = golden_json("drafters/trained_pair/greedy_examples.json")
USER, GREEDY = EXAMPLES[0]["user"], EXAMPLES[0]["greedy_text"]
MESSAGES = [{"role": "user", "content": USER}]
RAW_PROMPT = f"<|im_start|>user\n{USER}<|im_end|>\n<|im_start|>assistant\n"
STORY = [{"role": "user", "content": "Tell me a story about a red fox."}]


@pytest.fixture(scope="module")
def client(trained):
    """The client with its own type checks on: every answer and event of these tests has to pass them."""
    with openai.OpenAI(base_url=f"http://{trained.http}/v1", api_key="any", max_retries=0, timeout=60,
                       _strict_response_validation=True) as strict:
        yield strict


def stream_completion(client, prompt, **fields):
    """The events of a streamed completion, checked.

    The client's types know no finish_reason null, with which OpenAI's own events come, too: there, and only there, the
    check is made with another value in its place.
    """
    lenient = openai.OpenAI(base_url=client.base_url, api_key="any", max_retries=0, timeout=60)
    chunks = list(complete(lenient, prompt, stream=True, **fields))
    for chunk in chunks:
        value = chunk.to_dict()
        for choice in value["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        openai.types.Completion.model_validate(value)
    return chunks


def chat(client, messages=MESSAGES, **fields):
    fields.setdefault("temperature", 0)
    return client.chat.completions.create(model="default", messages=messages, **fields)


def text_of(completion):
    return completion.choices[0].message.content


def complete(client, prompt, **fields):
    fields.setdefault("temperature", 0)
    return client.completions.create(model="default", prompt=prompt, **fields)


def stream_texts(chunks):
    """{choice: text}, {choice: finish reason} of a chat stream."""
    texts, reasons = {}, {}
    for chunk in chunks:
        for choice in chunk.choices:
            assert choice.index not in reasons, "a chunk after the choice's finish_reason"
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return texts, reasons


def test_models_are_listed_and_found(client):
    models = client.models.list().data
    assert len(models) >= 1
    assert models[0].object == "model"
    assert client.models.retrieve(models[0].id).id == models[0].id
    assert text_of(client.chat.completions.create(model=models[0].id, messages=MESSAGES, temperature=0)) == GREEDY


def test_chat_answers_the_greedy_text(client):
    completion = chat(client)
    assert completion.object == "chat.completion"
    assert completion.id and completion.created > 0 and completion.system_fingerprint
    assert len(completion.choices) == 1
    choice = completion.choices[0]
    assert (choice.index, choice.finish_reason) == (0, "stop")
    assert (choice.message.role, choice.message.content) == ("assistant", GREEDY)
    usage = completion.usage
    assert usage.prompt_tokens == len(EXAMPLES[0]["prompt_ids"])
    assert usage.completion_tokens == len(EXAMPLES[0]["greedy_ids"])
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_chat_streams_the_same_text(client):
    chunks = list(chat(client, stream=True))
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.usage is None for chunk in chunks)
    assert stream_texts(chunks) == ({0: GREEDY}, {0: "stop"})


def test_a_long_answer_arrives_while_it_is_written(client):
    # What gathers while a chunk is on its way becomes one, so on a busy machine an answer of so small a model may come
    # in one piece for once; never in several if it were sent at its end.
    def pieces():
        chunks = list(chat(client, stream=True, max_tokens=400, extra_body={"ignore_eos": True}))
        return sum(1 for chunk in chunks if chunk.choices[0].delta.content)

    assert any(pieces() > 1 for _ in range(20)), "the text came in one piece each time"


def test_include_usage_adds_one_last_chunk_without_choices(client):
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert [bool(chunk.choices) for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].usage.completion_tokens == len(EXAMPLES[0]["greedy_ids"])
    assert chunks[-1].usage.prompt_tokens == len(EXAMPLES[0]["prompt_ids"])


def test_text_parts_and_other_roles_are_taken(client):
    parts = [{"role": "user", "content": [{"type": "text", "text": USER[:5]}, {"type": "text", "text": USER[5:]}]}]
    assert text_of(chat(client, parts)) == GREEDY
    conversation = [{"role": "system", "content": "Be short."}, *MESSAGES,
                    {"role": "assistant", "content": GREEDY}, {"role": "user", "content": EXAMPLES[1]["user"]}]
    assert chat(client, conversation, max_tokens=8).usage.prompt_tokens > len(EXAMPLES[0]["prompt_ids"])


def test_completion_takes_text_and_ids(client):
    by_text = complete(client, "1 2 3 4", max_tokens=12)
    by_ids = complete(client, list(b"1 2 3 4"), max_tokens=12)
    assert by_text.object == "text_completion"
    assert by_text.choices[0].text == by_ids.choices[0].text != ""
    by_template = complete(client, EXAMPLES[0]["prompt_ids"], max_tokens=200)
    assert (by_template.choices[0].text, by_template.choices[0].finish_reason) == (GREEDY, "stop")


def test_special_token_text_in_a_prompt_stays_text(client):
    # As text, "<|im_start|>" is twelve ordinary tokens, so the model never sees a chat turn.
    usage = complete(client, RAW_PROMPT, max_tokens=1).usage
    assert usage.prompt_tokens == len(RAW_PROMPT.encode())
    inside = [{"role": "user", "content": "<|im_end|>"}]
    plain = [{"role": "user", "content": "x" * len("<|im_end|>")}]
    assert chat(client, inside, max_tokens=1).usage.prompt_tokens == chat(client, plain, max_tokens=1).usage.prompt_tokens


def test_completion_default_is_16_tokens(client):
    completion = complete(client, EXAMPLES[0]["prompt_ids"])
    assert completion.usage.completion_tokens == 16
    assert completion.choices[0].finish_reason == "length"
    assert completion.choices[0].text == GREEDY[:16]


def test_completion_streams(client):
    chunks = stream_completion(client, EXAMPLES[0]["prompt_ids"], max_tokens=200)
    assert "".join(chunk.choices[0].text for chunk in chunks) == GREEDY
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]


def test_a_list_of_prompts_answers_each_as_if_alone(client):
    prompts = [example["prompt_ids"] for example in EXAMPLES[:4]]
    completion = complete(client, prompts, max_tokens=200)
    assert [choice.index for choice in completion.choices] == list(range(4))
    assert [choice.text for choice in completion.choices] == [example["greedy_text"] for example in EXAMPLES[:4]]
    texts = ["Tell me", "Count from", "Add 3"]
    together = complete(client, texts, max_tokens=24, temperature=1, seed=5)
    alone = [complete(client, text, max_tokens=24, temperature=1, seed=5).choices[0].text for text in texts]
    assert [choice.text for choice in together.choices] == alone


def test_n_choices_use_consecutive_seeds(client):
    several = chat(client, STORY, temperature=1, seed=40, n=4, max_tokens=60)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    alone = [text_of(chat(client, STORY, temperature=1, seed=40 + i, max_tokens=60)) for i in range(4)]
    assert [choice.message.content for choice in several.choices] == alone
    assert len(set(alone)) > 1
    texts, reasons = stream_texts(chat(client, STORY, temperature=1, seed=40, n=4, max_tokens=60, stream=True))
    assert texts == dict(enumerate(alone)) and len(reasons) == 4
    # prompt x n + i
    pairs = complete(client, ["Tell me", "Count"], n=2, temperature=1, seed=3, max_tokens=20)
    assert [choice.index for choice in pairs.choices] == [0, 1, 2, 3]
    second = complete(client, "Count", n=2, temperature=1, seed=3, max_tokens=20)
    assert [c.text for c in pairs.choices[2:]] == [c.text for c in second.choices]


def test_a_seed_repeats_and_its_absence_does_not(client):
    def story(**fields):
        return text_of(chat(client, STORY, temperature=1.5, max_tokens=80, **fields))

    assert story(seed=7) == story(seed=7)
    assert story(seed=-1) == story(seed=-1)
    assert len({story(seed=seed) for seed in range(6)}) > 1
    assert len({story() for _ in range(6)}) > 1


def test_a_random_seed_is_reported_and_repeats_the_text(client):
    raw = client.chat.completions.with_raw_response.create(
        model="default", messages=STORY, temperature=1.2, max_tokens=60)
    assert raw.headers["x-request-id"]
    seed = int(raw.headers["x-tandem-seed"])
    seed = seed - 2**64 if seed >= 2**63 else seed
    assert text_of(chat(client, STORY, temperature=1.2, max_tokens=60, seed=seed)) == text_of(raw.parse())


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_token_limit_ends_with_length(client, name):
    completion = chat(client, **{name: 5})
    assert completion.usage.completion_tokens == 5
    assert (text_of(completion), completion.choices[0].finish_reason) == (GREEDY[:5], "length")


@pytest.mark.parametrize("stop", ["Oslo", ["Oslo", "bread"], [GREEDY[3:6]]])
def test_a_stop_text_ends_before_the_match(client, stop):
    words = [stop] if isinstance(stop, str) else stop
    if not any(word in GREEDY for word in words):
        words = stop = [GREEDY[4:9]]
    expected = GREEDY[:min(GREEDY.index(word) for word in words if word in GREEDY)]
    completion = chat(client, stop=stop)
    assert (text_of(completion), completion.choices[0].finish_reason) == (expected, "stop")
    # Counted up to the token that completes the match.
    match = min((GREEDY.index(word) + len(word) for word in words if word in GREEDY))
    assert completion.usage.completion_tokens == match
    texts, reasons = stream_texts(chat(client, stop=stop, stream=True))
    assert (texts, reasons) == ({0: expected}, {0: "stop"})


def test_a_stop_text_that_is_only_begun_is_not_held_back_for_ever(client):
    stop = GREEDY[-4:] + "never"
    assert text_of(chat(client, stop=stop)) == GREEDY
    assert stream_texts(chat(client, stop=stop, stream=True))[0] == {0: GREEDY}


def test_temperature_and_top_p_narrow_the_choice(client):
    assert text_of(chat(client, temperature=1e-6, seed=3)) == GREEDY
    assert text_of(chat(client, temperature=1, top_p=1e-6, seed=3)) == GREEDY
    hot = {text_of(chat(client, STORY, temperature=2, seed=seed, max_tokens=40)) for seed in range(5)}
    assert len(hot) == 5


def test_penalties_change_a_repeating_text(client):
    prompt = [{"role": "user", "content": "Count from 1 to 20."}]
    plain = text_of(chat(client, prompt, max_tokens=60))
    for fields in ({"frequency_penalty": 2}, {"presence_penalty": 2}, {"extra_body": {"repetition_penalty": 5}}):
        assert text_of(chat(client, prompt, max_tokens=60, **fields)) != plain, fields
    # A negative penalty is as valid, and a neutral one changes nothing.
    assert chat(client, prompt, max_tokens=60, frequency_penalty=-2).usage.completion_tokens > 0
    assert text_of(chat(client, prompt, max_tokens=60, presence_penalty=0, frequency_penalty=0)) == plain


def test_logit_bias_forces_and_forbids(client):
    forced = chat(client, logit_bias={ord("z"): 100}, max_tokens=5)
    assert text_of(forced) == "zzzzz"
    forbidden = chat(client, logit_bias={ord(GREEDY[0]): -100}, max_tokens=5)
    assert text_of(forbidden)[0] != GREEDY[0]


def test_chat_logprobs_describe_every_token(client):
    choice = chat(client, logprobs=True, top_logprobs=4).choices[0]
    content = choice.logprobs.content
    ids = EXAMPLES[0]["greedy_ids"]
    assert len(content) in (len(ids), len(ids) - 1)  # the stop token is a token of the answer, or left out with it
    assert "".join(entry.token for entry in content if entry.token in GREEDY) == GREEDY
    for entry in content:
        assert len(entry.top_logprobs) == 4
        values = [top.logprob for top in entry.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert entry.logprob == values[0] <= 0, "greedy picks the likeliest"
        assert sum(math.exp(value) for value in values) <= 1.0001
        assert entry.bytes is None or bytes(entry.bytes).decode("utf-8", "replace") == entry.token or entry.token
    none = chat(client, logprobs=True).choices[0].logprobs.content
    assert all(entry.top_logprobs == [] for entry in none)
    assert [entry.logprob for entry in none] == [entry.logprob for entry in content]
    assert chat(client).choices[0].logprobs is None


def test_streamed_logprobs_equal_those_in_one_piece(client):
    fields = dict(temperature=0.9, seed=11, logprobs=True, top_logprobs=2, max_tokens=40)
    whole = chat(client, STORY, **fields).choices[0].logprobs.content
    streamed = []
    for chunk in chat(client, STORY, stream=True, **fields):
        for choice in chunk.choices:
            if choice.logprobs and choice.logprobs.content:
                streamed.extend(choice.logprobs.content)
    assert [entry.model_dump() for entry in streamed] == [entry.model_dump() for entry in whole]


def test_completion_logprobs_have_the_old_layout(client):
    choice = complete(client, EXAMPLES[0]["prompt_ids"], max_tokens=6, logprobs=3).choices[0]
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text == GREEDY[:6]
    assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset) == 6
    assert all(len(top) <= 4 for top in logprobs.top_logprobs)
    assert logprobs.text_offset == list(range(6))


def test_neutral_and_unknown_fields_are_ignored(client):
    completion = chat(client, user="someone", metadata={"a": "b"}, store=False, tool_choice="none", tools=[],
                      response_format={"type": "text"}, extra_body={"no_such_field": [1, {"a": None}]})
    assert text_of(completion) == GREEDY


@pytest.mark.parametrize("fields, param", [
    ({"temperature": 3.5}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 9}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 4, "max_completion_tokens": 5}, None),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
    ({"logit_bias": {str(VOCABULARY): 1}}, "logit_bias"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"messages": []}, "messages"),
])
def test_bad_values_raise_bad_request_naming_the_field(client, fields, param):
    with pytest.raises(openai.BadRequestError) as raised:
        chat(client, **fields)
    assert raised.value.code == "invalid_value"
    assert raised.value.type == "invalid_request_error"
    if param:
        assert raised.value.param == param
        assert param in raised.value.message


def test_unsupported_fields_raise_bad_request(client):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    for fields in ({"tools": [tool]}, {"response_format": {"type": "json_object"}}, {"reasoning_effort": "high"}):
        with pytest.raises(openai.BadRequestError) as raised:
            chat(client, **fields)
        assert raised.value.code == "unsupported_value", fields


def test_a_prompt_longer_than_the_context_raises_bad_request(client):
    for fields in ({"messages": [{"role": "user", "content": "a" * (CONTEXT + 88)}]}, {"max_tokens": CONTEXT - 12}):
        with pytest.raises(openai.BadRequestError) as raised:
            chat(client, **fields)
        assert raised.value.code == "context_length_exceeded"
        assert str(CONTEXT) in raised.value.message


def test_an_unknown_model_raises_not_found(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_models_say_what_they_can(client):
    model = client.models.list().data[0].to_dict()
    assert model["max_model_len"] == CONTEXT
    assert {"chat", "completions", "logprobs", "streaming", "tokenize"} <= set(model["capabilities"])
    assert client.models.retrieve("default").id == model["id"]


def test_echo_puts_the_prompt_before_the_text(client):
    prompt = "1 2 3 4"
    plain = complete(client, prompt, max_tokens=8).choices[0].text
    assert complete(client, prompt, max_tokens=8, echo=True).choices[0].text == prompt + plain
    assert complete(client, list(prompt.encode()), max_tokens=8, echo=True).choices[0].text == prompt + plain
    several = complete(client, [prompt, "A story"], n=2, max_tokens=4, echo=True)
    assert [choice.text[:7] for choice in several.choices] == [prompt, prompt, "A story", "A story"]
    chunks = stream_completion(client, prompt, max_tokens=8, echo=True)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == prompt + plain
    with pytest.raises(openai.BadRequestError) as raised:
        complete(client, prompt, echo=True, logprobs=1)
    assert raised.value.param == "echo" and raised.value.code == "unsupported_value"


def test_filters_that_leave_one_token_are_greedy(client):
    for extra in ({"top_k": 1}, {"min_p": 1.0}, {"top_k": 1, "min_p": 0.5, "priority": 4}):
        assert text_of(chat(client, temperature=1.5, seed=3, extra_body=extra)) == GREEDY, extra
    for neutral in ({"top_k": 0}, {"top_k": -1}, {"min_p": 0.0}, {"priority": -4}, {"tpot_target_ms": 0.5}, {"repetition_penalty": 1.0},
                    {"chat_template_kwargs": {"enable_thinking": False}}):
        assert text_of(chat(client, extra_body=neutral)) == GREEDY, neutral


def test_ignore_eos_min_tokens_and_stop_ids_move_the_end(client):
    beyond = chat(client, max_tokens=100, extra_body={"ignore_eos": True})
    assert (beyond.usage.completion_tokens, beyond.choices[0].finish_reason) == (100, "length")
    least = len(EXAMPLES[0]["greedy_ids"]) + 5
    assert chat(client, max_tokens=200, extra_body={"min_tokens": least}).usage.completion_tokens >= least
    ended = chat(client, extra_body={"stop_token_ids": [ord(" ")]})
    assert (text_of(ended), ended.choices[0].finish_reason) == (GREEDY[:GREEDY.index(" ")], "stop")
    assert ended.usage.completion_tokens == GREEDY.index(" ") + 1
    later = chat(client, extra_body={"stop_token_ids": [ord(" ")], "min_tokens": GREEDY.index(" ") + 2}, max_tokens=30)
    assert later.usage.completion_tokens >= GREEDY.index(" ") + 2


def test_priority_and_limits_are_checked(client):
    for extra, param in (({"priority": 5}, "priority"), ({"tpot_target_ms": -1}, "tpot_target_ms"), ({"min_tokens": 9}, "min_tokens"), ({"top_k": -2}, "top_k"),
                         ({"stop_token_ids": [VOCABULARY]}, "stop_token_ids"), ({"min_p": 1.1}, "min_p")):
        with pytest.raises(openai.BadRequestError) as raised:
            chat(client, max_tokens=8, extra_body=extra)
        assert (raised.value.param, raised.value.code) == (param, "invalid_value")


def test_tokenize_renders_like_a_chat(trained):
    def tokenize(**fields):
        return http.post(trained.http, "/tokenize", {"model": "default", **fields})

    answer = tokenize(messages=MESSAGES).json()
    assert answer["tokens"] == EXAMPLES[0]["prompt_ids"]
    assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), CONTEXT)
    assert tokenize(messages=MESSAGES, chat_template_kwargs={"enable_thinking": True}).json()["tokens"] == answer["tokens"]
    assert tokenize(messages=MESSAGES, add_generation_prompt=True).status == 200
    for fields in ({"chat_template_kwargs": {"odd": True}}, {"add_generation_prompt": False}, {"chat_template": "x"}):
        refused = tokenize(messages=MESSAGES, **fields)
        assert (refused.status, refused.error()["code"]) == (400, "unsupported_value"), fields
    for fields in ({}, {"prompt": "a", "messages": MESSAGES}, {"prompt": 7}, {"messages": []}):
        assert tokenize(**fields).status == 400, fields


def test_version_is_the_programs(trained):
    version = http.get(trained.http, "/version").json()["version"]
    said = subprocess.run([binary("tandem-gateway"), "--version"], capture_output=True, text=True, check=True).stdout
    assert version in said


def test_the_error_of_a_stream_comes_before_its_status(client):
    with pytest.raises(openai.BadRequestError):
        chat(client, stream=True, temperature=-1)
