"""What training needs of a target's files without loading it: configuration, tokenizer, embedding, head."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

import torch

from tandem_trainer.errors import UserError
from tandem_trainer.formats.checkpoint import read_json
from tandem_trainer.formats.gguf_tokenizer import end_tokens, is_byte_level, read_tokenizer
from tandem_trainer.formats.tensors import GgufFile, SafetensorsFiles, fingerprint

EMBEDDING_NAMES = (
    "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
)
HEAD_NAMES = ("lm_head.weight", "language_model.lm_head.weight")
FINAL_NORM_NAMES = ("model.norm.weight", "model.language_model.norm.weight", "language_model.model.norm.weight")
LAYER_PREFIXES = ("model.layers.", "model.language_model.layers.", "language_model.model.layers.")
GGUF_LAYER_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
GGUF_FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def _gguf_config(file: GgufFile) -> dict[str, Any]:
    """config.json's fields out of GGUF metadata."""
    family = file.field("general.architecture")
    if family not in GGUF_FAMILIES:
        raise UserError(
            f"{file.path}: architecture {family!r} is not supported for training from GGUF; "
            f"{', '.join(GGUF_FAMILIES)} are"
        )

    def get(name: str, absent=None):
        value = file.field(f"{family}.{name}")
        if value is None and absent is None:
            raise UserError(f"{file.path}: {family}.{name} is missing")
        return absent if value is None else value

    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise UserError(f"{file.path}: no tensor token_embd.weight")
    heads, hidden = int(get("attention.head_count")), int(get("embedding_length"))
    return {
        "model_type": GGUF_FAMILIES[family],
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": int(get("feed_forward_length")),
        "num_hidden_layers": int(get("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(get("attention.head_count_kv", heads)),
        "head_dim": int(get("attention.key_length", hidden // heads)),
        "rms_norm_eps": float(get("attention.layer_norm_rms_epsilon")),
        "hidden_act": "silu",
        "max_position_embeddings": int(get("context_length")),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(get("rope.freq_base", 10000.0))},
        "eos_token_id": end_tokens(file),
        "bos_token_id": file.field("tokenizer.ggml.bos_token_id"),
    }


@dataclasses.dataclass
class TargetFiles:
    """A Hugging Face directory or a GGUF file."""

    path: pathlib.Path

    def __post_init__(self):
        self.path = pathlib.Path(self.path)
        if not self.path.exists():
            raise UserError(f"target {self.path}: no such file or directory")

    @property
    def is_gguf(self) -> bool:
        return self.path.is_file()

    @functools.cached_property
    def tensors(self) -> SafetensorsFiles | GgufFile:
        return GgufFile(self.path) if self.is_gguf else SafetensorsFiles(self.path)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The text model's config.json."""
        if self.is_gguf:
            return _gguf_config(self.tensors)
        config = read_json(self.path / "config.json")
        text = config.get("text_config")
        return {**text, "model_type": text.get("model_type", config.get("model_type"))} if text else config

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.tensors)

    @property
    def vocab_size(self) -> int:
        return int(self.config["vocab_size"])

    def vocabulary(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Embedding and head [V, H], f32; the head is the embedding where they are tied."""
        if self.is_gguf:
            embedding = self.tensors.get("token_embd.weight")
            head = self.tensors.get("output.weight") if "output.weight" in self.tensors.tensors else embedding
            return embedding, head
        embedding = self._first(EMBEDDING_NAMES)
        if embedding is None:
            raise UserError(f"{self.path}: no tensor {EMBEDDING_NAMES[0]}")
        head = None if self.config.get("tie_word_embeddings") else self._first(HEAD_NAMES)
        return embedding, embedding if head is None else head

    def _first(self, names: tuple[str, ...]) -> torch.Tensor | None:
        for name in names:
            if name in self.tensors.tensors:
                return self.tensors.get(name).float()
        return None

    def layer(self, i: int) -> dict[str, torch.Tensor]:
        """Block i's tensors under the names of a draft layer."""
        result = {}
        if self.is_gguf:
            for name, gguf_name in GGUF_LAYER_NAMES.items():
                for kind in ("weight", "bias"):
                    full = f"blk.{i}.{gguf_name}.{kind}"
                    if full in self.tensors.tensors:
                        result[f"{name}.{kind}"] = self._unpermuted(gguf_name, self.tensors.get(full))
            return result
        for prefix in LAYER_PREFIXES:
            start = f"{prefix}{i}."
            for name in self.tensors.tensors:
                if name.startswith(start):
                    result[name.removeprefix(start)] = self.tensors.get(name).float()
        return result

    def _unpermuted(self, gguf_name: str, value: torch.Tensor) -> torch.Tensor:
        """GGUF files of the Llama family have the rotated pairs of q and k next to each other."""
        if self.tensors.field("general.architecture") != "llama" or gguf_name not in ("attn_q", "attn_k"):
            return value
        heads = self.config["num_attention_heads" if gguf_name == "attn_q" else "num_key_value_heads"]
        return value.view(heads, -1, 2, *value.shape[1:]).transpose(1, 2).reshape(value.shape)

    def rope_factors(self) -> torch.Tensor | None:
        """[head_dim / 2]: what divides the rotary frequencies of a GGUF file, which says so nowhere else."""
        has = self.is_gguf and "rope_freqs.weight" in self.tensors.tensors
        return self.tensors.get("rope_freqs.weight") if has else None

    def final_norm(self) -> torch.Tensor | None:
        if self.is_gguf:
            return self.tensors.get("output_norm.weight")
        return self._first(FINAL_NORM_NAMES)

    @functools.cached_property
    def end_tokens(self) -> list[int]:
        """Ids that end an answer: generation_config.json's, else config.json's, and the tokenizer's."""
        value = None
        if not self.is_gguf and (self.path / "generation_config.json").exists():
            value = read_json(self.path / "generation_config.json").get("eos_token_id")
        if value is None:
            value = self.config.get("eos_token_id")
        ids = list(value) if isinstance(value, list) else [value] if value is not None else []
        if self.tokenizer.eos_token_id is not None and self.tokenizer.eos_token_id not in ids:
            ids.append(self.tokenizer.eos_token_id)
        if not ids:
            raise UserError(f"{self.path}: no end-of-text token in generation_config.json, config.json or tokenizer")
        return ids

    @functools.cached_property
    def tokenizer(self):
        from transformers import AutoTokenizer

        try:
            if self.is_gguf and is_byte_level(self.tensors):
                tokenizer = read_tokenizer(self.tensors)
            elif self.is_gguf:
                tokenizer = AutoTokenizer.from_pretrained(self.path.parent, gguf_file=self.path.name)
            else:
                tokenizer = AutoTokenizer.from_pretrained(self.path)
        except UserError:
            raise
        except Exception as error:  # whatever a damaged tokenizer file makes the library raise
            raise UserError(f"{self.path}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}") from error
        check_tokenizer(tokenizer, self)
        return tokenizer

    @functools.cached_property
    def tokenizer_digest(self) -> str:
        """Changes when any token's id does."""
        pairs = sorted(self.tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
        return hashlib.sha256(repr(pairs).encode()).hexdigest()


def check_tokenizer(tokenizer, target: TargetFiles) -> None:
    """A tokenizer whose ids the target lacks is not its own."""
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= target.vocab_size:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer is not the target's: it has token id {largest}, "
            f"{target.path} has {target.vocab_size} tokens"
        )
