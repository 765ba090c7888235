"""Rounds over the target's texts give the accepted length that whole speculative decodes gave."""

import math

import pytest
import torch
from conftest import read_json

from tandem_trainer.data.conversations import prompt_ids
from tandem_trainer.data.transformers_target import TransformersTarget
from tandem_trainer.errors import UserError
from tandem_trainer.evaluation.metrics import acceptance
from tandem_trainer.evaluation.rounds import Setting
from tandem_trainer.evaluation.texts import Prompt
from tandem_trainer.formats.checkpoint import load_drafter
from tandem_trainer.formats.target_files import TargetFiles
from tandem_trainer.run import play_setting

USERS = [
    "Tell me a story about a red fox.",
    "Tell me about Ben.",
    "What is 2 plus 3?",
    "Spell owl.",
    "Count from 3 to 9.",
]


@pytest.fixture(scope="module")
def pair(trained_pair):
    files = TargetFiles(trained_pair / "target")
    embedding, head = files.vocabulary()
    return TransformersTarget(files), load_drafter(trained_pair / "drafter", embedding, head), head


@pytest.fixture(scope="module")
def prompts(pair, trained_pair):
    users = USERS + [example["user"] for example in read_json(trained_pair / "greedy_examples.json")]
    return [
        Prompt("pair", tuple(prompt_ids(pair[0].files.tokenizer, [{"role": "user", "content": user}], "x")), seed)
        for seed in range(6)
        for user in users
    ]


@pytest.mark.parametrize("setting, name", [("greedy", "greedy"), ("rej:1.0", "rejection"), ("coup:1.0", "coupled")])
@torch.no_grad()
def test_tau_of_the_trained_pair(pair, prompts, trained_pair, setting, name):
    target, model, head = pair
    told = read_json(trained_pair / "tau.json")[name]
    parsed = Setting.parse(setting)
    use = prompts[: len(prompts) // 6] if setting == "greedy" else prompts[:120]
    found = acceptance(play_setting(model, target, head, use, parsed, 150, {}), 7)
    # Other prompts of the same language: wide bounds, yet none of the wrong rules is within them.
    allowed = 4 * math.hypot(found.tau_error, told["tau_standard_error"]) + 0.15
    assert abs(found.tau - told["tau"]) < allowed, (found.tau, found.tau_error, told["tau"])
    assert abs(found.conditional[0] - told["conditional_acceptance_by_position"][0]) < 0.07


@torch.no_grad()
def test_rules_of_one_temperature_share_the_texts(pair, prompts):
    target, model, head = pair
    texts, found = {}, {}
    for name in ("rej:1.0", "coup:1.0", "match:1.0"):
        found[name] = acceptance(play_setting(model, target, head, prompts[:60], Setting.parse(name), 120, texts), 7)
    assert list(texts) == [1.0]  # one set of texts serves all three
    assert all(a.rounds > 100 for a in found.values())


def test_settings():
    assert Setting.parse("rej:0.7").key == "rej:0.7" and Setting.parse("coup:1").key == "coup:1.0"
    for bad in ("x", "rej", "rej:0", "coup:3", "match:x"):
        with pytest.raises(UserError, match="expected greedy"):
            Setting.parse(bad)
