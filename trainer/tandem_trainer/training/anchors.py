"""Where blocks are trained: anchors drawn from a text, the labels behind them, and which of those count."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Blocks(NamedTuple):
    """B texts, A anchors each, G labels each."""

    anchors: torch.Tensor  # [B, A] positions, ascending; unused ones are 0
    keep: torch.Tensor  # [B, A] bool: not a place holder
    labels: torch.Tensor  # [B, A, G] token ids
    previous: torch.Tensor  # [B, A, G]: the token before each label
    valid: torch.Tensor  # [B, A, G] bool: label counts, and all before it in its block


def candidates(loss_mask: torch.Tensor) -> torch.Tensor:
    """loss_mask [B, T] -> [B, T] bool: anchor and first label are both tokens of an answer."""
    mask = loss_mask.bool()
    result = torch.zeros_like(mask)
    result[:, :-1] = mask[:, :-1] & mask[:, 1:]
    return result


def draw_anchors(
    loss_mask: torch.Tensor, num_anchors: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniformly without replacement, min(candidates, num_anchors) of each text: anchors, keep [B, num_anchors]."""
    possible = candidates(loss_mask)
    anchors = torch.zeros(len(loss_mask), num_anchors, dtype=torch.long)
    keep = torch.zeros(len(loss_mask), num_anchors, dtype=torch.bool)
    for b, row in enumerate(possible):
        positions = row.nonzero()[:, 0]
        picked = positions[torch.randperm(len(positions), generator=generator)[:num_anchors]].sort().values
        anchors[b, : len(picked)] = picked
        keep[b, : len(picked)] = True
    used = max(int(keep.sum(1).max()), 1)
    return anchors[:, :used], keep[:, :used]


def make_blocks(
    ids: torch.Tensor, loss_mask: torch.Tensor, anchors: torch.Tensor, keep: torch.Tensor, block_size: int
) -> Blocks:
    """ids, loss_mask [B, T]; label k (from 1) of a block is the token at anchor + k."""
    length = ids.shape[1]
    positions = anchors[..., None] + torch.arange(1, block_size + 1, device=ids.device)
    inside = positions < length
    clamped = positions.clamp_max(length - 1)
    batch = torch.arange(len(ids), device=ids.device)[:, None, None]
    labels = ids[batch, clamped]
    counts = inside & loss_mask.bool()[batch, clamped] & keep[..., None]
    valid = counts.long().cumprod(-1).bool()
    previous = torch.cat([ids[batch[..., 0], anchors][..., None], labels[..., :-1]], -1)
    return Blocks(anchors, keep, labels, previous, valid)
