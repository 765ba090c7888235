"""Learning rate over a run."""

from __future__ import annotations

import math


def learning_rate_factor(done: float, warmup: float) -> float:
    """Linear up to 1 over the share `warmup` of the run, then a half cosine to 0. done: 0..1."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * min((done - warmup) / max(1 - warmup, 1e-9), 1.0)))


def step_factor(step: int, steps: int, warmup: float) -> float:
    """Of step 0, 1, .. of `steps`: (s + 1) / warm in warm-up, so that the first is not 0."""
    warm = max(round(warmup * steps), 1)
    if step < warm:
        return (step + 1) / warm
    return learning_rate_factor(warmup + (1 - warmup) * (step - warm) / max(steps - warm, 1), warmup)
