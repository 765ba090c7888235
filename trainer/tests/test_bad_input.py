"""The command on bad input: one clear line, exit status 1, and what was good stays."""

import gzip
import json
import shutil
import subprocess
import sys

import pytest
from conftest import golden_dir

from tandem_trainer.cli import main

FEW = ("data.num_conversations=24", "data.batch=12", "data.max_new_tokens=40", "training.steps=6",
       "training.anchors=8", "training.sequences=4", "training.checkpoint_every=2", "training.log_every=1",
       "training.threads=1", "calibration.num_texts=4", "calibration.max_tokens=40",
       'calibration.settings=["greedy"]', "evaluation.num_prompts=2", "evaluation.max_tokens=40",
       'evaluation.settings=["greedy"]')  # fmt: skip


def words(*overrides):
    return [word for override in (*FEW, *overrides) for word in ("--set", override)]


@pytest.fixture
def told(capsys):
    """Runs the command, which must fail, and gives its one line."""

    def run(*arguments):
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("tandem-train: ") and error.count("\n") == 1, error
        return error.removeprefix("tandem-train: ").rstrip()

    return run


@pytest.fixture
def target(trained_pair, tmp_path):
    """A copy of the tiny target, to be damaged."""
    return shutil.copytree(trained_pair / "target", tmp_path / "target", copy_function=shutil.copyfile)


def chats(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return words(f'data.conversations=["{path}"]', 'data.answers="given"')


ANSWERED = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, how are you?"}]}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Hi"},
        {"turns": ["Hi"]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " "}]},
    ],
)
def test_a_conversation_without_assistant_text(told, tmp_path, record):
    file = tmp_path / "chats.jsonl"
    given = chats(file, ANSWERED, record)
    line = told("demo", "--out", tmp_path / "run", "--quiet", *given)
    assert line.startswith(f"{file}:2: a conversation without assistant text")


def test_a_template_without_a_known_header(told, target, tmp_path):
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text())
    (target / "chat_template.jinja").unlink(missing_ok=True)
    config["chat_template"] = "{% for m in messages %}<<{{ m.role }}>>{{ m.content }}{% endfor %}"
    path.write_text(json.dumps(config))
    given = chats(tmp_path / "chats.jsonl", ANSWERED)
    line = told("demo", "--target", target, "--out", tmp_path / "run", "--quiet", *given)
    assert "its chat template has the answers' header of none of the formats qwen, chatml" in line
    config["chat_template"] = "{{ raise_exception('roles must alternate') }}"
    path.write_text(json.dumps(config))
    line = told("demo", "--target", target, "--out", tmp_path / "other", "--quiet", *words())
    assert "template mismatch: the target's chat template refuses the conversation: roles must alternate" in line


def test_a_tokenizer_that_is_not_the_targets(told, target, tmp_path):
    with gzip.open(golden_dir() / "tokenizers/smollm2.tokenizer.json.gz") as stream:
        (target / "tokenizer.json").write_bytes(stream.read())
    line = told("demo", "--target", target, "--out", tmp_path / "run", "--quiet", *words())
    assert "the tokenizer is not the target's: it has token id 4915" in line


def test_a_drafter_of_another_shape(told, trained_pair, tmp_path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"turns": ["What is 2 plus 3?"]}\n')
    drafter = shutil.copytree(trained_pair / "drafter", tmp_path / "drafter", copy_function=shutil.copyfile)
    pair = ("--drafter", drafter, "--target", trained_pair / "target", "--prompts", prompts, "--max-tokens", "8")
    path = drafter / "config.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps({**good, "intermediate_size": good["intermediate_size"] * 2}))
    line = told("evaluate", *pair)
    assert f"{drafter}: tensor layers.0.mlp.gate_proj.weight has shape" in line and ", expected [" in line
    path.write_text(json.dumps({**good, "num_hidden_layers": good["num_hidden_layers"] + 1}))
    assert f"{drafter}: tensor layers." in (line := told("evaluate", *pair)) and "is missing" in line


# From the run's part on, no file may grow beyond a size.
LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
import tandem_trainer.run as run
from tandem_trainer.cli import main
part, size = sys.argv[1], int(sys.argv[2])
inner = getattr(run.Run, part)
def limited(self, *arguments):
    limit(size)
    return inner(self, *arguments)
setattr(run.Run, part, limited)
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    "part, size, name",
    [
        ("make_data", 500, "samples.bin"),
        ("train", 300, "metrics.jsonl"),
        ("train", 100000, "step-00000002.pt"),
        ("calibrate_and_export", 5000, "model.safetensors"),
        ("finish", 1000, "config.json"),
        ("evaluate", 3000, "positions.png"),
    ],
)
def test_a_full_disk_names_the_file(tmp_path, part, size, name):
    command = [sys.executable, "-c", LIMITED, part, str(size), "demo", "--out", str(tmp_path), "--quiet", *words()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr, result.stderr
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith(f"tandem-train: cannot write {tmp_path}/") and f"/{name}" in line
    assert not list(tmp_path.rglob("*.tmp"))
