"""report.md of a run, and the model card beside the drafter."""

from __future__ import annotations

import math
import pathlib

import torch

from tandem_trainer import __version__
from tandem_trainer.evaluation.metrics import Acceptance
from tandem_trainer.formats.checkpoint import read_json
from tandem_trainer.formats.tensors import write_atomically
from tandem_trainer.training.progress import duration, read_metrics


def number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def tau_text(a: Acceptance) -> str:
    return f"{number(a.tau)} ± {number(a.tau_error)}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def tau_table(found) -> str:
    """Settings down, categories across."""
    categories = list(found.categories)
    rows = []
    for name, total in found.total.items():
        rows.append(
            [name, *(tau_text(found.categories[c][name]) for c in categories), tau_text(total), str(total.rounds)]
        )
    return table(["setting", *categories, "all", "rounds"], rows)


def position_table(found) -> str:
    block = len(next(iter(found.total.values())).conditional)
    rows = []
    for name, a in found.total.items():
        rows.append([f"{name}, if those before are", *(number(v) for v in a.conditional)])
        rows.append([f"{name}, prefix", *(number(v) for v in a.survival)])
    return table(["accepted", *(str(k) for k in range(1, block + 1))], rows)


def calibration_table(fits) -> str:
    rows = []
    for setting, f in fits.items():
        for name, quality in (("raw", f.raw), ("temperature", f.by_temperature), ("scale and bias", f.by_scale_bias)):
            weights = torch.ones(len(quality.ece))
            mean = [
                float((torch.tensor(v).nan_to_num() * weights).sum() / weights.sum())
                for v in (quality.ece, quality.auroc, quality.brier)
            ]
            rows.append(
                [
                    setting.name,
                    name,
                    number(100 * quality.ece[0], 1) + " %",
                    number(100 * mean[0], 1) + " %",
                    number(quality.auroc[0], 3),
                    number(mean[1], 3),
                    number(quality.brier[0], 3),
                    number(mean[2], 3),
                    str(f.rounds),
                ]
            )
    return table(
        ["setting", "fit", "ECE, first draft", "ECE, mean", "AUROC, first", "mean", "Brier, first", "mean", "rounds"],
        rows,
    )


def _facts(run) -> dict:
    samples, train_on, held_out = run.samples()
    times = read_json(run.directory / "times.json") if (run.directory / "times.json").exists() else {}
    return {
        "samples": samples,
        "tokens": sum(len(s) for s in samples),
        "answers": sum(int(s.mask.sum()) for s in samples),
        "train_on": train_on,
        "held_out": held_out,
        "times": times,
        "metrics": read_metrics(run.directory),
    }


def write_report(run, fits, found) -> pathlib.Path:
    from tandem_trainer import plots

    facts, folder = _facts(run), run.directory / "plots"
    folder.mkdir(exist_ok=True)
    parts = [
        f"# {run.recipe.export.name}: a {run.config.name} drafter for {run.files.path.name}\n",
        f"{len(facts['samples'])} texts, {facts['tokens']} tokens, {facts['answers']} of answers; data "
        f"{duration(facts['times'].get('data', 0))}, training {duration(facts['times'].get('training', 0))}, "
        f"on {run.device.type}.\n",
        "## Accepted length\n\nTokens of a round with the target's own (tau ± standard error over prompts), whole "
        f"blocks of {run.config.block_size}.\n",
        tau_table(found),
        position_table(found),
        "![acceptance by position](plots/positions.png)\n",
    ]
    plots.plot_positions(found.total, folder / "positions.png")
    if facts["metrics"]:
        plots.plot_training(facts["metrics"], folder / "training.png")
        held = read_json(run.directory / "held_out.json") if (run.directory / "held_out.json").exists() else None
        parts += [
            "## Training\n",
            f"{facts['metrics'][-1]['step']} steps, last loss {facts['metrics'][-1]['loss']:.4f}"
            + (f"; held out: loss {held['loss']:.4f}, teacher-forced tau {held['tau']:.2f}" if held else "")
            + ".\n",
            "![loss and tau](plots/training.png)\n",
        ]
    if fits:
        plots.plot_calibration(fits, folder / "calibration.png")
        plots.plot_reliability(
            {f"{s.name} {name}": curve for s, f in list(fits.items())[:2] for name, curve in f.reliability.items()},
            folder / "reliability.png",
        )
        parts += [
            "## Calibration\n\nOf the predicted survival of drafts; fits are told of prompts that they have "
            "not seen. `calibration.json` holds fits to all.\n",
            calibration_table(fits),
            "![ECE](plots/calibration.png) ![reliability of the first draft](plots/reliability.png)\n",
        ]
    path = run.directory / "report.md"
    write_atomically(path, lambda p: p.write_text("\n".join(parts)))
    return path


def write_model_card(run, found) -> pathlib.Path:
    facts, config, data = _facts(run), run.config, run.recipe.data
    origin = ", ".join(data.conversations) if data.conversations else "user turns that the target wrote itself"
    heads = f", {config.markov_type} sequential head of rank {config.markov_rank}" if config.markov_rank else ""
    heads += ", confidence head" if config.has_confidence else ""
    steps = facts["metrics"][-1]["step"] if facts["metrics"] else 0
    texts_a_step = run.recipe.training.sequences * run.recipe.training.accumulate
    training_time = duration(facts["times"].get("training", 0))
    by_target = " by the target" if data.answers == "regenerated" else ""
    text = f"""# {run.recipe.export.name}

A {config.name} drafter for **{run.files.path.name}** (block {config.block_size}, {config.num_layers} layers{heads}),
made with tandem-trainer {__version__}. `target_fingerprint` in config.json names the very weights it was trained on.

* Data: {origin}; answers {data.answers}{by_target}, temperatures {", ".join(map(str, data.temperatures))}.
  {len(facts["samples"])} texts, {facts["tokens"]} tokens, {facts["answers"]} of them answers.
* Training: {steps} steps of {texts_a_step} texts, {training_time} on {run.device.type}.
* Taps: outputs of blocks {", ".join(map(str, config.taps))} of {config.num_target_layers}; mask token
  {config.mask_token_id}; draft vocabulary {config.num_draft_tokens}.

Mean tokens a round with the target's own (tau ± standard error over prompts), whole blocks, at most
{run.recipe.evaluation.max_tokens} new tokens:

{tau_table(found)}
Licence: {run.recipe.export.licence}
"""
    path = run.drafter_directory / "README.md"
    write_atomically(path, lambda p: p.write_text(text))
    return path
