"""Losses of DSpark and DFlash (over blocks) and of Eagle3 (over chains), with weights that sum over the whole batch.

With w_k = valid_k exp(-(k-1)/decay), p the target's distribution, q the drafter's at label y_k, W = sum of w:

  cross-entropy = sum w CE(q, y) / W
  l1            = sum w sum_v |q(v) - p(v)| / W                   (0..2)
  confidence    = sum w BCE(logit, 1 - sum_v |q(v) - p(v)| / 2) / W
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch.nn import functional

from tandem_trainer.training.anchors import Blocks

WEIGHT_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class LossWeights:
    cross_entropy: float = 0.1
    l1: float = 0.9
    confidence: float = 1.0
    decay: float = 4.0  # of a block's positions


DFLASH_WEIGHTS = LossWeights(1.0, 0.0, 0.0)


@dataclasses.dataclass
class Vocabulary:
    """The columns that sums over the vocabulary run over; None: all draft tokens.

    `columns` [S] are the `frequent` exact ones and a random sample of the rest, whose terms count `scale` times, so
    that sums are right on average. Labels outside are added by the caller's draw (see draw_vocabulary).
    """

    columns: torch.Tensor
    log_scale: torch.Tensor  # [S]: log of how many columns each stands for
    position: torch.Tensor  # [R]: index into columns; -1: not among them


def draw_vocabulary(
    num_tokens: int, frequent: torch.Tensor, num_random: int, labels: torch.Tensor, generator: torch.Generator
) -> Vocabulary:
    """`frequent` columns and all `labels` exactly, `num_random` of the others with importance weights."""
    exact = torch.zeros(num_tokens, dtype=torch.bool)
    exact[frequent] = True
    exact[labels.unique()] = True
    others = (~exact).nonzero()[:, 0]
    picked = others[torch.randperm(len(others), generator=generator)[:num_random]]
    exact = exact.nonzero()[:, 0]
    columns = torch.cat([exact, picked])
    log_scale = torch.zeros(len(columns))
    if len(picked):
        log_scale[len(exact) :] = math.log(len(others) / len(picked))
    position = torch.full((num_tokens,), -1)
    position[columns] = torch.arange(len(columns))
    return Vocabulary(columns, log_scale, position)


@dataclasses.dataclass
class BlockTerms:
    """Sums over the labels of one batch, not yet divided by W; and what is logged."""

    cross_entropy: torch.Tensor
    l1: torch.Tensor
    confidence: torch.Tensor
    weight: torch.Tensor
    acceptance: torch.Tensor  # [B, A, G], no gradient: 1 - L1/2, 0 where not valid


def label_weights(valid: torch.Tensor, decay: float) -> torch.Tensor:
    k = torch.arange(valid.shape[-1], device=valid.device, dtype=torch.float32)
    return valid.float() * torch.exp(-k / decay)


def _law(logits: torch.Tensor, vocabulary: Vocabulary | None) -> torch.Tensor:
    """log-probabilities in f32; with a sampled vocabulary each column stands for several."""
    logits = logits.float()
    if vocabulary is None:
        return functional.log_softmax(logits, -1)
    return logits - torch.logsumexp(logits + vocabulary.log_scale, -1, keepdim=True)


def _chunks(count: int, size: int) -> Iterator[slice]:
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))


def block_terms(
    blocks: Blocks,
    draft_logits,
    target_logits,
    columns: torch.Tensor,
    confidence: torch.Tensor | None,
    decay: float,
    *,
    vocabulary: Vocabulary | None = None,
    target_mass=None,
    with_l1: bool = True,
    rows_at_once: int = 1 << 30,
) -> BlockTerms:
    """draft_logits(i), target_logits(i): logits [n, S] of the valid labels i (indices into the flattened valid ones),
    over the same S columns; called once per chunk of `rows_at_once` labels. columns [n]: the label's column, -1 where
    the draft vocabulary lacks it. target_mass(i): log of the target's normaliser over its whole vocabulary [n], where
    the columns are not all of it; what lies outside counts as not drafted. confidence [B, A, G] logits or None."""
    valid = blocks.valid
    weights = label_weights(valid, decay)[valid]
    zero = weights.sum() * 0
    ce_sum, l1_sum, conf_sum = zero, zero, zero
    acceptance = torch.zeros(valid.shape, device=valid.device)
    accepted = []
    conf = confidence[valid] if confidence is not None else None
    for i in _chunks(len(weights), rows_at_once):
        q = _law(draft_logits(i), vocabulary)
        w, column = weights[i], columns[i]
        picked = q.gather(-1, column.clamp_min(0)[:, None])[:, 0]
        known = (column >= 0) & picked.isfinite()  # -inf: beyond the sequential head's top k
        ce_sum = ce_sum - (w * torch.where(known, picked, torch.zeros_like(picked))).sum()
        if not with_l1:
            accepted.append(torch.zeros_like(w))
            continue
        with torch.no_grad():
            p = target_logits(i).float()
            p = (_law(p, vocabulary) if target_mass is None else p - target_mass(i)[:, None]).exp()
        difference = (q.exp() - p).abs()
        if vocabulary is not None:
            scale = vocabulary.log_scale.exp()
            difference = difference * scale
            p = p * scale
        # What the target puts outside of the columns the drafter cannot draw: |0 - p| each.
        distance = difference.sum(-1) + ((1 - p.sum(-1)).clamp_min(0) if target_mass is not None else 0)
        l1_sum = l1_sum + (w * distance).sum()
        matched = (1 - 0.5 * distance.detach()).clamp(0, 1)
        accepted.append(matched)
        if conf is not None:
            bce = functional.binary_cross_entropy_with_logits(conf[i], matched, reduction="none")
            conf_sum = conf_sum + (w * bce).sum()
    if accepted:
        acceptance[valid] = torch.cat(accepted)
    return BlockTerms(ce_sum, l1_sum, conf_sum, weights.sum(), acceptance)


def block_loss(terms: BlockTerms, weights: LossWeights, total_weight: torch.Tensor) -> torch.Tensor:
    """`total_weight`: W of all ranks."""
    total = weights.cross_entropy * terms.cross_entropy
    total = total + weights.l1 * terms.l1 + weights.confidence * terms.confidence
    return total / (total_weight + WEIGHT_EPSILON)


def expected_accepted_length(acceptance: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """1 + sum_k prod_{j<=k} acceptance_j, averaged over blocks with a valid label. Teacher-forced, at uniformly drawn
    anchors: decoding starts rounds more often where drafting is hard, so measured tau is lower."""
    any_valid = valid[..., 0]
    if not any_valid.any():
        return acceptance.new_zeros(())
    return 1 + acceptance.cumprod(-1).sum(-1)[any_valid].mean()


def eagle3_masks(loss_mask: torch.Tensor, lengths: torch.Tensor, steps: int) -> torch.Tensor:
    """[steps, B, T]: rows that count at each step of the chain. Row i of step s predicts index i + 2 + s and counts if
    position i + s does, the text's last position never."""
    mask = loss_mask.clone().float()
    mask[torch.arange(len(mask)), lengths - 1] = 0
    result = [mask]
    for _ in range(1, steps):
        mask = torch.cat([mask[:, 1:], mask.new_zeros(len(mask), 1)], 1)
        result.append(mask)
    return torch.stack(result)


def shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    """x [B, T, ...] -> x[:, i + by], zeros past the end."""
    if by == 0:
        return x
    return torch.cat([x[:, by:], x.new_zeros(x.shape[0], min(by, x.shape[1]), *x.shape[2:])], 1)
