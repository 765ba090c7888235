"""Targets in GGUF files: weights and text as the C++ programs read them."""

import gzip
import json

import gguf
import pytest
import safetensors.torch
import torch
from conftest import golden_dir, read_json

from tandem_trainer.data.transformers_target import TransformersTarget
from tandem_trainer.errors import UserError
from tandem_trainer.formats.target_files import TargetFiles

FILES = [p for p in sorted((golden_dir() / "gguf").glob("*.gguf")) if not p.name.startswith("gemma")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@torch.no_grad()
def test_logits_and_weights(path):
    expected = safetensors.torch.load_file(path.with_suffix(".expected.safetensors"))
    target = TransformersTarget(TargetFiles(path))
    files = target.files
    embedding, head = files.vocabulary()
    for name in [n.removeprefix("input_ids.") for n in expected if n.startswith("input_ids.")]:
        ids = expected[f"input_ids.{name}"].long().reshape(1, -1)
        states = target.hidden_states(ids, (0,))
        torch.testing.assert_close(states.last[0] @ head.T, expected[f"logits.{name}"], atol=5e-4, rtol=5e-4)
    # What starts and heads a drafter is what the target computes with.
    assert torch.equal(embedding, target.model.get_input_embeddings().weight)
    last = int(files.config["num_hidden_layers"]) - 1
    held = dict(target.decoder.layers[last].named_parameters())
    weights = files.layer(last)
    assert set(weights) == set(held)
    assert all(torch.equal(weights[name], held[name]) for name in held)


def vocabulary_file(path, pre, without=()):
    """A GGUF file of SmolLM2's vocabulary, and of hardly any weights."""
    with gzip.open(golden_dir() / "tokenizers/smollm2.tokenizer.json.gz") as stream:
        told = json.load(stream)
    tokens = sorted(told["model"]["vocab"], key=told["model"]["vocab"].get)
    special = {token["id"] for token in told["added_tokens"]}
    merges = [m if isinstance(m, str) else " ".join(m) for m in told["model"]["merges"]]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i in special else 1 for i in range(len(tokens))])
    if "merges" not in without:
        writer.add_token_merges(merges)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    writer.add_tensor("token_embd.weight", torch.zeros(len(tokens), 8).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return TargetFiles(path)


def test_text_is_cut_as_in_service(tmp_path):
    files = vocabulary_file(tmp_path / "smollm2.gguf", "smollm")
    cases = read_json(golden_dir() / "tokenizers/smollm2.json")["texts"]
    assert len(cases) > 100
    for case in cases:
        ids = files.tokenizer(case["text"], add_special_tokens=False).input_ids
        assert ids == case.get("ids_special", case["ids"]), case["text"]
    assert files.tokenizer.eos_token == "<|im_end|>" and files.tokenizer.chat_template.startswith("{{ messages")
    assert files.end_tokens == [2, 0]  # <|endoftext|> by its name


def test_what_is_not_known_is_refused(tmp_path):
    with pytest.raises(UserError, match="pre-tokenizer 'starcoder' is not supported; gpt-2, smollm"):
        _ = vocabulary_file(tmp_path / "a.gguf", "starcoder").tokenizer
    with pytest.raises(UserError, match="b.gguf: tokenizer.ggml.merges is no list of strings"):
        _ = vocabulary_file(tmp_path / "b.gguf", "smollm", without=("merges",)).tokenizer
