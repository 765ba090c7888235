"""A real tandem-verifier with --capture against the same target in this process."""

import pytest
import torch
from tandem_processes import ANY, Process, Stack, paths, wait_until

from tandem_trainer.data.capture_target import CaptureTarget
from tandem_trainer.data.generate import DataMaker, DataOptions
from tandem_trainer.data.samples import SampleStore
from tandem_trainer.data.transformers_target import Decoding, TransformersTarget
from tandem_trainer.demo import demo_recipe
from tandem_trainer.errors import UserError
from tandem_trainer.formats.target_files import TargetFiles
from tandem_trainer.run import Run

EXACT = ("--dtype", "f32", "--activations", "f32", "--kv-dtype", "f32", "--threads", "1")
TAPS = (0, 1, 2)


@pytest.fixture(scope="module")
def files(trained_pair):
    return TargetFiles(trained_pair / "target")


@pytest.fixture(scope="module")
def verifier(files):
    command = [
        paths.binary("tandem-verifier"),
        "--model",
        str(files.path),
        "--listen",
        ANY,
        "--metrics",
        ANY,
        "--capture",
        "--max-num-seqs",
        "8",
        "--drain-delay",
        "0s",
        *EXACT,
    ]
    with Process(command) as process:
        process.address = process.addresses()["grpc"]
        wait_until(lambda: '"ready"' in process.stderr(), "the verifier's start")
        yield process


@pytest.fixture
def captured(files, verifier):
    target = wait_until(lambda: connect(files, verifier), "a free Capture stream")
    yield target
    target.close()


def connect(files, verifier):
    try:
        return CaptureTarget(files, verifier.address, TAPS)
    except UserError as error:
        if "another Capture stream" in str(error):
            return None  # the last test's is just ending
        raise


@pytest.fixture(scope="module")
def here(files):
    return TransformersTarget(files)


def test_hidden_states(captured, here):
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 256, (20, 90), generator=generator)
    lengths = torch.randint(1, 91, (20,), generator=generator)
    found, expected = captured.hidden_states(ids, TAPS, lengths), here.hidden_states(ids, TAPS)
    for row, length in enumerate(lengths.tolist()):
        for a, b in ((found.features, expected.features), (found.last, expected.last)):
            # They travel as bf16: 8 bits.
            assert torch.allclose(a[row, :length], b[row, :length], atol=2e-2, rtol=1e-2)
            assert (a[row, length:] == 0).all()


def test_texts(captured, here):
    """Greedy ones and, with the same noise, drawn ones are the same in both."""
    ids = here.files.tokenizer(
        "<|im_start|>user\nTell me a story about a red fox.<|im_end|>\n<|im_start|>assistant\n"
    ).input_ids
    decodings = [Decoding(60, 0.0)] + [Decoding(60, 1.0, seed=seed) for seed in range(2**64 - 12, 2**64)]
    expected = here.generate([ids] * 13, decodings)
    assert captured.generate([ids] * 13, decodings) == expected
    assert len({tuple(answer) for answer in expected}) > 3


def test_samples(captured, here, tmp_path):
    options = DataOptions(num_conversations=6, batch=6, max_new_tokens=40, max_length=200)
    for name, target in (("captured", captured), ("here", here)):
        maker = DataMaker(target, options)
        with SampleStore(tmp_path / name, maker.manifest()) as store:
            maker.fill(store)
    assert (tmp_path / "captured/samples.bin").read_bytes() == (tmp_path / "here/samples.bin").read_bytes()


def test_a_whole_run_through_capture(verifier, captured, tmp_path):
    captured.close()
    overrides = [
        'target.source="capture"', f'target.address="{verifier.address}"', "data.num_conversations=32", "data.batch=16",
        "data.max_new_tokens=50", "training.steps=6", "training.sequences=4", "training.threads=1",
        "calibration.num_texts=4", "calibration.max_tokens=50", 'calibration.settings=["greedy", "rej:1.0"]',
        "evaluation.num_prompts=4", "evaluation.max_tokens=50",
    ]  # fmt: skip

    def run():
        try:
            run = Run(demo_recipe(None, overrides), tmp_path, quiet=True)
            try:
                return run.everything()
            finally:
                run.close()
        except UserError as error:
            assert "another Capture stream" in str(error)
            return None

    found = wait_until(run, "a run of the recipe", timeout=120)
    assert found.total["greedy"].rounds > 20 and (tmp_path / "drafter/calibration.json").exists()


def test_bad_input_is_told_in_one_line(files, verifier, captured):
    with pytest.raises(UserError, match="RESOURCE_EXHAUSTED: another Capture stream is open"):
        CaptureTarget(files, verifier.address, TAPS)
    with pytest.raises(UserError, match=r"a text of 600 \+ 0 tokens, .* takes 512"):
        captured.hidden_states(torch.zeros(1, 600, dtype=torch.long), TAPS)
    captured.close()

    class Other(TargetFiles):
        fingerprint = "0" * 64

    def refused():
        with pytest.raises(UserError) as raised:
            CaptureTarget(Other(files.path), verifier.address, TAPS)
        return "serves another target" in str(raised.value)

    wait_until(refused, "the verifier to tell that it has another target")
    with pytest.raises(UserError, match="UNAVAILABLE"):
        CaptureTarget(files, "127.0.0.1:1", TAPS)


def test_a_verifier_that_serves_gateways_captures_nothing(files):
    with Stack(str(files.path)) as stack, pytest.raises(UserError, match="UNIMPLEMENTED"):
        CaptureTarget(files, stack.verifier_address, TAPS)
