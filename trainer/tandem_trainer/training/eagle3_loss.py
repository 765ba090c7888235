"""Eagle3's training-time test: a chain of drafts over the whole text, each step fed with the one before."""

from __future__ import annotations

import torch
from torch.nn import functional

from tandem_trainer.models.eagle3 import Eagle3
from tandem_trainer.training.losses import eagle3_masks, shifted


def eagle3_steps(
    model: Eagle3,
    features: torch.Tensor,
    ids: torch.Tensor,
    loss_mask: torch.Tensor,
    lengths: torch.Tensor,
    target_logits: torch.Tensor,
    steps: int,
    keep_logits: bool = False,
):
    """features [B, T, taps * H], ids, loss_mask [B, T]; target_logits [B, T, R] of the draft's columns: row t is
    the distribution of index t + 1.

    Returns per step the sum of soft cross-entropies over counted rows divided by B * T, the mean acceptance
    sum min(p, q) of counted rows, and the logits where they are wanted.

    At step s row i reads token i + 1 + s at position i + s, and its target is row i + 1 + s. It sees the real rows up
    to i, and of the later steps its own.
    """
    batch, length = ids.shape
    masks = eagle3_masks(loss_mask, lengths, steps)
    positions = torch.arange(length, device=ids.device).expand(batch, length)
    unseen = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)[None]
    g, causal, chain = model.fc(features), None, []
    losses, acceptance, all_logits = [], [], []
    for s in range(steps):
        out, own = model.step(g, shifted(ids, 1 + s), positions + s, causal, None if causal is None else unseen, chain)
        if causal is None:
            causal = own
        else:
            chain.append(own)
        logits = model.logits(out)
        law = functional.log_softmax(logits.float(), -1)
        with torch.no_grad():
            p = torch.softmax(shifted(target_logits, 1 + s).float(), -1)
        losses.append(-(masks[s][..., None] * p * law).sum() / (batch * length))
        with torch.no_grad():
            overlap = torch.minimum(p, law.exp()).sum(-1)
            acceptance.append((overlap * masks[s]).sum() / masks[s].sum().clamp_min(1))
        if keep_logits:
            all_logits.append(logits)
        g = out
    return losses, torch.stack(acceptance), all_logits


def eagle3_loss(losses: list[torch.Tensor], decay: float = 0.8) -> torch.Tensor:
    return sum(decay**s * loss for s, loss in enumerate(losses))
