"""Conversations in, samples out: formats, loss masks, ends of answers, resumption, bounds, clear errors."""

import json
import pathlib
import subprocess
import sys

import numpy
import pytest
from conftest import golden_dir, read_json

from tandem_trainer.data.conversations import FORMATS, detect_format, parse_conversation, parse_line
from tandem_trainer.data.generate import DataMaker, DataOptions
from tandem_trainer.data.samples import Sample, SampleStore, load_samples
from tandem_trainer.data.transformers_target import TransformersTarget
from tandem_trainer.errors import UserError
from tandem_trainer.formats.target_files import TargetFiles, check_tokenizer


@pytest.fixture(scope="module")
def target(trained_pair):
    return TransformersTarget(TargetFiles(trained_pair / "target"))


def test_given_answers_and_their_loss_mask(target):
    told = read_json(golden_dir() / "drafters/parse/parse.json")
    assert told["cases"]
    for case in told["cases"]:
        conversation = parse_line(json.dumps({"messages": case["conversation"]}), "a case")
        template = told["chat_templates"][case["template"]]
        ids, mask = parse_conversation(
            target.files.tokenizer, conversation, FORMATS[case["template"]], case["max_length"], template
        )
        assert ids == case["input_ids"]
        assert "".join(map(str, mask)) == case["loss_mask"]


@pytest.mark.parametrize(
    "line, error",
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"text": "x"}', "none of messages"),
        ('{"messages": []}', "without messages of user or assistant"),
        ('{"messages": [{"role": "user"}]}', "a message without content"),
        ('{"messages": [{"role": "assistant", "content": "Hi"}]}', "starts with assistant"),
    ],
)
def test_bad_lines_are_named(line, error):
    with pytest.raises(UserError, match=error) as raised:
        parse_line(line, "chats.jsonl:7")
    assert str(raised.value).startswith("chats.jsonl:7: ") and "\n" not in str(raised.value)


def test_all_forms_of_a_line():
    for record in (
        {"prompt": "Hi"},
        {"turns": ["Hi"]},
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "tool", "value": "x"}]},
    ):
        assert parse_line(json.dumps(record), "x").messages == [{"role": "user", "content": "Hi"}]


def test_a_conversation_without_assistant_text(target, tmp_path):
    file = tmp_path / "chats.jsonl"
    file.write_text('{"prompt": "Hi"}\n')
    maker = DataMaker(target, DataOptions(conversations=(str(file),), answers="given"))
    with (
        SampleStore(tmp_path / "s", maker.manifest()) as store,
        pytest.raises(UserError, match="without assistant text") as e,
    ):
        maker.fill(store)
    assert f"{file}:1" in str(e.value)


def test_a_template_that_does_not_match(target):
    conversation = parse_line(
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}', "chat:1"
    )
    with pytest.raises(UserError, match="chat:1: template mismatch: .*<.turn>model"):
        parse_conversation(target.files.tokenizer, conversation, FORMATS["gemma4"], 100)
    refuses = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match="template mismatch.*roles must alternate"):
        parse_conversation(target.files.tokenizer, conversation, FORMATS["chatml"], 100, refuses)
    assert detect_format(target.files.tokenizer).name == "chatml"


def test_a_tokenizer_that_is_not_the_targets(target):
    class Smaller(TargetFiles):
        vocab_size = 100

    with pytest.raises(UserError, match="the tokenizer is not the target's: it has token id 259, .* has 100 tokens"):
        check_tokenizer(target.files.tokenizer, Smaller(target.files.path))


OPTIONS = DataOptions(num_conversations=10, batch=4, max_new_tokens=40, max_length=200, seed=5)


def make(target, directory, options=OPTIONS):
    maker = DataMaker(target, options)
    with SampleStore(directory, maker.manifest(), options.max_bytes) as store:
        maker.fill(store)
    return load_samples(directory)[1]


def same(a, b):
    return len(a) == len(b) and all(
        numpy.array_equal(x.ids, y.ids) and numpy.array_equal(x.mask, y.mask) for x, y in zip(a, b, strict=True)
    )


def test_self_written_conversations(target, tmp_path):
    samples = make(target, tmp_path)
    assert len(samples) >= 8
    ends = set(target.end_tokens)
    for sample in samples:
        ids, mask = sample.ids.tolist(), sample.mask.tolist()
        first = mask.index(1)
        assert all(mask[first:]) and first > 0
        assert [i for i, token in enumerate(ids[first:]) if token in ends] in ([], [len(ids) - first - 1])


def test_an_interrupted_run_goes_on_to_the_same_samples(target, tmp_path):
    whole = make(target, tmp_path / "whole")
    maker = DataMaker(target, OPTIONS)

    class Killed(Exception):
        pass

    def stop(done, total):
        if done >= 4:
            raise Killed

    with SampleStore(tmp_path / "cut", maker.manifest()) as store, pytest.raises(Killed):
        maker.fill(store, stop)
    file = tmp_path / "cut/samples.bin"
    assert 0 < file.stat().st_size < (tmp_path / "whole/samples.bin").stat().st_size
    for torn in (b"", b"PMST\0\0", (tmp_path / "whole/samples.bin").read_bytes()[file.stat().st_size :][:700]):
        with open(file, "ab") as stream:
            stream.write(torn)
        before = file.read_bytes()
        assert same(make(target, tmp_path / "cut"), whole)
        assert file.read_bytes() == (tmp_path / "whole/samples.bin").read_bytes()
        file.write_bytes(before)


def test_several_turns_are_one_sample(target, tmp_path):
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"turns": ["What is 2 plus 3?", "What is 4 plus 4?"]}) + "\n")
    options = DataOptions(
        conversations=(str(file),), temperatures=(0.0,), max_new_tokens=60, max_length=300, min_loss_tokens=2
    )
    (sample,) = make(target, tmp_path / "s", options)
    text = target.files.tokenizer.decode(sample.ids)
    assert text.count("<|im_start|>assistant") == 2
    spans = "".join(map(str, sample.mask)).strip("0").split("0")
    assert sum(bool(span) for span in spans) == 2
    # Forbidden first turns are left out.
    with pytest.raises(UserError, match="no conversations"):
        make(target, tmp_path / "t", DataOptions(conversations=(str(file),), never=(str(file),)))


def test_other_settings_in_the_same_directory(target, tmp_path):
    make(target, tmp_path)
    with pytest.raises(UserError, match="manifest.json: made with seed = 5, this run has 6"):
        make(target, tmp_path, DataOptions(num_conversations=10, batch=4, max_new_tokens=40, max_length=200, seed=6))


def test_storage_is_bounded(target, tmp_path):
    make(target, tmp_path, DataOptions(num_conversations=1000, batch=4, max_new_tokens=40, max_bytes=3000))
    assert (tmp_path / "samples.bin").stat().st_size < 3000 + 4 * 5 * 200


WRITER = """
import numpy, resource, signal, sys
from tandem_trainer.data.samples import Sample, SampleStore
from tandem_trainer.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
store = SampleStore(sys.argv[1], {})
try:
    while True:
        store.append_batch([Sample(numpy.arange(100), numpy.ones(100))])
except UserError as error:
    print(error)
"""


def test_a_full_disk(tmp_path):
    """The kernel refuses to write more (here: a limit on file sizes)."""
    result = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "cannot write" in result.stdout and "the 5 samples before are kept" in result.stdout
    assert len(load_samples(tmp_path)[1]) == 5
    with SampleStore(tmp_path, {}) as store:  # and goes on where there is room again
        store.append_batch([Sample(numpy.arange(100), numpy.ones(100))])
    assert len(load_samples(pathlib.Path(tmp_path))[1]) == 6
