"""A byte-level tokenizer out of a GGUF file's metadata, with the cuts that Tandem's gateway makes.

transformers reads such files too, but knows few pre-tokenizers by name: SmolLM2's text would be cut as GPT-2's, with
other ids wherever spaces or newlines precede a digit.
"""

from __future__ import annotations

from typing import Any

from tandem_trainer.errors import UserError
from tandem_trainer.formats.tensors import GgufFile

CONTROL, USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
# Ends of turns and texts, which a file's own keys may leave out: as the verifier has them.
END_NAMES = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>")
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
NAMES = ("gpt-2", "smollm", "qwen2", "llama-bpe")


def is_byte_level(file: GgufFile) -> bool:
    return file.field("tokenizer.ggml.model") == "gpt2"


def _pre_tokenizer(file: GgufFile):
    from tokenizers import Regex, pre_tokenizers

    name = file.field("tokenizer.ggml.pre")
    if name == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "smollm":  # each digit alone, and then GPT-2's words of what is between
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    digits = {"qwen2": r"\p{N}", "llama-bpe": r"\p{N}{1,3}"}.get(name)
    if digits is None:
        raise UserError(f"{file.path}: pre-tokenizer {name!r} is not supported; {', '.join(NAMES)} are")
    words = pre_tokenizers.Split(Regex(WORDS.format(digits=digits)), "isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _strings(file: GgufFile, name: str) -> list[str]:
    value = file.field(name)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise UserError(f"{file.path}: {name} is no list of strings")
    return value


def _named(file: GgufFile, tokens: list[str], kind: str) -> str | None:
    number = file.field(f"tokenizer.ggml.{kind}_token_id")
    if number is not None and not 0 <= number < len(tokens):
        raise UserError(f"{file.path}: tokenizer.ggml.{kind}_token_id is {number} of {len(tokens)} tokens")
    return None if number is None else tokens[number]


def read_tokenizer(file: GgufFile):
    """is_byte_level files."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    tokens, merges = _strings(file, "tokenizer.ggml.tokens"), _strings(file, "tokenizer.ggml.merges")
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens) or any(len(pair) != 2 for pair in pairs):
        raise UserError(f"{file.path}: tokenizer.ggml.tokens has a token twice, or tokenizer.ggml.merges no pairs")
    kinds = file.field("tokenizer.ggml.token_type") or []
    name = file.field("tokenizer.ggml.pre")
    model = models.BPE(vocabulary, pairs, ignore_merges=name == "llama-bpe")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = _pre_tokenizer(file), decoders.ByteLevel()
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    added = [
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=False)
        if kind in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_special_tokens([token for token in added if token.special])
    tokenizer.add_tokens([token for token in added if not token.special])
    named: dict[str, Any] = {f"{kind}_token": _named(file, tokens, kind) for kind in ("bos", "eos")}
    result = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, name_or_path=str(file.path), **named
    )
    result.chat_template = file.field("tokenizer.chat_template")
    return result


def end_tokens(file: GgufFile) -> list[int]:
    """Of an answer: ids that the file's keys name, and those of well-known names."""
    keys = [file.field(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")]
    found = [int(number) for number in keys if number is not None]
    tokens, kinds = file.field("tokenizer.ggml.tokens") or [], file.field("tokenizer.ggml.token_type") or []
    for number, (token, kind) in enumerate(zip(tokens, kinds, strict=False)):
        if token in END_NAMES and kind in (CONTROL, USER_DEFINED):
            found.append(number)
    return list(dict.fromkeys(found))
