"""Forward passes of every golden drafter case, in f32, against the reference's."""

import numpy
import pytest
import safetensors.torch
import torch
from conftest import golden_dir, read_json, walk

from tandem_trainer.formats.checkpoint import load_drafter

ABSOLUTE, RELATIVE = 1e-4, 1e-4


def cases():
    found = walk("cases", "facts.json") + [golden_dir() / "drafters/trained_pair"]
    return [(case, drafter) for case in found for drafter in ("drafter", "drafter_f32") if (case / drafter).exists()]


def choose_by_uniforms(temperature, uniforms, rows):
    """The first column whose cumulative probability, in f64, exceeds the next uniform; argmax at temperature 0."""
    draws = iter(uniforms)

    def choose(k, logits):
        rows.append(logits[0])
        if temperature < 1e-5:
            return logits.argmax(-1)
        p = torch.softmax(logits[0].double() / temperature, -1)
        return torch.searchsorted(p.cumsum(-1) / p.sum(), next(draws), right=True)[None]

    return choose


def near(actual, expected, name):
    numpy.testing.assert_allclose(actual.detach().numpy(), expected.numpy(), atol=ABSOLUTE, rtol=RELATIVE, err_msg=name)


@pytest.mark.parametrize("case, drafter", cases(), ids=lambda value: getattr(value, "name", value))
def test_drafts_and_their_logits(case, drafter):
    facts, expected = read_json(case / "facts.json"), safetensors.torch.load_file(case / "expect.safetensors")
    model = load_drafter(case / drafter)
    eagle3 = model.config.name == "eagle3"
    for name, prompt in facts["prompts"].items():
        features = expected[f"{name}.features"][None]
        start, anchor = torch.tensor([prompt["start"]]), torch.tensor([prompt["anchor"]])
        ids = torch.tensor([prompt["token_ids"] + [prompt["anchor"]]])
        padded = torch.cat([features, torch.zeros(1, 1, features.shape[-1])], 1)  # of the anchor: never looked at
        context = model.context(padded if eagle3 else features, ids if eagle3 else ids[:, :-1])
        if eagle3:
            n = int(start)
            near(model.fc(features)[0], expected[f"{name}.fc_rows"], "fc_rows")
            near(context.outputs[0, n - 1], expected[f"{name}.last_hidden"], "last_hidden")
            near(context.keys[0, :n], expected[f"{name}.context_k"], "context_k")
            near(context.values[0, :n], expected[f"{name}.context_v"], "context_v")
        else:
            near(model.context_rows(features)[0], expected[f"{name}.context_rows"], "context_rows")
            for i, (keys, values) in enumerate(context):
                near(keys[0], expected[f"{name}.layer{i}.context_k"], f"layer{i}.context_k")
                near(values[0], expected[f"{name}.layer{i}.context_v"], f"layer{i}.context_v")
            h = model.block_hidden(context, anchor[:, None], start[:, None])[0, 0]
            near(h, expected[f"{name}.block_hidden"], "block_hidden")
            near(model.base_logits(h), expected[f"{name}.base_logits"], "base_logits")
        for kind in ("greedy", "sampled"):
            told, rows = prompt[kind], []
            choose = choose_by_uniforms(told["temperature"], told.get("uniforms", []), rows)
            drafts, confidence = model.draft(context, torch.tensor([0]), start, anchor, choose)
            assert drafts[0].tolist() == told["tokens"], kind
            near(torch.stack(rows), expected[f"{name}.{kind}.logits"], f"{kind}.logits")
            if confidence is not None:
                near(confidence[0], expected[f"{name}.{kind}.confidence_logits"], f"{kind}.confidence_logits")
        for j, piece_anchor in enumerate(prompt.get("pieces_anchors", [])):
            at = sum(prompt["pieces"][: j + 1])
            h = model.block_hidden(context, torch.tensor([[piece_anchor]]), torch.tensor([[at]]))[0, 0]
            near(h, expected[f"{name}.piece{j}.block_hidden"], f"piece{j}")
