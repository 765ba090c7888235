"""`tandem-train demo`: a tiny target, no data, a few minutes on two CPU cores: a calibrated drafter and a report."""

from __future__ import annotations

import pathlib

from tandem_trainer.errors import UserError
from tandem_trainer.recipe import Recipe, parse_recipe

TARGET = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/drafters/trained_pair/target"


def demo_recipe(target: str | None, overrides: list[str]) -> Recipe:
    path = pathlib.Path(target) if target else TARGET
    if not path.exists():
        raise UserError(f"{path}: no target; name one with --target")
    return parse_recipe(
        {
            "target": {"path": str(path), "device": "cpu"},
            "drafter": {"layers": 2, "taps": [0, 1, 2], "markov_rank": 32},
            "data": {
                "num_conversations": 768,
                "batch": 64,
                "max_new_tokens": 160,
                "max_length": 208,
                "max_user_tokens": 48,
                "temperatures": [0.0, 1.0],
            },
            "training": {
                "steps": 1200,
                "sequences": 8,
                "anchors": 32,
                "learning_rate": 2e-3,
                "checkpoint_every": 100,
                "log_every": 50,
                "threads": 2,
                "held_out": 0.1,
            },
            "calibration": {"settings": ["greedy", "coup:1.0", "rej:1.0"], "num_texts": 64, "max_tokens": 120},
            "evaluation": {"num_prompts": 48, "max_tokens": 120},
            "export": {"name": "demo-drafter"},
        },
        "the demo's recipe",
        overrides,
    )
