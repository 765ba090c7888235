"""Draft checkpoints: config.json and model.safetensors, in the released layout or in the compact form.

The compact form (tandem_format 1) leaves embedding and head to the target, may have a reduced draft vocabulary (d2t:
target id = i + d2t[i]) and int8 matrices X with X.scale [rows].
"""

from __future__ import annotations

import json
import pathlib

import safetensors.torch
import torch

from tandem_trainer.errors import UserError
from tandem_trainer.formats.tensors import SafetensorsFiles, write_atomically
from tandem_trainer.models import DraftConfig, build_model, parse_config
from tandem_trainer.models.draft_model import DraftModel

EMBEDDING, HEAD, D2T = "embed_tokens.weight", "lm_head.weight", "d2t"


def read_json(path: pathlib.Path) -> dict:
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: no JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: no JSON object")
    return value


def read_config(directory: pathlib.Path) -> DraftConfig:
    return parse_config(read_json(directory / "config.json"), str(directory / "config.json"))


def _widened(files: SafetensorsFiles, name: str) -> torch.Tensor:
    tensor = files.get(name)
    if tensor.dtype == torch.int8:
        scale = name + ".scale"
        if scale not in files.tensors:
            raise UserError(f"{files.path}: tensor {name} is int8 without {scale}")
        return tensor.float() * files.get(scale).float()[:, None]
    return tensor.float()


def load_drafter(
    directory: pathlib.Path, embedding: torch.Tensor | None = None, head: torch.Tensor | None = None
) -> DraftModel:
    """In f32. embedding, head [V, H]: the target's, for checkpoints that leave them to it."""
    directory = pathlib.Path(directory)
    config, files = read_config(directory), SafetensorsFiles(directory)
    model = build_model(config)
    known = {name for name in files.tensors if name.endswith(".scale") and name[:-6] in files.tensors} | {"t2d"}
    if config.draft_vocab_size:
        if D2T not in files.tensors:
            raise UserError(f"{directory}: draft_vocab_size is {config.draft_vocab_size} and there is no tensor {D2T}")
        offsets = files.get(D2T)
        if offsets.shape != (config.draft_vocab_size,):
            raise UserError(f"{directory}: {D2T} has shape {list(offsets.shape)}, expected [{config.draft_vocab_size}]")
        ids = offsets + torch.arange(len(offsets))
        if ids.min() < 0 or ids.max() >= config.vocab_size or len(ids.unique()) != len(ids):
            raise UserError(f"{directory}: {D2T} names a token twice or beyond the vocabulary of {config.vocab_size}")
        model.set_draft_ids(ids)
        known.add(D2T)
    targets = {EMBEDDING: embedding, HEAD: head}
    for name, parameter in model.state_dict().items():
        known.add(name)
        if name in files.tensors:
            value = _widened(files, name)
        elif targets.get(name) is not None:
            value = targets[name].float()
            if name == HEAD and len(value) != config.num_draft_tokens:
                value = value[model.draft_ids]
        else:
            where = " and no target was given to take it from" if name in targets else ""
            raise UserError(f"{directory}: tensor {name} is missing{where}")
        if value.shape != parameter.shape:
            raise UserError(
                f"{directory}: tensor {name} has shape {list(value.shape)}, expected {list(parameter.shape)}"
            )
        if not torch.isfinite(value).all():
            raise UserError(f"{directory}: tensor {name} has values that are not finite")
        parameter.copy_(value)
    unknown = set(files.tensors) - known
    if unknown:
        raise UserError(f"{directory}: tensor {min(unknown)} is not part of the format")
    return model


def _int8(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row by row: value ~ q * scale. The scale is one that f16 holds exactly, as the C++ kernels want it."""
    scale = (value.abs().amax(1) / 127).half().float()
    scale = scale.clamp_min(2.0**-14)
    return (value / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def save_drafter(
    model: DraftModel,
    directory: pathlib.Path,
    *,
    full: bool = False,
    int8: bool = False,
    frequent_ids: torch.Tensor | None = None,
    target_fingerprint: str = "",
) -> None:
    """bf16 (or int8 matrices in the compact form). full: the released layout, for other engines too: embedding and head
    are in the file; it has no reduced vocabulary, so a model with one is widened: tokens it never drafts get head rows
    of the target's and no Markov bias. frequent_ids: draft_vocab.safetensors beside it, ids by falling frequency."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config, raw = model.config, dict(model.config.raw)
    tensors = {name: value.detach().cpu().float() for name, value in model.state_dict().items()}
    reduced = config.draft_vocab_size > 0
    if full:
        for field in ("tandem_format", "draft_vocab_size", "target_fingerprint"):
            raw.pop(field, None)
        if reduced:
            raise UserError(
                "--full writes the released layout, which has no reduced draft vocabulary: this drafter's "
                f"has {config.draft_vocab_size} of {config.vocab_size} tokens"
            )
    else:
        raw["tandem_format"] = 1
        if target_fingerprint:
            raw["target_fingerprint"] = target_fingerprint
        del tensors[EMBEDDING], tensors[HEAD]
    stored: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if int8 and not full and value.dim() == 2 and name != "confidence_head.proj.weight":
            stored[name], stored[name + ".scale"] = _int8(value)
        else:
            stored[name] = value.bfloat16()
    if reduced:
        ids = model.draft_ids.cpu()
        stored[D2T] = ids - torch.arange(len(ids))
    stored = {name: value.contiguous() for name, value in stored.items()}
    write_atomically(directory / "config.json", lambda path: path.write_text(json.dumps(raw, indent=2) + "\n"))
    write_atomically(directory / "model.safetensors", lambda path: safetensors.torch.save_file(stored, path))
    if frequent_ids is not None:
        ids = frequent_ids.to(torch.int32).contiguous()
        write_atomically(
            directory / "draft_vocab.safetensors", lambda path: safetensors.torch.save_file({"ids": ids}, path)
        )
