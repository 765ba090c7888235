"""Where training starts: embedding and head from the target, and as much else of it as fits.

Early cross-entropy was 7.7 with blocks and context path taken from the target's last blocks, 10.8 with random ones
(SmolLM2-135M). W1 starts as the principal components of the embedding and W2 and confidence as 0, so that the heads
change nothing at first.
"""

from __future__ import annotations

import torch

from tandem_trainer.formats.target_files import TargetFiles
from tandem_trainer.models.config import EAGLE3
from tandem_trainer.models.draft_model import DraftModel

RANGE = 0.02


@torch.no_grad()
def set_initial_weights(model: DraftModel, target: TargetFiles, *, from_target: bool = True, seed: int = 42) -> None:
    """Everything in `model`; its draft_ids are set already."""
    embedding, head = target.vocabulary()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.fill_(1.0)
        elif name.endswith(".bias"):
            parameter.zero_()
        else:
            parameter.copy_(torch.empty_like(parameter, device="cpu").normal_(0, RANGE, generator=generator))
    model.embed_tokens.weight.copy_(embedding)
    model.lm_head.weight.copy_(head[model.draft_ids.cpu()])
    if not from_target:
        return
    if getattr(model, "markov_head", None) is not None:
        model.markov_head.markov_w1.weight.copy_(principal_components(embedding, model.config.markov_rank))
        model.markov_head.markov_w2.weight.zero_()
    if getattr(model, "confidence_head", None) is not None:
        model.confidence_head.proj.weight.zero_()
    if model.config.algorithm == EAGLE3:
        return  # its attention reads two inputs, no block of the target's does
    _copy_if_it_fits(model.norm.weight, target.final_norm())
    first = model.config.num_target_layers - model.config.num_layers
    for i, layer in enumerate(model.layers):
        own, theirs = dict(layer.named_parameters()), target.layer(first + i)
        for name, value in theirs.items():
            if name in own:
                _copy_if_it_fits(own[name], value)
    # A context row starts as what the first copied block would make of the last tap.
    hidden = model.config.hidden_size
    model.fc.weight.mul_(0.1)
    model.fc.weight[:, -hidden:] += torch.eye(hidden, device=model.fc.weight.device)
    _copy_if_it_fits(model.hidden_norm.weight, target.layer(first).get("input_layernorm.weight"))


def _copy_if_it_fits(parameter: torch.Tensor, value: torch.Tensor | None) -> None:
    if value is not None and value.shape == parameter.shape:
        parameter.copy_(value)


def principal_components(embedding: torch.Tensor, rank: int) -> torch.Tensor:
    """[V, rank]: the embedding's first principal components, scaled to the standard deviation of a fresh table."""
    centred = embedding.double() - embedding.double().mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    rank_in_data = min(rank, embedding.shape[1])
    components = centred @ vectors[:, -rank_in_data:].flip(-1)
    # The sign of an eigenvector is arbitrary: fixed by its largest entry, so that runs on other machines start alike.
    largest = components.abs().argmax(0)
    components *= components[largest, torch.arange(rank_in_data)].sign()
    result = torch.zeros(len(embedding), rank, dtype=torch.float64)
    result[:, :rank_in_data] = components / components.std(0).clamp_min(1e-12)
    return result.float()
