#!/usr/bin/env python3
"""make_corpus.py OUT: seeds of the fuzz targets, one folder each, from golden files and the shapes of tests.

Seeds are made, not kept: what the repository already has in tests/golden, taken apart as the targets want it.
"""

import json
import os
import pathlib
import struct
import sys

SOURCE = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(os.environ.get("TANDEM_GOLDEN_DIR") or SOURCE / "tests/golden")
MAX_SEED_BYTES = 64 << 10

sys.path.append(str(SOURCE / "tests/integration"))

from harness.safetensors import safetensors_header  # noqa: E402

# What one case of gguf_bad cannot show: a file with a tokenizer.
GGUF_UINT32, GGUF_INT32, GGUF_FLOAT32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY = 4, 5, 6, 7, 8, 9


def gguf_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(kind, value):
    if kind == GGUF_STRING:
        return struct.pack("<I", kind) + gguf_string(value)
    return struct.pack("<I", kind) + struct.pack({GGUF_UINT32: "<I", GGUF_FLOAT32: "<f", GGUF_BOOL: "<B"}[kind], value)


def gguf_array(kind, values):
    code = "<f" if kind == GGUF_FLOAT32 else "<i"
    items = b"".join(gguf_string(v) if kind == GGUF_STRING else struct.pack(code, v) for v in values)
    return struct.pack("<IIQ", GGUF_ARRAY, kind, len(values)) + items


def byte_alphabet():
    """The character of each byte in byte-level vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def byte_level_tokenizer(pre):
    """Metadata of a vocabulary of bytes, two merges and a control token; and how many tokens there are."""
    tokens = byte_alphabet() + ["th", "the", "<|im_end|>"]
    return {"tokenizer.ggml.model": gguf_value(GGUF_STRING, "gpt2"),
            "tokenizer.ggml.pre": gguf_value(GGUF_STRING, pre),
            "tokenizer.ggml.tokens": gguf_array(GGUF_STRING, tokens),
            "tokenizer.ggml.token_type": gguf_array(GGUF_INT32, [1] * (len(tokens) - 1) + [3]),
            "tokenizer.ggml.merges": gguf_array(GGUF_STRING, ["t h", "th e"])}, len(tokens)


def sentence_piece_tokenizer():
    """The same with byte tokens and scores."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "t", "h", "e", "\u2581", "th", "the", "\u2581the",
              "  ", "<eos>"]
    types = [2] + [6] * 256 + [1] * 7 + [4, 3]
    return {"tokenizer.ggml.model": gguf_value(GGUF_STRING, "llama"),
            "tokenizer.ggml.add_space_prefix": gguf_value(GGUF_BOOL, 0),
            "tokenizer.ggml.tokens": gguf_array(GGUF_STRING, tokens),
            "tokenizer.ggml.token_type": gguf_array(GGUF_INT32, types),
            "tokenizer.ggml.scores": gguf_array(GGUF_FLOAT32, [-float(id) for id in range(len(tokens))])}, len(tokens)


def gguf_with_tokenizer(tokenizer, vocab):
    """A one-layer llama of width 8."""
    hidden, inner = 8, 8
    metadata = {
        "general.architecture": gguf_value(GGUF_STRING, "llama"),
        "llama.embedding_length": gguf_value(GGUF_UINT32, hidden),
        "llama.feed_forward_length": gguf_value(GGUF_UINT32, inner),
        "llama.block_count": gguf_value(GGUF_UINT32, 1),
        "llama.attention.head_count": gguf_value(GGUF_UINT32, 1),
        "llama.context_length": gguf_value(GGUF_UINT32, 64),
        "llama.attention.layer_norm_rms_epsilon": gguf_value(GGUF_FLOAT32, 1e-5),
        **tokenizer,
        "tokenizer.ggml.bos_token_id": gguf_value(GGUF_UINT32, vocab - 1),
        "tokenizer.ggml.eos_token_id": gguf_value(GGUF_UINT32, vocab - 1),
        "tokenizer.ggml.add_bos_token": gguf_value(GGUF_BOOL, 1),
        "tokenizer.chat_template": gguf_value(GGUF_STRING, "{% for m in messages %}{{ m.content }}{% endfor %}"),
    }
    shapes = {"token_embd.weight": [hidden, vocab], "output_norm.weight": [hidden]}
    for name, shape in {"attn_norm": [hidden], "ffn_norm": [hidden], "attn_q": [hidden, hidden],
                        "attn_k": [hidden, hidden], "attn_v": [hidden, hidden], "attn_output": [hidden, hidden],
                        "ffn_gate": [hidden, inner], "ffn_up": [hidden, inner], "ffn_down": [inner, hidden]}.items():
        shapes[f"blk.0.{name}.weight"] = shape
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata))
    head += b"".join(gguf_string(key) + value for key, value in metadata.items())
    offset = 0
    for name, shape in shapes.items():
        head += gguf_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
        size = 4
        for dimension in shape:
            size *= dimension
        offset += (size + 31) // 32 * 32
    return head + bytes(-len(head) % 32) + bytes(offset)


def gguf():
    for path in sorted((GOLDEN / "gguf_bad").glob("*.gguf")):
        yield path.stem, path.read_bytes()
    for pre in ("smollm", "llama-bpe", "gpt-2", "qwen2"):
        yield f"tokenizer-{pre}", gguf_with_tokenizer(*byte_level_tokenizer(pre))
    yield "tokenizer-scores", gguf_with_tokenizer(*sentence_piece_tokenizer())


def small_config():
    return {"model_type": "qwen3", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 16, "tie_word_embeddings": True, "eos_token_id": [1, 2],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}


def small_weights():
    """model.safetensors of small_config, and the names in it."""
    layer = {"input_layernorm": [4], "post_attention_layernorm": [4], "self_attn.q_proj": [4, 4],
             "self_attn.k_proj": [2, 4], "self_attn.v_proj": [2, 4], "self_attn.o_proj": [4, 4],
             "self_attn.q_norm": [2], "self_attn.k_norm": [2], "mlp.gate_proj": [6, 4], "mlp.up_proj": [6, 4],
             "mlp.down_proj": [4, 6]}
    shapes = {"model.embed_tokens.weight": [8, 4], "model.norm.weight": [4]}
    shapes.update({f"model.layers.0.{name}.weight": shape for name, shape in layer.items()})
    header, size = safetensors_header(shapes)
    return header + bytes(size), list(shapes)


def safetensors():
    weights, names = small_weights()
    config = json.dumps(small_config()).encode()
    index = json.dumps({"weight_map": {name: "model-00001-of-00001.safetensors" for name in names}}).encode()
    yield "whole", b"\0".join((config, b"", weights))
    yield "sharded", b"\0".join((config, index, weights))
    scaled = {**small_config(), "model_type": "llama", "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8}}
    del scaled["rope_parameters"]
    yield "llama3", b"\0".join((json.dumps(scaled).encode(), b"", weights))
    for path in sorted((GOLDEN / "targets").glob("*/config.json")):
        yield f"config-{path.parent.name}", b"\0".join((path.read_bytes(), b"", weights))
    for path in sorted((GOLDEN / "gguf_bad").glob("*.safetensors")):
        yield path.stem, b"\0".join((config, b"", path.read_bytes()))
    for path in sorted((GOLDEN / "gguf_bad").glob("index_*/model.safetensors.index.json")):
        shard = path.parent / "model-00001-of-00001.safetensors"
        yield path.parent.name, b"\0".join((config, path.read_bytes(), shard.read_bytes()))


TEXTS = ["It's 1234 the <|im_end|>  \n  \u00fc\u4f60\U0001f600", "<think>aa</think> a\u0301 \u1680 x"]


def tokenizer_json():
    vocab = {text: byte for byte, text in enumerate(byte_alphabet())}
    vocab.update({"th": 256, "the": 257})
    digits = {"type": "Digits", "individual_digits": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    base = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [
            {"id": 258, "content": "<|im_end|>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True},
            {"id": 259, "content": "<think>", "normalized": False, "special": False},
            {"id": 260, "content": "aa", "normalized": True, "special": False}],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": byte_level, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": [["t", "h"], "th e"]}}
    qwen = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = {"type": "Split", "pattern": {"Regex": qwen}, "behavior": "Isolated", "invert": False}
    no_regex = {**byte_level, "use_regex": False}
    variants = {
        "smollm": base,
        "gpt2": {**base, "pre_tokenizer": byte_level},
        "split": {**base, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, no_regex]}},
        "few_bytes": {**base, "model": {**base["model"], "vocab": {"t": 0, "h": 1, "e": 2, "th": 3, "the": 4},
                                        "ignore_merges": True}, "added_tokens": []},
    }
    marks = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + ["t", "h", "e", "\u2581", "th", "the", "\u2581the"]
    variants["qwen"] = {**variants["split"], "normalizer": {"type": "NFC"}}
    variants["gemma"] = {
        **base, "normalizer": marks, "post_processor": None, "pre_tokenizer": {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}]},
        "added_tokens": [{"id": 300, "content": "<eos>", "special": True, "normalized": False}],
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True,
                  "vocab": {**{text: id for id, text in enumerate(pieces)}, "<unk>": 299},
                  "merges": [["t", "h"], ["th", "e"], ["\u2581", "the"]]}}
    trained = GOLDEN / "drafters/trained_pair/target/tokenizer.json"
    for name, value in variants.items():
        for number, text in enumerate(TEXTS):
            yield f"{name}-{number}", json.dumps(value, ensure_ascii=False).encode() + b"\0" + text.encode()
    yield "trained", trained.read_bytes() + b"\0" + TEXTS[0].encode()


# Pieces of templates that published ones are made of, and what they must not get away with.
TEMPLATES = [
    "{% for i in range(10) %}{{ loop.index }}{% if loop.last %}!{% else %}, {% endif %}{% endfor %}",
    "{% set ns = namespace(a=1) %}{% for m in messages %}{% set ns.a = ns.a + 1 %}{% endfor %}{{ ns.a }}",
    "{% macro f(x, y=2) %}[{{ x }}|{{ y }}]{% endmacro %}{{ f(messages[0].content, y=3) }}{{ f('a') }}",
    "{{ messages | length }}{{ messages[-1]['content'][::-1] }}{{ messages[0].content.split(' ')[0] | upper }}",
    "{{ raise_exception('no') if messages[0].role != 'system' else messages[0].content | trim }}",
    "{% for a in range(1000) %}{% for b in range(1000) %}{{ 'x' * 1000 }}{% endfor %}{% endfor %}",
    "{% set x = 'ab' * 100000 %}{{ x.replace('a', x) }}", "{{ messages.__class__ }}{{ ''.join(['a', 'b']) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ messages | tojson(indent=2) }}",
    "{{ messages | map(attribute='content') | join('\\n') }}{{ messages | selectattr('role', 'equalto', 'user') | list }}",
    "{%- if not add_generation_prompt is defined -%}a{%- elif tools is not none and tools -%}b{%- endif -%}",
    "{{ 9223372036854775807 + 1 }}{{ -7 // 0 }}{{ 2 ** 63 }}{{ 1e308 * 10 }}{{ 7 % -3 }}",
    "{{ messages[0].content.lstrip('<').rstrip('>').strip() }}{{ messages[0].items() }}{{ {'a': [1, (2,)]} }}",
    "{# a comment #}{% raw %}{{ x }}{% endraw %}{{ 'a' in 'abc' and 1 < 2 < 3 }}{{ x | default('y') }}",
    "{{ messages[0].content | indent(4) | replace('a', 'b') | title | capitalize | escape | first }}",
    "{{ 'abc'[::-9223372036854775808] }}{{ 'abc'[9223372036854775807:] }}{{ [1, 2][-9223372036854775808] }}",
    "{{ (-9223372036854775807 - 1) // -1 }}{{ (-9223372036854775807 - 1) % -1 }}{{ -(-9223372036854775807 - 1) }}",
    "{{ range(9223372036854775807, -9223372036854775808, -1) | list }}{{ range(0, 9223372036854775807, 4611686018427387904) }}",
    "{{ 1e300 | int }}{{ 'nan' | float | int }}{{ 2.5 | round(400) }}{{ 10 ** 400 }}{{ 0 ** -1 }}{{ (-8) ** 0.5 }}",
    "{{ 'a\\nb' | indent(9223372036854775807) }}{{ 'a' * 9223372036854775807 }}{{ [0] * 4611686018427387905 }}",
    "{{ messages | tojson(indent=9223372036854775807) }}{{ 'ab' | truncate(-5) }}{{ [1, 2, 3] | batch(0) | list }}",
    "{% generation %}{{ bos_token }}{% endgeneration %}{% break %}{% include 'x' %}{% import 'os' as os %}",
]


def chat_template():
    hostile = [{"role": "user", "content": "Hi <|im_end|>\n{{ x }}", "tags": ["b", None, 2.5, {"k": True}]},
               {"role": "assistant", "content": [{"type": "text", "text": "\u00fc"}], "tool_calls": []}]
    for number, template in enumerate(TEMPLATES):
        yield f"piece-{number}", template.encode() + b"\0" + json.dumps(hostile).encode()
    for path in sorted((GOLDEN / "chat").glob("*.json")):
        golden = json.loads(path.read_text(encoding="utf-8"))
        cases = golden["cases"]
        for case in (cases[0], cases[len(cases) // 2], cases[-1]):
            yield f"{path.stem}-{case['name']}", golden["template"].encode() + b"\0" + json.dumps(
                case["messages"], ensure_ascii=False).encode()


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi \u00fc"}]},
            {"role": "assistant", "content": "Yes?", "name": "a"}, {"role": "developer", "content": "the"}]
SAMPLING = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "presence_penalty": -1, "frequency_penalty": 1,
            "repetition_penalty": 1.1, "logit_bias": {"1": 2, "30": -100}, "seed": -5, "n": 2, "stop": ["a", "b"],
            "stop_token_ids": [3], "max_tokens": 9, "min_tokens": 1, "ignore_eos": True, "priority": -1}
STREAM = {"stream": True, "stream_options": {"include_usage": True, "include_drafts": True}}


def bodies():
    """(route number, path, body)."""
    chat, completions, tokenize, detokenize = "/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"
    yield 0, chat, {"model": "tiny", "messages": MESSAGES[:1]}
    yield 0, chat, {"model": "org/tiny", "messages": MESSAGES, **SAMPLING, "logprobs": True, "top_logprobs": 3}
    yield 0, chat, {"model": "default", "messages": MESSAGES, **STREAM, "max_completion_tokens": 4,
                    "chat_template_kwargs": {"enable_thinking": True}, "tools": [], "tool_choice": "none",
                    "response_format": {"type": "text"}, "user": "u", "store": False, "unknown": [[{}]]}
    yield 0, chat, {"model": "tiny", "messages": MESSAGES, "temperature": 3.5, "audio": {}, "functions": [1]}
    yield 1, completions, {"model": "tiny", "prompt": "The the"}
    yield 1, completions, {"model": "tiny", "prompt": ["a", [1, 2, 3], "\u4f60"], **SAMPLING, "logprobs": 2}
    yield 1, completions, {"model": "tiny", "prompt": [1, 2, 257], "echo": True, "best_of": 1, "suffix": "", **STREAM}
    yield 1, completions, {"model": "tiny", "prompt": "x" * 3000, "max_tokens": 2**31 - 1}
    yield 2, tokenize, {"model": "tiny", "prompt": "It's the <|im_end|>"}
    yield 2, tokenize, {"model": "tiny", "messages": MESSAGES}
    yield 3, detokenize, {"model": "tiny", "tokens": [1, 2, 195, 257, 259]}


def json_requests():
    for number, (route, _, body) in enumerate(bodies()):
        yield f"{number}-whole", bytes([route]) + json.dumps(body).encode()
        yield f"{number}-utf8", bytes([route]) + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    yield "deep", b"\0" + b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"
    yield "numbers", b"\1" + b'{"model":"tiny","prompt":"a","seed":18446744073709551616,"n":1e400,"top_p":-0.0}'
    yield "escapes", b"\2" + rb'{"model":"tiny","prompt":"\ud83d\ude00\u0000\ud800"}'


def http_request(path, body, *lines, method="POST"):
    head = [f"{method} {path} HTTP/1.1", "Host: x", *lines]
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + (body or b"")


def http():
    all_at_once, keys, small, draining, leave, metrics = b"\0\0", 1, 2, 4, 8, 16
    requests = []
    for _, path, body in bodies():
        requests.append(http_request(path, json.dumps(body).encode(), "x-request-id: r-1"))
    gets = [http_request(path, None, method="GET") for path in (
        "/v1/models", "/v1/models/org%2ftiny", "/version", "/health?x=1", "/ready", "/nothing", "/v1/completions")]
    for number, request in enumerate(requests + gets):
        yield f"{number}", all_at_once + request
        yield f"{number}-pieces", bytes([7, metrics]) + request
    small_body = json.dumps({"model": "tiny", "prompt": "a"}).encode()
    completions = "/v1/completions"
    yield "pipelined", all_at_once + b"".join(gets) + requests[0] + gets[0]
    yield "keys", bytes([0, keys]) + http_request("/version", None, "Authorization: Bearer k", method="GET") + gets[0]
    yield "too large", bytes([3, small]) + requests[1]
    yield "draining", bytes([0, draining]) + b"".join(gets)
    yield "leaves", bytes([0, leave]) + requests[2]
    chunked = "\r\n".join([f"POST {completions} HTTP/1.1", "Host: x", "Content-Type: application/json; charset=utf-8",
                           "Transfer-Encoding: chunked", "", ""]).encode()
    yield "chunked", bytes([5, 0]) + chunked + b"%x;a=b\r\n%s\r\n0\r\nTrailer: 1\r\n\r\n" % (len(small_body), small_body)
    yield "endless chunk", all_at_once + chunked + b"ffffffffffffffff\r\nabc"
    yield "continue", bytes([0, 0]) + http_request(completions, small_body, "Expect: 100-continue")
    yield "old", all_at_once + b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /ready HTTP/1.0\r\n\r\n"
    yield "gzip", all_at_once + http_request(completions, small_body, "Content-Encoding: gzip")
    yield "lengths", all_at_once + http_request(completions, small_body, "Content-Length: 3", "Transfer-Encoding: x")
    yield "many headers", all_at_once + http_request(completions, small_body, *[f"h{i}: {i}" for i in range(110)])
    yield "HTTP/2", all_at_once + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield "TLS", all_at_once + b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    yield "folded", all_at_once + b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n"


def main(out):
    for target in (gguf, safetensors, tokenizer_json, chat_template, json_requests, http):
        folder = pathlib.Path(out, target.__name__)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in target():
            if len(data) <= MAX_SEED_BYTES:
                (folder / name.replace("/", "_").replace(" ", "_")).write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1])
