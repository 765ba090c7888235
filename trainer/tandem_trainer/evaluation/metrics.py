"""What is said about rounds: accepted length, acceptance by position, quality of confidence."""

from __future__ import annotations

import dataclasses

import numpy
import torch

from tandem_trainer.evaluation.rounds import Rounds

BINS, AUROC_BINS, CLAMP = 20, 1000, 1e-8


@dataclasses.dataclass
class Acceptance:
    rounds: int
    tau: float  # tokens a round, the target's own included
    tau_error: float  # standard error over prompts
    drafts_accepted: float  # 1 + accepted / rounds: what the server's mean_acceptance_length says
    conditional: list[float]  # of draft k given that those before were accepted; NaN: it never came to that
    survival: list[float]  # of the prefix of k drafts
    verify_rate: float


def acceptance(rounds: Rounds, block_size: int) -> Acceptance:
    count = len(rounds.accepted)
    if count == 0:
        nan = [float("nan")] * block_size
        return Acceptance(0, float("nan"), float("nan"), float("nan"), nan, nan, float("nan"))
    lengths = rounds.lengths().double()
    conditional, survival = [], []
    for k in range(1, block_size + 1):
        offered = rounds.proposed >= k
        reached = offered & (rounds.accepted >= k - 1)
        passed = (rounds.accepted >= k).double()
        survival.append(passed[offered].mean().item())
        conditional.append(passed[reached].mean().item())
    return Acceptance(
        count,
        lengths.mean().item(),
        _ratio_error(lengths, rounds.prompt),
        1 + rounds.accepted.double().mean().item(),
        conditional,
        survival,
        (lengths.sum() / (rounds.proposed.sum() + count)).item(),
    )


def _ratio_error(lengths: torch.Tensor, prompts: torch.Tensor) -> float:
    """Standard error of tokens / rounds, with prompts as the independent units."""
    units = prompts.unique()
    if len(units) < 2:
        return float("nan")
    tokens = torch.stack([lengths[prompts == u].sum() for u in units])
    counts = torch.stack([(prompts == u).double().sum() for u in units])
    tau, n = tokens.sum() / counts.sum(), len(units)
    residual = (tokens - tau * counts) / counts.mean()
    return (residual.square().sum() / (n * (n - 1))).sqrt().item()


def bin_of(predictions: numpy.ndarray, bins: int = BINS) -> numpy.ndarray:
    return numpy.minimum(bins - 1, numpy.floor(bins * predictions)).astype(int)


def calibration_error(predictions: numpy.ndarray, labels: numpy.ndarray) -> float:
    """ECE: sum over bins of n |mean prediction - mean label| / N. f64."""
    if len(predictions) == 0:
        return float("nan")
    bins = bin_of(predictions)
    sums = numpy.bincount(bins, predictions, BINS) - numpy.bincount(bins, labels, BINS)
    return float(numpy.abs(sums).sum() / len(predictions))


def auroc(predictions: numpy.ndarray, labels: numpy.ndarray) -> float:
    """From histograms of positives and negatives; NaN if there are none of either."""
    bins = bin_of(predictions, AUROC_BINS)
    positive = numpy.bincount(bins, labels, AUROC_BINS)
    negative = numpy.bincount(bins, 1 - labels, AUROC_BINS)
    total = positive.sum() * negative.sum()
    if total == 0:
        return float("nan")
    below = numpy.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / total)


@dataclasses.dataclass
class Quality:
    """Of the survival of k drafts as predicted, by position."""

    ece: list[float]
    auroc: list[float]
    brier: list[float]


def confidence_quality(conditional: numpy.ndarray, proposed: numpy.ndarray, accepted: numpy.ndarray) -> Quality:
    """conditional [R, G]: each draft's acceptance given those before, whose product is the prediction."""
    survival = numpy.clip(numpy.cumprod(conditional.astype(numpy.float64), 1), CLAMP, 1 - CLAMP)
    quality = Quality([], [], [])
    for k in range(conditional.shape[1]):
        use = proposed >= k + 1
        prediction, label = survival[use, k], (accepted[use] >= k + 1).astype(numpy.float64)
        quality.ece.append(calibration_error(prediction, label))
        quality.auroc.append(auroc(prediction, label) if use.any() else float("nan"))
        quality.brier.append(float(numpy.square(prediction - label).mean()) if use.any() else float("nan"))
    return quality
