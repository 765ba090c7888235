"""Exported checkpoints of each kind load in tandem-drafter, which drafts the same tokens as PyTorch."""

import pytest
import torch
from conftest import golden_dir, read_json, walk
from speculate_client import SpeculateClient
from tandem_processes import ANY, Drafter, Process, paths, wait_until

from tandem_trainer.formats.checkpoint import load_drafter, save_drafter
from tandem_trainer.formats.target_files import TargetFiles
from tandem_trainer.sampling import choose_coupled, gumbel

EXACT = (
    "--dtype",
    "f32",
    "--activations",
    "f32",
    "--kv-dtype",
    "f32",
    "--draft-vocab",
    "0",
    "--markov-top-k",
    "0",
    "--row-transport",
    "inline",
    "--threads",
    "1",
    "--log-level",
    "error",
)
SEED, TEXTS = 0x123456789ABCDEF, 6
# Logits of two programs differ by about 1e-5: a draft may differ only where the best two are closer than this.
CLEAR = 1e-3


def draft_here(model, features, ids, temperature):
    """PyTorch's drafts for the text's last token as anchor, each draft's margin over the runner-up, and confidences."""
    start, margins = len(ids) - 1, []

    def choose(k, logits):
        noise = gumbel([SEED], torch.tensor([start + 1 + k]), 0, model.config.vocab_size)[:, model.draft_ids]
        score = logits if temperature == 0 else (logits - logits.amax(-1, keepdim=True)) / temperature + noise
        best = score.topk(2, -1).values[0]
        margins.append((best[0] - best[1]).item())
        return choose_coupled(logits, noise, temperature)

    padded = torch.cat([features, torch.zeros(1, features.shape[1])])[None]
    context = model.context(padded, torch.tensor([ids]))
    drafts, confidence = model.draft(context, torch.tensor([0]), torch.tensor([start]), torch.tensor([ids[-1]]), choose)
    return drafts[0].tolist(), margins, None if confidence is None else confidence[0]


def check_same_drafts(directory, model, target, *flags):
    """The drafter process on `directory` against `model`; texts and hidden states are random."""
    files = TargetFiles(target)
    generator = torch.Generator().manual_seed(7)
    compared = 0
    with (
        Drafter(str(directory), "--target", str(target), *EXACT, *flags) as process,
        SpeculateClient(process.grpc, files.config) as client,
    ):
        assert client.hello.algorithm == model.config.name and client.hello.block_size == model.config.block_size
        assert list(client.hello.taps) == list(model.config.taps)
        for text in range(TEXTS):
            length = 5 + 9 * text
            ids = torch.randint(0, model.config.vocab_size, (length + 1,), generator=generator).tolist()
            features = torch.randn(length, len(model.config.taps) * model.config.hidden_size, generator=generator)
            rows = model.fc(features) if model.config.name == "eagle3" else model.context_rows(features)
            for temperature in (0.0, 0.8):
                drafts, margins, confidence = draft_here(model, features, ids, temperature)
                answer = client.draft(ids, rows.detach(), temperature, SEED)
                assert answer.anchor == ids[-1] and len(answer.token_ids) == model.config.block_size
                for k, margin in enumerate(margins):
                    if margin < CLEAR:
                        break
                    assert answer.token_ids[k] == drafts[k], f"text {text}, T={temperature}, draft {k}"
                    if confidence is not None:
                        assert abs(answer.confidence_logits[k] - confidence[k]) < 1e-3
                    compared += 1
    assert compared >= TEXTS * 2 * model.config.block_size * 0.8


@pytest.mark.parametrize("case", walk("cases", "facts.json"), ids=lambda case: case.name)
@torch.no_grad()
def test_released_layout_and_compact_form(case, tmp_path):
    target = golden_dir() / "drafters" / read_json(case / "facts.json")["target"]
    embedding, head = TargetFiles(target).vocabulary()
    original = load_drafter(case / "drafter")
    save_drafter(original, tmp_path / "full", full=True)
    full = load_drafter(tmp_path / "full")
    assert all(torch.equal(value, full.state_dict()[name]) for name, value in original.state_dict().items())
    check_same_drafts(tmp_path / "full", full, target)
    save_drafter(original, tmp_path / "compact", target_fingerprint=TargetFiles(target).fingerprint)
    compact = load_drafter(tmp_path / "compact", embedding, head)
    assert not ({"embed_tokens.weight", "lm_head.weight"} & set(tensor_names(tmp_path / "compact")))
    check_same_drafts(tmp_path / "compact", compact, target)


def tensor_names(directory):
    from tandem_trainer.formats.tensors import SafetensorsFiles

    return SafetensorsFiles(directory).tensors


@pytest.mark.parametrize("kind", ["dspark_vanilla", "dspark_rnn", "dflash", "eagle3"])
@torch.no_grad()
def test_reduced_vocabulary_and_int8(kind, tmp_path):
    """A draft vocabulary in no particular order; int8 matrices, which PyTorch then reads too."""
    from tandem_trainer.models import build_model, parse_config

    case = golden_dir() / "drafters/cases" / kind
    target = golden_dir() / "drafters" / read_json(case / "facts.json")["target"]
    embedding, head = TargetFiles(target).vocabulary()
    original = load_drafter(case / "drafter")
    count = original.config.vocab_size * 2 // 5
    ids = torch.randperm(original.config.vocab_size, generator=torch.Generator().manual_seed(3))[:count]
    model = build_model(parse_config({**original.config.raw, "draft_vocab_size": count}))
    model.set_draft_ids(ids)
    weights = dict(original.state_dict())
    for name in ("lm_head.weight", "markov_head.markov_w2.weight"):
        if name in weights:
            weights[name] = weights[name][ids]
    model.load_state_dict(weights)
    save_drafter(model, tmp_path / "reduced", int8=True)
    check_same_drafts(tmp_path / "reduced", load_drafter(tmp_path / "reduced", embedding, head), target)


@torch.no_grad()
def test_a_sequential_head_that_scores_the_best_only(tmp_path):
    case = golden_dir() / "drafters/cases/dspark_gated"
    model = load_drafter(case / "drafter")
    save_drafter(model, tmp_path, full=True)
    model.markov_top_k = 16
    target = golden_dir() / "drafters" / read_json(case / "facts.json")["target"]
    check_same_drafts(tmp_path, model, target, "--markov-top-k", "16")


def test_the_fingerprint_is_the_verifiers(tmp_path):
    """tandem-drafter compares the checkpoint's with the verifier's, which it computes by itself."""
    case = golden_dir() / "drafters/cases/dspark_vanilla"
    target = TargetFiles(golden_dir() / "drafters/targets/qwen3_tied")
    with Process(
        [paths.binary("tandem-verifier"), "--model", str(target.path), "--listen", ANY, "--metrics", ANY]
    ) as verifier:
        verifier.addresses()
        wait_until(lambda: "fingerprint" in verifier.stderr(), "the verifier's fingerprint")
        assert target.fingerprint in verifier.stderr()
    model = load_drafter(case / "drafter")
    save_drafter(model, tmp_path, target_fingerprint=target.fingerprint)
    with (
        Drafter(str(tmp_path), "--target", str(target.path), *EXACT) as process,
        SpeculateClient(process.grpc, target.config) as client,
    ):
        assert client.hello.target_fingerprint == target.fingerprint
