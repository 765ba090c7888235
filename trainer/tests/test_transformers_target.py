"""Hidden states and texts of targets in this process against the golden data."""

import numpy
import pytest
import safetensors.torch
import torch
from conftest import golden_dir, read_json, walk

from tandem_trainer.data.transformers_target import Decoding, TransformersTarget, filter_logits
from tandem_trainer.formats.target_files import TargetFiles

FEATURES = 2e-4


class NoTokenizer(TargetFiles):
    """Golden targets with random weights have no tokenizer."""

    end_tokens = [7]


@pytest.mark.parametrize("case", walk("cases", "facts.json"), ids=lambda case: case.name)
def test_tapped_features(case):
    facts, expected = read_json(case / "facts.json"), safetensors.torch.load_file(case / "expect.safetensors")
    target = TransformersTarget(NoTokenizer(golden_dir() / "drafters" / facts["target"]))
    for name, prompt in facts["prompts"].items():
        # Padding behind a text changes nothing in it.
        ids = torch.tensor([prompt["token_ids"] + [1, 2, 3]])
        states = target.hidden_states(ids, tuple(facts["target_layer_ids"]))
        found = states.features[0, : prompt["start"]]
        numpy.testing.assert_allclose(found, expected[f"{name}.features"], atol=FEATURES, rtol=FEATURES)
        logits = target.model.get_output_embeddings()(states.last)[0, prompt["start"] - 1]
        assert logits.shape == (target.files.vocab_size,)


@pytest.fixture(scope="module")
def pair(trained_pair):
    return TransformersTarget(TargetFiles(trained_pair / "target"))


def test_greedy_texts_in_one_batch(pair, trained_pair):
    examples = read_json(trained_pair / "greedy_examples.json")
    prompts = [example["prompt_ids"] for example in examples[:8]]
    longest = max(len(example["greedy_ids"]) for example in examples[:8])
    answers = pair.generate(prompts, [Decoding(longest)] * len(prompts))
    for answer, example in zip(answers, examples, strict=False):
        expected = example["greedy_ids"]
        assert answer[: len(expected)] == expected


def test_every_answer_ends_at_its_first_end_token(pair):
    """What comes behind an end of turn would teach the drafter what the target never writes."""
    prompt = pair.files.tokenizer(
        "<|im_start|>user\nTell me a story about a red fox.<|im_end|>\n<|im_start|>assistant\n"
    ).input_ids
    decodings = [Decoding(120, temperature=1.0, seed=seed) for seed in range(12)]
    answers = pair.generate([prompt] * 12, decodings)
    ends = [[i for i, token in enumerate(answer) if token in pair.end_tokens] for answer in answers]
    assert all(len(answer) == 120 or at == [len(answer) - 1] for answer, at in zip(answers, ends, strict=True))
    assert sum(bool(at) for at in ends) >= 6
    # Each row draws with its own seed, whoever shares the batch.
    assert pair.generate([prompt], [decodings[3]])[0] == answers[3]
    assert len({tuple(answer) for answer in answers}) > 1


def test_filters():
    logits = torch.tensor([2.0, 1.0, 0.0, 3.0])
    assert filter_logits(logits, 1.0, 2, 1.0).isfinite().tolist() == [True, False, False, True]
    assert filter_logits(logits, 1.0, 0, 0.6).isfinite().tolist() == [False, False, False, True]
    assert filter_logits(logits, 1.0, 0, 0.7).isfinite().tolist() == [True, False, False, True]
