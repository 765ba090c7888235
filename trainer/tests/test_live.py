"""The trained pair behind a real gateway, verifier and drafter: what they accept is what is computed here."""

import json
import math

import pytest
import torch
from conftest import read_json
from tandem_processes import ANY, Process, paths, wait_until

from tandem_trainer.cli import main
from tandem_trainer.data.transformers_target import TransformersTarget
from tandem_trainer.errors import UserError
from tandem_trainer.evaluation.live import evaluate_live
from tandem_trainer.evaluation.rounds import Setting
from tandem_trainer.evaluation.texts import read_prompts
from tandem_trainer.formats.checkpoint import load_drafter
from tandem_trainer.formats.target_files import TargetFiles
from tandem_trainer.run import evaluate_drafter

EXACT = ("dtype=f32", "activations=f32", "kv-dtype=f32", "threads=1")


def started(trained_pair, acceptance, *settings):
    words = [f"verifier.{s}" for s in (*EXACT, "policy=fixed:7", f"acceptance={acceptance}", "row-dtype=f32")]
    words += [f"drafter.{s}" for s in (*EXACT, "markov-top-k=0", "draft-vocab=0")] + list(settings)
    pair = ["--model", str(trained_pair / "target"), "--drafter", str(trained_pair / "drafter")]
    command = [paths.binary("tandem"), "up", *pair, "--http", ANY, "--grpc", ANY]
    for word in words:
        command += ["--set", word]
    return Process(command)


@pytest.fixture(scope="module")
def prompts_file(trained_pair, tmp_path_factory):
    users = [example["user"] for example in read_json(trained_pair / "greedy_examples.json")]
    users += [f"What is {a} plus {b}?" for a in range(2, 6) for b in range(3, 6)]
    file = tmp_path_factory.mktemp("prompts") / "language.jsonl"
    file.write_text("".join(json.dumps({"turns": [user]}) + "\n" for user in users))
    return file


@pytest.mark.parametrize("acceptance, settings", [("coupled", ["greedy", "coup:1.0"]), ("rejection", ["rej:1.0"])])
@torch.no_grad()
def test_offline_and_live_agree(trained_pair, prompts_file, acceptance, settings):
    files = TargetFiles(trained_pair / "target")
    embedding, head = files.vocabulary()
    model = load_drafter(trained_pair / "drafter", embedding, head)
    prompts = read_prompts(files.tokenizer, [str(prompts_file)], 30, 1)
    parsed = [Setting.parse(text) for text in settings]
    here = evaluate_drafter(model, TransformersTarget(files), head, prompts, parsed, 120)
    with started(trained_pair, acceptance, "gateway.per-request-spec-decode-metrics=summary") as process:
        url = "http://" + process.addresses("ready", timeout=120)["http"]
        wait_until(lambda: process.running(), "tandem up")
        live = evaluate_live(url, prompts, parsed, 120)
        process.terminate()
    for name, found in live.items():
        expected = here.total[name]
        # The same texts and drafts with coupled acceptance; independent draws by the rejection rule.
        allowed = 0.12 if acceptance == "coupled" else 4 * math.sqrt(2) * expected.tau_error + 0.1
        assert found.steps > 50 and sum(found.histogram) == found.steps
        assert abs(found.mean_acceptance_length - expected.drafts_accepted) < allowed, (name, found, expected)


def test_a_server_that_says_nothing_of_drafts(trained_pair, prompts_file):
    prompts = read_prompts(TargetFiles(trained_pair / "target").tokenizer, [str(prompts_file)], 1, 1)
    with started(trained_pair, "coupled") as process:
        url = "http://" + process.addresses("ready", timeout=120)["http"]
        with pytest.raises(UserError, match="--per-request-spec-decode-metrics=summary"):
            evaluate_live(url, prompts, [Setting.parse("greedy")], 8)
        process.terminate()
    with pytest.raises(UserError, match="http://127.0.0.1:1: "):
        evaluate_live("http://127.0.0.1:1", prompts, [Setting.parse("greedy")], 8)


def test_commands_on_a_drafter_that_is_there(trained_pair, prompts_file, tmp_path, capsys):
    pair = ["--drafter", str(trained_pair / "drafter"), "--target", str(trained_pair / "target")]
    few = ["--prompts", str(prompts_file), "--num-prompts", "6", "--max-tokens", "80"]
    assert main(["export", *pair, "--out", str(tmp_path / "compact")]) == 0
    assert main(["export", *pair, "--out", str(tmp_path / "full"), "--full"]) == 0
    pair[1] = str(tmp_path / "compact")
    assert main(["evaluate", *pair, *few, "--settings", "greedy,rej:1.0", "--report", str(tmp_path / "r.md")]) == 0
    assert "| greedy | " in (tmp_path / "r.md").read_text()
    assert main(["calibrate", *pair, *few, "--settings", "greedy,rej:1.0"]) == 0
    assert "rej:1.0" in json.loads((tmp_path / "compact/calibration.json").read_text())["settings"]
    capsys.readouterr()
    assert main(["evaluate", *pair, *few, "--settings", "often"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("tandem-train: setting 'often'") and told.count("\n") == 1
