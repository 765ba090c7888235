"""A recipe: everything that a drafter's training depends on, in one TOML file. docs/training.md lists the fields."""

from __future__ import annotations

import dataclasses
import pathlib
import tomllib
import typing

from tandem_trainer.data.generate import DataOptions
from tandem_trainer.errors import UserError
from tandem_trainer.training.losses import LossWeights


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    path: str = ""  # Hugging Face directory or GGUF file
    source: str = "transformers"  # or "capture": hidden states and texts from a running tandem-verifier
    address: str = "127.0.0.1:8011"  # of that verifier
    device: str = "auto"  # cuda where there is one


@dataclasses.dataclass(frozen=True)
class DrafterOptions:
    algorithm: str = "dspark"  # or dflash, eagle3
    layers: int = 2
    block_size: int = 7
    taps: tuple[int, ...] = ()  # none: five, evenly
    mask_token_id: int = -1  # a token that does not occur in texts; -1: the last of the vocabulary
    markov_rank: int = 64  # 0: no sequential head
    markov_type: str = "vanilla"  # or gated, rnn
    markov_top_k: int = 0  # the sequential head scores only this many of the best; 0: all
    confidence: bool = True
    draft_vocab_size: int = 0  # the most frequent tokens of the answers; 0: all
    start: str = "target"  # weights from the target's last blocks, or "random"


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    steps: int = 0  # one of steps and minutes
    minutes: float = 0.0  # resumes with the time that is left, but not with the same numbers
    sequences: int = 8  # of a micro-batch
    accumulate: int = 1  # micro-batches of a step
    anchors: int = 64  # of a sequence
    learning_rate: float = 6e-4
    markov_learning_rate_factor: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    warmup: float = 0.04  # share of the run
    clip: float = 1.0
    cross_entropy: float = 0.1
    l1: float = 0.9
    confidence: float = 1.0
    decay: float = 4.0
    frequent: int = 0  # sums over the vocabulary run over this many frequent tokens ..
    random: int = 0  # .. and so many random others with weights; 0 and 0: all
    rows_at_once: int = 2048  # labels whose logits are in memory at once
    held_out: float = 0.05
    checkpoint_every: int = 100  # steps
    log_every: int = 10
    hidden_cache_bytes: int = 2 << 30  # hidden states kept in memory between epochs
    dtype: str = "auto"  # f32 or bf16; auto: bf16 on CUDA
    threads: int = 0  # of the CPU; 0: torch's choice
    seed: int = 42

    def loss_weights(self) -> LossWeights:
        return LossWeights(self.cross_entropy, self.l1, self.confidence, self.decay)


@dataclasses.dataclass(frozen=True)
class CalibrationOptions:
    settings: tuple[str, ...] = ("greedy", "coup:0.7", "coup:1.0", "rej:0.7", "rej:1.0")
    num_texts: int = 64
    max_tokens: int = 96


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    prompts: tuple[str, ...] = ()  # JSONL files, one category each; none: texts that were held out
    num_prompts: int = 12  # of each
    max_tokens: int = 96
    settings: tuple[str, ...] = ("greedy", "coup:1.0", "rej:1.0", "match:1.0")
    seed: int = 980406


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    name: str = "drafter"
    int8: bool = False
    licence: str = "unknown: that of the target applies to what is copied from it"


@dataclasses.dataclass(frozen=True)
class Recipe:
    target: TargetOptions = TargetOptions()
    drafter: DrafterOptions = DrafterOptions()
    data: DataOptions = DataOptions()
    training: TrainingOptions = TrainingOptions()
    calibration: CalibrationOptions = CalibrationOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    export: ExportOptions = ExportOptions()


def _value(text: str, hint, value):
    """`value` as the field's type wants it."""
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{text} is no list")
        inner = typing.get_args(hint)[0]
        return tuple(_value(f"{text}[{i}]", inner, item) for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{text} is {value!r}, expected {hint.__name__}")
    return value


def parse_recipe(tables: dict, path: str, overrides: list[str] | None = None) -> Recipe:
    """overrides: "table.field=value" with the value in TOML."""
    tables = {name: dict(table) if isinstance(table, dict) else table for name, table in tables.items()}
    for override in overrides or []:
        name, equals, value = override.partition("=")
        table, dot, field = name.partition(".")
        if not equals or not dot:
            raise UserError(f"--set {override}: expected TABLE.FIELD=VALUE")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value  # a string without quotes
        tables.setdefault(table, {})[field] = parsed
    parts = {}
    hints = typing.get_type_hints(Recipe)
    for name, table in tables.items():
        if name not in hints or not isinstance(table, dict):
            raise UserError(f"{path}: [{name}] is none of {', '.join(hints)}")
        fields = typing.get_type_hints(hints[name])
        for field in table:
            if field not in fields:
                raise UserError(f"{path}: [{name}] has no field {field}; it has {', '.join(fields)}")
        parts[name] = hints[name](**{f: _value(f"{path}: {name}.{f}", fields[f], v) for f, v in table.items()})
    recipe = Recipe(**parts)
    check_recipe(recipe, path)
    return recipe


def read_recipe(path: pathlib.Path, overrides: list[str] | None = None) -> Recipe:
    """Paths in it are relative to the working directory."""
    try:
        return parse_recipe(tomllib.loads(pathlib.Path(path).read_text()), str(path), overrides)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: no TOML: {error}") from error


def check_recipe(recipe: Recipe, path: str) -> None:
    def need(good: bool, text: str) -> None:
        if not good:
            raise UserError(f"{path}: {text}")

    training, drafter = recipe.training, recipe.drafter
    need(bool(recipe.target.path), "target.path is missing")
    need(
        recipe.target.source in ("transformers", "capture"),
        f"target.source is {recipe.target.source!r}, allowed are transformers and capture",
    )
    need(
        drafter.algorithm in ("dspark", "dflash", "eagle3"),
        f"drafter.algorithm is {drafter.algorithm!r}, allowed are dspark, dflash and eagle3",
    )
    need(drafter.start in ("target", "random"), f"drafter.start is {drafter.start!r}, allowed are target and random")
    need((training.steps > 0) != (training.minutes > 0), "one of training.steps and training.minutes must be above 0")
    need(
        training.dtype in ("auto", "f32", "bf16"), f"training.dtype is {training.dtype!r}, allowed are auto, f32, bf16"
    )
    for name in ("sequences", "accumulate", "anchors", "rows_at_once", "checkpoint_every", "log_every"):
        need(getattr(training, name) >= 1, f"training.{name} is {getattr(training, name)}, at least 1")
    need(0 <= training.held_out < 1, f"training.held_out is {training.held_out}, allowed are 0 to 1")
    need(training.learning_rate > 0, f"training.learning_rate is {training.learning_rate}, must be above 0")


def as_dict(recipe: Recipe) -> dict:
    return {
        name: {k: list(v) if isinstance(v, tuple) else v for k, v in table.items()}
        for name, table in dataclasses.asdict(recipe).items()
    }
