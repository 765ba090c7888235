"""The loop: it learns, goes on after kill -9 to the same bits, stops for what is wrong with one clear line."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy
import pytest
import torch
from conftest import golden_dir

from tandem_trainer.data.samples import Sample, SampleStore
from tandem_trainer.data.transformers_target import TransformersTarget
from tandem_trainer.demo import demo_recipe
from tandem_trainer.errors import UserError
from tandem_trainer.evaluation.rounds import Setting, play_rounds
from tandem_trainer.evaluation.texts import Prompt, Text, with_hidden_states
from tandem_trainer.formats.target_files import TargetFiles
from tandem_trainer.models import build_model, new_config
from tandem_trainer.models.initial_weights import set_initial_weights
from tandem_trainer.recipe import TrainingOptions
from tandem_trainer.run import Run
from tandem_trainer.training.batches import Batches, make_groups, split_held_out
from tandem_trainer.training.checkpoints import list_checkpoints
from tandem_trainer.training.loop import Trainer
from tandem_trainer.training.objective import Objective
from tandem_trainer.training.schedule import step_factor

SMALL = ["data.num_conversations=48", "data.batch=16", "data.max_new_tokens=60", "training.steps=24",
         "training.anchors=16", "training.sequences=4", "training.checkpoint_every=4", "training.log_every=1",
         "training.threads=1",
         "calibration.num_texts=8", "calibration.max_tokens=60", 'calibration.settings=["greedy", "rej:1.0"]',
         "evaluation.num_prompts=4", "evaluation.max_tokens=60"]  # fmt: skip


def small_run(directory, *overrides):
    return Run(demo_recipe(None, [*SMALL, *overrides]), directory, quiet=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    directory = tmp_path_factory.mktemp("whole")
    small_run(directory).everything()
    return directory


def result_of(directory):
    return {
        name: (directory / "drafter" / name).read_bytes()
        for name in ("model.safetensors", "config.json", "calibration.json")
    }


def test_everything_is_there(whole):
    for name in (
        "report.md",
        "held_out.json",
        "times.json",
        "drafter/README.md",
        "plots/training.png",
        "plots/positions.png",
        "plots/calibration.png",
        "plots/reliability.png",
    ):
        assert (whole / name).stat().st_size > 0, name
    modes = {path.stat().st_mode for path in (whole / "drafter").iterdir()}
    assert modes == {(whole / "metrics.jsonl").stat().st_mode}  # what reads one file of a drafter reads all
    assert list((whole / "tensorboard").glob("events*"))
    steps = [json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 25))
    assert [path.name for path in list_checkpoints(whole / "checkpoints")] == ["step-00000020.pt", "step-00000024.pt"]
    settings = json.loads((whole / "drafter/calibration.json").read_text())["settings"]
    assert set(settings) == {"greedy", "rej:1.0"} and all(len(s["scale_bias"]) == 7 for s in settings.values())


def progress_of(directory):
    """Bytes of samples and logged steps."""
    samples, metrics = directory / "samples/samples.bin", directory / "metrics.jsonl"
    return (
        samples.stat().st_size if samples.exists() else 0,
        metrics.read_text().count("\n") if metrics.exists() else 0,
    )


def test_killed_and_started_again_gives_the_same(whole, tmp_path):
    command = [
        sys.executable,
        "-m",
        "tandem_trainer",
        "demo",
        "--out",
        str(tmp_path),
        "--quiet",
        *(word for override in SMALL for word in ("--set", override)),
    ]
    moments = [lambda size, steps: size > 0, lambda size, steps: steps >= 3, lambda size, steps: steps >= 13]
    killed = 0
    for moment in moments:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while child.poll() is None and not moment(*progress_of(tmp_path)):
            time.sleep(0.002)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            killed += 1
        child.wait()
    assert killed == len(moments)
    assert not (tmp_path / "drafter").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert result_of(tmp_path) == result_of(whole)
    assert (tmp_path / "samples/samples.bin").read_bytes() == (whole / "samples/samples.bin").read_bytes()

    def entries(directory):
        lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]

    assert entries(tmp_path) == entries(whole)


def test_it_learns(tmp_path, whole):
    metrics = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert numpy.mean([m["loss"] for m in metrics[-5:]]) < 0.95 * metrics[0]["loss"]


@pytest.mark.parametrize("kind", [
    ['drafter.algorithm="dflash"', "training.accumulate=2"],
    ['drafter.markov_type="rnn"', "drafter.draft_vocab_size=120"],
    ['drafter.markov_type="gated"', "training.frequent=60", "training.random=40", "drafter.draft_vocab_size=150"],
    ["drafter.markov_top_k=32", 'training.dtype="bf16"', 'drafter.start="random"'],
    ["training.minutes=0.02", "training.steps=0"],
], ids=lambda kind: "-".join(kind).replace("drafter.", "").replace("training.", ""))  # fmt: skip
def test_every_kind_trains_and_is_evaluated(kind, tmp_path, whole):
    link_samples(whole, tmp_path)
    run = small_run(tmp_path, *kind, "training.checkpoint_every=100")
    run.train()
    found = run.finish()
    assert all(1 <= a.tau <= 8 and a.rounds > 10 for a in found.total.values())


def test_eagle3_trains(tmp_path):
    """On a target with random weights, since that with a language has too few blocks for five taps."""
    with pytest.raises(UserError, match="target_layer_ids has 3 entries, Eagle3 has 5"):
        small_run(tmp_path, 'drafter.algorithm="eagle3"', "drafter.taps=[]")

    class Files(TargetFiles):
        end_tokens = [7]

    files = Files(golden_dir() / "drafters/targets/qwen3_untied")
    config = new_config(files.config, algorithm="eagle3", num_layers=1, block_size=5)
    model = build_model(config)
    set_initial_weights(model, files, seed=1)
    random = numpy.random.default_rng(0)
    samples = [Sample(random.integers(0, files.vocab_size, 30).astype("i4"), numpy.ones(30, "u1")) for _ in range(8)]
    options = TrainingOptions(steps=60, learning_rate=5e-3, checkpoint_every=60, log_every=1)
    device = torch.device("cpu")
    objective = Objective(model, files.vocabulary()[1], torch.arange(files.vocab_size), options, device)
    batches = Batches(samples, [list(range(8))], TransformersTarget(files), config.taps, 1, 1 << 30)
    trainer = Trainer(model, batches, objective, options, tmp_path, "run", device, quiet=True)
    trainer.train()
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.97 * losses[0]
    assert trainer.held_out(batches)["loss"] < losses[0]
    text = Text(Prompt("x", (1, 2, 3), 5), list(range(40)), False)
    (batch,) = with_hidden_states(batches.source, [text], config.taps)
    rounds = play_rounds(model, batch, Setting.parse("coup:1.0"), files.vocabulary()[1])
    assert 5 <= len(rounds.accepted) <= 36 and rounds.accepted.max() <= 5


def link_samples(whole, directory):
    os.symlink(whole / "samples", directory / "samples")


def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path, whole):
    link_samples(whole, tmp_path)
    run = small_run(tmp_path)
    source, calls = run.source, []
    compute = source.hidden_states

    def poisoned(ids, taps, lengths=None):
        states = compute(ids, taps, lengths)
        calls.append(1)
        if len(calls) == 8:
            states.features[0, 3] = float("nan")
        return states

    source.hidden_states = poisoned
    with pytest.raises(
        UserError, match=r"step \d+: (loss|the gradient's norm) is nan in micro-batch \d+ \(samples [\d, ]+\)"
    ) as error:
        run.train()
    assert "step-00000004.pt" in str(error.value) and "\n" not in str(error.value)
    state = torch.load(list_checkpoints(tmp_path / "checkpoints")[-1], weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["weights"].values())


def test_checkpoints_of_another_shape_or_run(tmp_path, whole):
    link_samples(whole, tmp_path)
    os.symlink(whole / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(UserError, match="a checkpoint of another shape: .* this recipe's drafter has"):
        small_run(tmp_path, "drafter.markov_rank=8").train()
    with pytest.raises(UserError, match="a checkpoint of a run with other settings"):
        small_run(tmp_path, "training.learning_rate=0.5").train()
    (tmp_path / "checkpoints").unlink()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-00000004.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="step-00000004.pt: no readable checkpoint"):
        small_run(tmp_path).train()


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))
from tandem_trainer.cli import main
sys.exit(main(["demo", "--out", sys.argv[1], "--quiet", *sys.argv[2:]]))
"""


def test_a_full_disk_is_told_and_leaves_no_torn_checkpoint(tmp_path):
    """Samples fit under the limit on file sizes, a checkpoint does not."""
    words = [word for override in SMALL for word in ("--set", override)]
    result = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), *words], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("tandem-train: cannot write ") and "step-00000004.pt" in line
    assert not list((tmp_path / "checkpoints").iterdir())


def test_samples_of_another_tokenizer(tmp_path):
    run = small_run(tmp_path)
    with SampleStore(
        tmp_path / "samples", {"target_fingerprint": run.files.fingerprint, "tokenizer": "other"}
    ) as store:
        store.append_batch([Sample(numpy.arange(30, dtype="i4"), numpy.ones(30, "u1"))] * 8)
    with pytest.raises(UserError, match="made with another tokenizer"):
        run.train()


RANKS = """
import sys
from tandem_trainer.demo import demo_recipe
from tandem_trainer.run import Run
import hashlib, torch
run = Run(demo_recipe(None, sys.argv[2:]), sys.argv[1], quiet=True)
model = run.train()
digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.trained().values())).hexdigest()
print("weights", digest, run.ranks.count, flush=True)
torch.distributed.destroy_process_group()
"""


def test_two_processes_train_one_drafter(tmp_path, whole):
    link_samples(whole, tmp_path)
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            str(script),
            str(tmp_path),
            *SMALL,
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    told = [line.split() for line in result.stdout.splitlines() if line.startswith("weights")]
    assert len(told) == 2 and told[0] == told[1] and told[0][2] == "2"


def samples_of(lengths):
    return [Sample(numpy.zeros(n, "i4"), numpy.ones(n, "u1")) for n in lengths]


def test_groups_hold_each_sample_once():
    samples = samples_of([3 + i % 40 for i in range(101)])
    train_on, held_out = split_held_out(samples, 0.1, 7)
    assert sorted(train_on + held_out) == list(range(101)) and len(held_out) == 10
    groups = make_groups(samples, train_on, 8, 7)
    used = [n for group in groups for n in group]
    assert len(set(used)) == len(used) == 88 and set(used) <= set(train_on)
    with pytest.raises(UserError, match="3 samples to train on, a micro-batch has 8"):
        make_groups(samples, [1, 2, 3], 8, 7)
    batches = Batches(samples, groups, None, (0,), 7, 0)
    first, second = ([batches.group_of(e * 11 + i) for i in range(11)] for e in range(2))
    assert sorted(first) == sorted(second) == list(range(11)) and first != second


def test_the_learning_rate_rises_and_falls():
    factors = [step_factor(s, 100, 0.1) for s in range(100)]
    assert factors[0] == 0.1 and factors[9] == factors[10] == 1 and factors[-1] < 0.001
    assert factors[:10] == sorted(factors[:10]) and factors[10:] == sorted(factors[10:], reverse=True)


def test_bad_recipes_name_the_field(tmp_path):
    from tandem_trainer.recipe import parse_recipe, read_recipe

    for overrides, text in (
        (["training.step=5"], r"\[training\] has no field step"),
        (["trainer.steps=5"], r"\[trainer\] is none of"),
        (['training.steps="x"'], "training.steps is 'x', expected int"),
        (["training.minutes=1"], "one of training.steps and training.minutes"),
        (['drafter.algorithm="x"'], "drafter.algorithm is 'x'"),
        (["training.steps"], "expected TABLE.FIELD"),
    ):
        with pytest.raises(UserError, match=text):
            demo_recipe(None, overrides)
    with pytest.raises(UserError, match="target.path is missing"):
        parse_recipe({"training": {"steps": 1}}, "r.toml")
    with pytest.raises(UserError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
    for recipe in pathlib.Path(__file__).resolve().parents[1].glob("recipes/*.toml"):
        read_recipe(recipe)
