"""Bad tokenizers and chat templates: no start, or an answer of 400 while everything else goes on."""

import json
import pathlib
import shutil
import subprocess

import pytest

from harness import http
from harness.paths import TRAINED, binary, golden_json
from harness.processes import ANY, Stack

EXAMPLE = golden_json("drafters/trained_pair/greedy_examples.json")[0]


@pytest.fixture
def model(tmp_path):
    """A copy of the trained model that a test may spoil."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in pathlib.Path(TRAINED).iterdir():
        shutil.copyfile(file, copy / file.name)
    return copy


def change(path, edit):
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def with_template(model, template):
    change(model / "tokenizer_config.json", lambda config: config.update(chat_template=template))


def starts(program, model):
    flags = ["--listen", ANY]
    if program == "tandem-gateway":
        flags = ["--verifier", "127.0.0.1:1", "--http", ANY, "--grpc", ANY]
    return subprocess.run([binary(program), "--model", str(model), "--metrics", ANY, *flags], capture_output=True,
                          text=True, timeout=20, check=False)


# What is done to tokenizer.json, and what the message must name.
TOKENIZERS = {
    "merge of unknown tokens": (lambda t: t["model"]["merges"].append(["\u0120zq", "\u0120zq"]), "unknown token"),
    "id beyond the limit": (lambda t: t["model"]["vocab"].update(zq=2**40), "model.vocab `zq`: id 1099511627776"),
    "id negative": (lambda t: t["added_tokens"][0].update(id=-1), "added_tokens[0]: id -1"),
    "more ids than the model": (lambda t: t["model"]["vocab"].update(zq=5000), "has 5001 ids, the model only"),
    "unknown pattern": (lambda t: t["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="(a+)+$"), "(a+)+$"),
    "unknown normalizer": (lambda t: t.update(normalizer={"type": "Lowercase"}), "normalizer `Lowercase`"),
    "unknown model": (lambda t: t["model"].update(type="Unigram"), "tokenizer model `Unigram`"),
}


@pytest.mark.parametrize("program", ["tandem-gateway", "tandem-verifier"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_bad_tokenizer_is_no_start_and_named(model, program, name):
    edit, message = TOKENIZERS[name]
    change(model / "tokenizer.json", edit)
    done = starts(program, model)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "tokenizer.json" in done.stderr and message in done.stderr, done.stderr


@pytest.mark.parametrize("program", ["tandem-gateway", "tandem-verifier"])
def test_a_truncated_tokenizer_is_no_start(model, program):
    text = (model / "tokenizer.json").read_bytes()
    (model / "tokenizer.json").write_bytes(text[: len(text) // 2])
    done = starts(program, model)
    assert done.returncode == 1 and "tokenizer.json: not valid JSON at byte" in done.stderr, done.stderr


@pytest.mark.parametrize("template, message", [
    ("{{ 1 }}\n{% include 'etc/passwd' %}", "include"),
    ("{% import 'x' as x %}", "import"),
    ("{% extends 'x' %}", "extends"),
    ("{{ ''.__class__.__base__.__subclasses__() }}", "method `__subclasses__`"),
    ("{{ 1 }}\n\n{% for %}", "line 3"),
    ("x" * (1 << 20) + "x", "1048577 bytes"),
])
def test_a_template_that_asks_for_more_than_text_is_no_start(model, template, message):
    with_template(model, template)
    done = starts("tandem-gateway", model)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "chat template" in done.stderr and message in done.stderr, done.stderr


@pytest.mark.parametrize("template", [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 1000000000 }}",
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{{ messages.__class__.__mro__ }}",
    "{{ ''.__class__.__base__ }}",
])
def test_a_template_that_runs_away_is_400_and_nothing_else_is_touched(model, template):
    with_template(model, template)
    with Stack(str(model)) as stack:
        answer = http.chat(stack.http, "Hello", max_tokens=4)
        assert answer.status == 400, answer
        assert answer.error()["param"] == "messages", answer
        fields = {"model": "default", "prompt": "Hello", "max_tokens": 4, "temperature": 0}
        assert http.post(stack.http, "/v1/completions", fields).status == 200


def test_a_chat_ends_where_tokenizer_config_says_a_turn_ends(model):
    """The only file left that names the end of a turn."""
    with Stack(TRAINED) as stack:
        expected = http.chat(stack.http, EXAMPLE["user"], temperature=0).json()["choices"][0]
    assert expected["finish_reason"] == "stop"
    (model / "generation_config.json").unlink()
    change(model / "config.json", lambda config: config.pop("eos_token_id", None))
    with Stack(str(model)) as stack:
        assert http.chat(stack.http, EXAMPLE["user"], temperature=0).json()["choices"][0] == expected
