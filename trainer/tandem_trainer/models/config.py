"""A drafter's config.json: checked, and as numbers that the modules need.

The file is its target's (text) config with fields added; the same fields as drafter/models/draft_config.h reads.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from tandem_trainer.errors import UserError

DSPARK, EAGLE3 = "dspark", "eagle3"
QWEN3, GEMMA4 = "qwen3", "gemma4"
ARCHITECTURES = {
    "Qwen3DSparkModel": (DSPARK, QWEN3),
    "Qwen3Eagle3Model": (EAGLE3, QWEN3),
    "Gemma4DSparkModel": (DSPARK, GEMMA4),
    "Gemma4Eagle3Model": (EAGLE3, GEMMA4),
    "Eagle3DraftModel": (EAGLE3, None),
}
ARCHITECTURE_NAMES = {value: name for name, value in ARCHITECTURES.items() if value[1]}
MARKOV_TYPES = ("vanilla", "gated", "rnn")
EAGLE3_TAPS = 5
MAX_BLOCK_SIZE = 64
# Whose layers a drafter's are made after; all but Gemma 4 get Qwen3's.
TARGET_TYPES = {"llama", "qwen2", "qwen3", "gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"}


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary embedding; pairs are (j, j + head_dim/2)."""

    theta: float
    rotated_share: float = 1.0  # "proportional": the first of the pairs turn, the others have frequency 0
    linear_factor: float = 1.0
    llama3: tuple[float, float, float, int] | None = None  # factor, low, high, original context

    def inverse_frequencies(self, head_dim: int) -> list[float]:
        """[head_dim/2]; the denominator is the whole head, also where only a share of it turns."""
        half = head_dim // 2
        rotated = int(self.rotated_share * head_dim // 2)
        result = [self.theta ** (-2 * j / head_dim) / self.linear_factor if j < rotated else 0.0 for j in range(half)]
        if self.llama3 is not None:
            result = [self._llama3(f) for f in result]
        return result

    def _llama3(self, frequency: float) -> float:
        factor, low, high, original = self.llama3
        wavelength = 2 * math.pi / frequency
        if wavelength > original / low:
            return frequency / factor
        if wavelength < original / high:
            return frequency
        smooth = (original / wavelength - low) / (high - low)
        return (1 - smooth) * frequency / factor + smooth * frequency


@dataclasses.dataclass(frozen=True)
class DraftConfig:
    """Every field is checked. `raw` is the file's content, written back with what changes."""

    algorithm: str  # "dspark" (DFlash is DSpark without heads) or "eagle3"
    style: str  # of the layers: "qwen3" or "gemma4"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: Rope
    attention_scale: float
    value_is_key: bool
    embedding_scale: float
    logit_softcap: float  # 0: none
    num_target_layers: int
    taps: tuple[int, ...]
    block_size: int
    mask_token_id: int  # -1: none (Eagle3)
    markov_rank: int
    markov_type: str | None
    has_confidence: bool
    confidence_with_markov: bool
    draft_vocab_size: int  # 0: the whole vocabulary
    compact: bool
    target_fingerprint: str
    raw: dict[str, Any] = dataclasses.field(compare=False)

    @property
    def name(self) -> str:
        """One of dspark, dflash and eagle3."""
        if self.algorithm == EAGLE3:
            return EAGLE3
        return "dflash" if self.markov_rank == 0 and not self.has_confidence else DSPARK

    @property
    def num_draft_tokens(self) -> int:
        """Rows of head and markov_w2."""
        return self.draft_vocab_size or self.vocab_size


class _Reader:
    """Fields of one JSON object, with errors that name file and field."""

    def __init__(self, raw: dict[str, Any], path: str):
        self.raw, self.path = raw, path

    def fail(self, text: str):
        raise UserError(f"{self.path}: {text}")

    def integer(self, field: str, low: int, high: int, absent: int | None = None) -> int:
        value = self.raw.get(field)
        if value is None and absent is not None:
            return absent
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(f"{field} is {'missing' if value is None else 'no integer'}")
        if not low <= value <= high:
            self.fail(f"{field} is {value}, allowed are {low} to {high}")
        return value

    def number(self, field: str, absent: float | None = None) -> float:
        value = self.raw.get(field)
        if value is None and absent is not None:
            return absent
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            self.fail(f"{field} is {'missing' if value is None else 'no finite number'}")
        return float(value)

    def truth(self, field: str, absent: bool = False) -> bool:
        value = self.raw.get(field)
        if value is None:
            return absent
        if not isinstance(value, bool):
            self.fail(f"{field} is no truth value")
        return value


def read_rope(raw: dict[str, Any], path: str, layer_type: str | None = None) -> Rope:
    """Of config.json in either spelling; `layer_type` picks an entry where there is one for each."""
    fields = _Reader(raw, path)
    parameters = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if layer_type is not None and isinstance(parameters.get(layer_type), dict):
        parameters = parameters[layer_type]
    theta = parameters.get("rope_theta") or raw.get("rope_theta")
    if not isinstance(theta, int | float) or not theta > 0:
        fields.fail("rope_theta is missing or no number above 0")
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    entry = _Reader(parameters, f"{path}: rope_parameters")
    if kind == "default":
        return Rope(float(theta))
    if kind == "linear":
        return Rope(float(theta), linear_factor=entry.number("factor"))
    if kind == "proportional":
        return Rope(
            float(theta),
            rotated_share=entry.number("partial_rotary_factor", 1.0),
            linear_factor=entry.number("factor", 1.0),
        )
    if kind == "llama3":
        return Rope(
            float(theta),
            llama3=(
                entry.number("factor"),
                entry.number("low_freq_factor"),
                entry.number("high_freq_factor"),
                entry.integer("original_max_position_embeddings", 1, 1 << 24),
            ),
        )
    return fields.fail(f"rope type {kind!r} is not supported; default, linear, llama3 and proportional are")


def _taps(fields: _Reader, algorithm: str, num_target_layers: int) -> tuple[int, ...]:
    taps = fields.raw.get("target_layer_ids")
    if not isinstance(taps, list) or not taps or not all(isinstance(tap, int) for tap in taps):
        fields.fail("target_layer_ids is no list of integers")
    low = 0 if algorithm == EAGLE3 else -1
    if algorithm == EAGLE3 and len(taps) != EAGLE3_TAPS:
        fields.fail(f"target_layer_ids has {len(taps)} entries, Eagle3 has {EAGLE3_TAPS}")
    for before, tap in zip([None, *taps], taps, strict=False):
        if not low <= tap <= num_target_layers - 2:
            fields.fail(
                f"target_layer_ids has {tap}, allowed are {low} to {num_target_layers - 2} (never the last layer)"
            )
        if before is not None and tap <= before:
            fields.fail(f"target_layer_ids is not strictly increasing: {tap} after {before}")
    return tuple(taps)


def parse_config(raw: dict[str, Any], path: str = "config.json") -> DraftConfig:
    """Raises UserError that names `path` and the field."""
    fields = _Reader(raw, path)
    names = raw.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or names[0] not in ARCHITECTURES:
        fields.fail(f"architectures is {names!r}, expected one of {', '.join(ARCHITECTURES)}")
    algorithm, style = ARCHITECTURES[names[0]]
    model_type = raw.get("model_type", "")
    if style is None:
        style = GEMMA4 if str(model_type).startswith("gemma4") else QWEN3
    if (style == GEMMA4) != str(model_type).startswith("gemma4"):
        fields.fail(f"model_type {model_type!r} does not go with {names[0]}")
    if fields.truth("attention_bias"):
        fields.fail("attention_bias is true, draft layers have none")
    num_layers = fields.integer("num_hidden_layers", 1, 1024)
    if algorithm == EAGLE3 and num_layers != 1:
        fields.fail(f"num_hidden_layers is {num_layers}, Eagle3 has one")
    hidden, num_heads = fields.integer("hidden_size", 1, 1 << 20), fields.integer("num_attention_heads", 1, 1 << 16)
    head_dim = fields.integer("head_dim", 2, 4096, hidden // num_heads)
    kv_heads = fields.integer("num_key_value_heads", 1, num_heads, num_heads)
    value_is_key, scale, embedding_scale = False, head_dim**-0.5, 1.0
    if style == GEMMA4:
        head_dim = fields.integer("global_head_dim", 2, 4096, head_dim)
        value_is_key = fields.truth("attention_k_eq_v")
        if value_is_key:
            kv_heads = fields.integer("num_global_key_value_heads", 1, num_heads, kv_heads)
        scale, embedding_scale = 1.0, hidden**0.5
    num_target_layers = fields.integer("num_target_layers", 1, 1024)
    vocab = fields.integer("vocab_size", 1, 1 << 21)
    rank, markov, confidence, confidence_markov, mask = 0, None, False, False, -1
    if algorithm == DSPARK:
        block = fields.integer("block_size", 1, MAX_BLOCK_SIZE)
        mask = fields.integer("mask_token_id", 0, vocab - 1)
        rank = fields.integer("markov_rank", 0, 1 << 20, 0)
        if rank:
            markov = str(raw.get("markov_head_type", "")).lower()
            if markov not in MARKOV_TYPES:
                fields.fail(
                    f"markov_head_type is {raw.get('markov_head_type')!r}, allowed are {', '.join(MARKOV_TYPES)}"
                )
        confidence = fields.truth("enable_confidence_head")
        confidence_markov = confidence and fields.truth("confidence_head_with_markov")
        if confidence_markov and not rank:
            fields.fail("confidence_head_with_markov is true and markov_rank is 0")
    else:
        block = fields.integer("ttt_length", 1, MAX_BLOCK_SIZE)
    return DraftConfig(
        algorithm=algorithm,
        style=style,
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", 1, 1 << 20),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=read_rope(raw, path, "full_attention" if style == GEMMA4 else None),
        attention_scale=scale,
        value_is_key=value_is_key,
        embedding_scale=embedding_scale,
        logit_softcap=fields.number("final_logit_softcapping", 0.0) if style == GEMMA4 else 0.0,
        num_target_layers=num_target_layers,
        taps=_taps(fields, algorithm, num_target_layers),
        block_size=block,
        mask_token_id=mask,
        markov_rank=rank,
        markov_type=markov,
        has_confidence=confidence,
        confidence_with_markov=confidence_markov,
        draft_vocab_size=fields.integer("draft_vocab_size", 1, vocab, 0),
        compact=bool(raw.get("tandem_format")),
        target_fingerprint=str(raw.get("target_fingerprint") or ""),
        raw=dict(raw),
    )


def usual_taps(num_target_layers: int, count: int = 5) -> list[int]:
    """Evenly from block 1 to the last but two, the first and last of the usable ones in small targets."""
    last = max(num_target_layers - 3, 0)
    first = min(1, last)
    if last - first + 1 < count:  # small targets: every block but the last
        return list(range(max(num_target_layers - 1, 1)))[-count:]
    return [round(first + i * (last - first) / (count - 1)) for i in range(count)] if count > 1 else [last]


def new_config(
    target: dict[str, Any],
    *,
    algorithm: str = DSPARK,
    num_layers: int,
    block_size: int = 7,
    taps: list[int] | None = None,
    mask_token_id: int | None = None,
    markov_rank: int = 0,
    markov_type: str = "vanilla",
    confidence: bool = True,
    draft_vocab_size: int = 0,
    target_fingerprint: str = "",
    target_name: str = "",
) -> DraftConfig:
    """A drafter for a target with this (text) config.json."""
    model_type = str(target.get("model_type", ""))
    if model_type not in TARGET_TYPES:
        raise UserError(
            f"the target's model_type is {model_type!r}; drafters can be trained for {', '.join(sorted(TARGET_TYPES))}"
        )
    text = target.get("text_config") or target
    raw = {k: v for k, v in text.items() if k not in ("torch_dtype", "tie_word_embeddings", "quantization_config")}
    style = GEMMA4 if model_type.startswith("gemma4") else QWEN3
    if style == GEMMA4:
        raw["model_type"] = "gemma4_text"
        raw.setdefault("target_model_type", model_type)
        raw["num_kv_shared_layers"] = 0
    layers = int(text["num_hidden_layers"])
    raw.update(
        architectures=[ARCHITECTURE_NAMES[algorithm, style]],
        dtype="bfloat16",
        tie_word_embeddings=False,
        attention_bias=False,
        num_target_layers=layers,
        num_hidden_layers=num_layers,
        layer_types=["full_attention"] * num_layers,
        use_sliding_window=False,
        sliding_window=None,
        target_layer_ids=list(taps) if taps else usual_taps(layers),
    )
    raw.pop("mlp_bias", None)
    if algorithm == DSPARK:
        if mask_token_id is None:
            mask_token_id = int(text["vocab_size"]) - 1
        raw.update(
            block_size=block_size,
            mask_token_id=mask_token_id,
            markov_rank=markov_rank,
            enable_confidence_head=confidence,
        )
        if markov_rank:
            raw["markov_head_type"] = markov_type
        if confidence:
            raw["confidence_head_with_markov"] = markov_rank > 0
    else:
        raw.update(
            ttt_length=block_size, draft_num_hidden_layers=1, step_loss_decay=0.8, target_model_name_or_path=target_name
        )
    if draft_vocab_size:
        raw["draft_vocab_size"] = draft_vocab_size
    if target_fingerprint:
        raw["target_fingerprint"] = target_fingerprint
    return parse_config(raw, "the new drafter's configuration")
