"""Converts a DSpark drafter and its target's tokenizer into what llama.cpp's own converter takes, and runs that.

llama.cpp wants the released layout: no int8, `rope_theta` at the top of config.json, a reduced vocabulary's rows of the
target's head written out; and a Hugging Face directory of the target for its tokenizer. Both are made here from the
drafter's compact form (drafter/default) and the target's GGUF file. Needs torch, transformers, safetensors and gguf.

  tests/bench/convert_drafter.py LLAMA_CPP_SOURCE DRAFTER TARGET.gguf OUT.gguf
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import tokenizers
import torch
from safetensors import safe_open
from safetensors.torch import save_file

CONTROL, USER_DEFINED = 3, 4  # kinds of tokens in GGUF files


def read_tensors(drafter):
    """Tensors as bf16 or f32, int8 ones multiplied with their rows' scales."""
    with safe_open(drafter / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    for name in [name for name in tensors if name.endswith(".scale") and name.removesuffix(".scale") in tensors]:
        scale = tensors.pop(name)
        plain = name.removesuffix(".scale")
        tensors[plain] = (tensors[plain].float() * scale.float().reshape(-1, 1)).to(torch.bfloat16)
    return tensors


def target_head(target):
    """[V, H], the embedding where the two are tied."""
    by_name = {tensor.name: tensor for tensor in target.tensors}
    head = by_name.get("output.weight", by_name["token_embd.weight"])
    return torch.from_numpy(gguf.quants.dequantize(head.data, head.tensor_type))


def write_drafter(drafter, target, out):
    config = json.loads((drafter / "config.json").read_text(encoding="utf-8"))
    config.setdefault("rope_theta", config.get("rope_parameters", {}).get("rope_theta", 10000.0))
    tensors = read_tensors(drafter)
    if config.get("draft_vocab_size", config["vocab_size"]) < config["vocab_size"] and "lm_head.weight" not in tensors:
        ids = torch.arange(config["draft_vocab_size"]) + tensors["d2t"].long()
        tensors["lm_head.weight"] = target_head(target)[ids].to(torch.bfloat16)
    tensors.pop("t2d", None)
    config.pop("tandem_format", None)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")


def write_target(target, out):
    """config.json and tokenizer.json of a Llama with SmolLM's byte-level BPE, the only one this knows."""
    def field(name):
        return target.fields[name].contents()

    if (field("tokenizer.ggml.model"), field("tokenizer.ggml.pre")) != ("gpt2", "smollm"):
        sys.exit("convert_drafter: only SmolLM's tokenizer is known here")
    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Digits(individual_digits=True),
         tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, kinds) if kind == CONTROL])
    tokenizer.add_tokens([token for token, kind in zip(tokens, kinds) if kind == USER_DEFINED])
    tokenizer.save(str(out / "tokenizer.json"))
    bos, eos = (tokens[field(f"tokenizer.ggml.{name}_token_id")] for name in ("bos", "eos"))
    (out / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos, "pad_token": eos,
         "add_prefix_space": False}), encoding="utf-8")
    (out / "config.json").write_text(json.dumps(
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(tokens),
         "hidden_size": field("llama.embedding_length"), "num_hidden_layers": field("llama.block_count"),
         "num_attention_heads": field("llama.attention.head_count"),
         "num_key_value_heads": field("llama.attention.head_count_kv"),
         "intermediate_size": field("llama.feed_forward_length"),
         "max_position_embeddings": field("llama.context_length"),
         "rms_norm_eps": field("llama.attention.layer_norm_rms_epsilon"),
         "rope_theta": field("llama.rope.freq_base"), "tie_word_embeddings": True}), encoding="utf-8")


def main():
    if len(sys.argv) != 5:
        sys.exit("usage: convert_drafter.py LLAMA_CPP_SOURCE DRAFTER TARGET.gguf OUT.gguf")
    source, drafter, target_path, out = (pathlib.Path(argument) for argument in sys.argv[1:])
    target = gguf.GGUFReader(target_path)
    with tempfile.TemporaryDirectory() as directory:
        draft_dir, target_dir = pathlib.Path(directory, "drafter"), pathlib.Path(directory, "target")
        draft_dir.mkdir()
        target_dir.mkdir()
        write_drafter(drafter, target, draft_dir)
        write_target(target, target_dir)
        unfinished = out.with_suffix(".unfinished.gguf")
        subprocess.run([sys.executable, source / "convert_hf_to_gguf.py", draft_dir, "--target-model-dir", target_dir,
                        "--outtype", "bf16", "--outfile", unfinished], check=True)
        unfinished.rename(out)


if __name__ == "__main__":
    main()
