"""Where training stands, on disk: trained weights, optimizer, step and time used.

A checkpoint appears whole or not at all; the two latest are kept. Everything else that a step depends on is a function
of its number (batches.py), so that a run which goes on from here is the run that was never stopped, bit for bit on the
same device.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import re

import torch

from tandem_trainer.errors import UserError
from tandem_trainer.formats.tensors import write_atomically
from tandem_trainer.models.draft_model import DraftModel

KEPT = 2
_NAME = re.compile(r"step-(\d{8})\.pt")


def digest(settings: dict) -> str:
    """Of what a run depends on; a checkpoint of another run is refused."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def list_checkpoints(directory: pathlib.Path) -> list[pathlib.Path]:
    """Oldest first."""
    return sorted(path for path in directory.glob("step-*.pt") if _NAME.fullmatch(path.name))


def save_checkpoint(
    directory: pathlib.Path,
    model: DraftModel,
    optimizer: torch.optim.Optimizer,
    step: int,
    used_seconds: float,
    run: str,
    averages: dict,
) -> pathlib.Path:
    directory.mkdir(parents=True, exist_ok=True)
    state = {
        "run": run,
        "step": step,
        "used_seconds": used_seconds,
        "averages": averages,
        "weights": {name: p.detach().cpu() for name, p in model.trained().items()},
        "draft_ids": model.draft_ids.cpu(),
        "optimizer": optimizer.state_dict(),
    }
    path = directory / f"step-{step:08}.pt"

    def write(temporary: pathlib.Path) -> None:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's writer hides the cause in one of these
            raise OSError(f"{str(error).splitlines()[0]} (is the disk full?)") from error

    write_atomically(path, write)
    for old in list_checkpoints(directory)[:-KEPT]:
        old.unlink()
    return path


def load_checkpoint(
    path: pathlib.Path, model: DraftModel, optimizer: torch.optim.Optimizer | None, run: str | None
) -> dict:
    """Fills model and optimizer; returns the rest. UserError: of another run, of another shape, damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights, told = state["weights"], state["run"]
    except Exception as error:  # a damaged file makes torch raise many things
        raise UserError(f"{path}: no readable checkpoint: {str(error).splitlines()[0]}") from error
    for name, parameter in model.trained().items():
        found = weights.get(name)
        if found is None or found.shape != parameter.shape:
            shape = "missing" if found is None else f"of shape {list(found.shape)}"
            raise UserError(
                f"{path}: a checkpoint of another shape: {name} is {shape}, this recipe's drafter has "
                f"{list(parameter.shape)}"
            )
    if len(weights) != len(model.trained()):
        extra = min(set(weights) - set(model.trained()))
        raise UserError(f"{path}: a checkpoint of another shape: {extra} has no place in this recipe's drafter")
    if run is not None and told != run:
        raise UserError(
            f"{path}: a checkpoint of a run with other settings or data; take another directory, or "
            "delete it to start anew"
        )
    with torch.no_grad():
        for name, parameter in model.trained().items():
            parameter.copy_(weights[name])
    model.set_draft_ids(state["draft_ids"])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    return state
