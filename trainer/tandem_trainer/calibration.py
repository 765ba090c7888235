"""From confidence logits to probabilities, in two ways.

temperature   sequential temperature scaling: c_k = sigmoid(z_k / T_k). T_k minimises the ECE of the cumulative product,
              left to right, over 0.25 * 32^(i/160), i = 0..160; ties go to the T closest to 1.
scale_bias    c_k = sigmoid(s z_k + b) for each position, by maximum likelihood among rounds in which all drafts before
              were accepted, with a weak prior on (1, 0). What the drafter loads where it is there: on the first drafter
              it left an ECE of 3 % where temperatures left 8 %.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy

from tandem_trainer.evaluation.metrics import BINS, CLAMP, Quality, bin_of, calibration_error, confidence_quality
from tandem_trainer.evaluation.rounds import Rounds, Setting
from tandem_trainer.formats.tensors import write_atomically

GRID = 0.25 * 32 ** (numpy.arange(161) / 160)
# (1, 0) with a standard deviation of 0.5 in scale and 1 in bias. The verifier's own fit starts with the same.
PRIOR = numpy.diag([4.0, 1.0])
MAX_SCALE, MAX_BIAS = 8.0, 16.0


def sigmoid(x: numpy.ndarray) -> numpy.ndarray:
    return 0.5 * (1 + numpy.tanh(0.5 * x))


def fit_temperatures(logits: numpy.ndarray, proposed: numpy.ndarray, accepted: numpy.ndarray) -> list[float]:
    """logits [R, G] f64. A round counts for position k if proposed >= k; its label: drafts 1..k were accepted."""
    rounds, block = logits.shape
    survival, temperatures = numpy.ones(rounds), []
    nearness = numpy.abs(numpy.log(GRID))
    for k in range(block):
        use = proposed >= k + 1
        label = (accepted[use] >= k + 1).astype(numpy.float64)
        errors = (
            numpy.array(
                [
                    calibration_error(numpy.clip(survival[use] * sigmoid(logits[use, k] / t), CLAMP, 1 - CLAMP), label)
                    for t in GRID
                ]
            )
            if use.any()
            else numpy.zeros(len(GRID))
        )
        best = min(range(len(GRID)), key=lambda i: (errors[i], nearness[i]))
        temperatures.append(float(GRID[best]))
        survival = survival * sigmoid(logits[:, k] / GRID[best])
    return temperatures


def fit_scale_bias(logits: numpy.ndarray, proposed: numpy.ndarray, accepted: numpy.ndarray) -> list[list[float]]:
    """[G][2]; Newton's method on a convex problem. Where nothing reached a position it stays (1, 0)."""
    result = []
    for k in range(logits.shape[1]):
        use = (proposed >= k + 1) & (accepted >= k)
        x = numpy.stack([logits[use, k], numpy.ones(use.sum())], 1)
        y = (accepted[use] >= k + 1).astype(numpy.float64)
        theta = numpy.array([1.0, 0.0])
        for _ in range(50):
            p = sigmoid(x @ theta)
            gradient = x.T @ (p - y) + PRIOR @ (theta - [1.0, 0.0])
            hessian = (x * (p * (1 - p))[:, None]).T @ x + PRIOR
            step = numpy.linalg.solve(hessian, gradient)
            theta = theta - step / max(1.0, float(numpy.abs(step).max()))  # at most 1 at a time
            if numpy.abs(step).max() < 1e-10:
                break
        result.append([float(numpy.clip(theta[0], 0, MAX_SCALE)), float(numpy.clip(theta[1], -MAX_BIAS, MAX_BIAS))])
    return result


@dataclasses.dataclass
class Fit:
    temperature: list[float]
    scale_bias: list[list[float]]
    rounds: int
    raw: Quality
    by_temperature: Quality
    by_scale_bias: Quality
    reliability: dict[str, tuple[list[float], list[float]]]  # of the first draft: mean prediction, share accepted


def _reliability(conditional: numpy.ndarray, proposed: numpy.ndarray, accepted: numpy.ndarray) -> tuple:
    """Of the first draft, over bins with ten rounds or more."""
    use = proposed >= 1
    prediction, label = conditional[use, 0], accepted[use] >= 1
    bins = bin_of(prediction)
    filled = [b for b in range(BINS) if (bins == b).sum() >= 10]
    return [float(prediction[bins == b].mean()) for b in filled], [float(label[bins == b].mean()) for b in filled]


def fit(rounds: Rounds) -> Fit:
    """From all rounds; its quality is that of two fits, each told of the half of the prompts that it has not seen."""
    logits = rounds.confidence.double().numpy()
    proposed, accepted = rounds.proposed.numpy(), rounds.accepted.numpy()
    even = rounds.prompt.numpy() % 2 == 0
    conditional = [sigmoid(logits), numpy.empty_like(logits), numpy.empty_like(logits)]
    for seen, told in ((even, ~even), (~even, even)):
        part = logits[seen], proposed[seen], accepted[seen]
        scale, bias = numpy.array(fit_scale_bias(*part)).T
        conditional[1][told] = sigmoid(logits[told] / numpy.array(fit_temperatures(*part)))
        conditional[2][told] = sigmoid(logits[told] * scale + bias)
    qualities = [confidence_quality(c, proposed, accepted) for c in conditional]
    curves = {
        "raw": _reliability(conditional[0], proposed, accepted),
        "fitted": _reliability(conditional[2], proposed, accepted),
    }
    return Fit(
        fit_temperatures(logits, proposed, accepted),
        fit_scale_bias(logits, proposed, accepted),
        len(logits),
        *qualities,
        curves,
    )


def write_calibration(path: pathlib.Path, fits: dict[Setting, Fit], target: str, block_size: int, note: str) -> None:
    """calibration.json as the drafter reads it (drafter/models/draft_calibration.h)."""
    content = {
        "note": note,
        "target": target,
        "block_size": block_size,
        "settings": {
            setting.key: {
                "temperature": [round(t, 4) for t in f.temperature],
                "scale_bias": [[round(v, 4) for v in pair] for pair in f.scale_bias],
                "rounds": f.rounds,
            }
            for setting, f in fits.items()
        },
    }
    write_atomically(path, lambda p: p.write_text(json.dumps(content, indent=1) + "\n"))
