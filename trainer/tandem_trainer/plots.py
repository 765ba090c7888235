"""PNG plots of a run."""

from __future__ import annotations

import math
import pathlib

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from tandem_trainer.formats.tensors import write_atomically  # noqa: E402

SIZE = (6, 3.5)


def _save(figure, path: pathlib.Path) -> None:
    figure.tight_layout()
    write_atomically(path, lambda p: figure.savefig(p, dpi=110, format="png"))
    pyplot.close(figure)


def plot_training(metrics: list[dict], path: pathlib.Path) -> None:
    figure, left = pyplot.subplots(figsize=SIZE)
    steps = [m["step"] for m in metrics]
    left.plot(steps, [m["loss"] for m in metrics], color="tab:blue", linewidth=0.8)
    left.set_xlabel("step")
    left.set_ylabel("loss", color="tab:blue")
    right = left.twinx()
    right.plot(steps, [m["tau"] for m in metrics], color="tab:orange")
    right.set_ylabel("tau, teacher-forced", color="tab:orange")
    _save(figure, path)


def plot_positions(acceptance_by_setting: dict, path: pathlib.Path) -> None:
    """Conditional acceptance of each draft."""
    figure, axes = pyplot.subplots(figsize=SIZE)
    for name, a in acceptance_by_setting.items():
        axes.plot(range(1, len(a.conditional) + 1), a.conditional, marker="o", label=name)
    axes.set_xlabel("draft")
    axes.set_ylabel("accepted, if those before are")
    axes.set_ylim(0, 1)
    axes.legend()
    _save(figure, path)


def plot_calibration(fits: dict, path: pathlib.Path) -> None:
    """ECE of the predicted survival by position, raw and fitted."""
    figure, grid = pyplot.subplots(1, len(fits), figsize=(3 * len(fits), 3), sharey=True, squeeze=False)
    for axes, (setting, f) in zip(grid[0], fits.items(), strict=True):
        for name, quality in (("raw", f.raw), ("temperature", f.by_temperature), ("scale, bias", f.by_scale_bias)):
            values = [v if math.isfinite(v) else float("nan") for v in quality.ece]
            axes.plot(range(1, len(values) + 1), values, marker=".", label=name)
        axes.set_title(setting.name)
        axes.set_xlabel("drafts")
    grid[0][0].set_ylabel("ECE")
    grid[0][0].legend(fontsize=7)
    _save(figure, path)


def plot_reliability(curves: dict[str, tuple], path: pathlib.Path) -> None:
    """curves: name -> (mean prediction, share accepted) of the first draft, by bin."""
    figure, axes = pyplot.subplots(figsize=(4, 4))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for name, (predicted, observed) in curves.items():
        axes.plot(predicted, observed, marker="o", label=name)
    axes.set_xlabel("predicted")
    axes.set_ylabel("accepted")
    axes.legend(fontsize=7)
    _save(figure, path)
