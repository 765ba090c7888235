"""Loss parts and gradients of the golden training batches."""

import numpy
import pytest
import safetensors.torch
import torch
from conftest import golden_dir, read_json, walk

from tandem_trainer.formats.checkpoint import load_drafter
from tandem_trainer.training.anchors import candidates, draw_anchors, make_blocks
from tandem_trainer.training.eagle3_loss import eagle3_loss, eagle3_steps
from tandem_trainer.training.losses import LossWeights, block_loss, block_terms

LOSS, GRADIENT = 1e-5, 1e-4


def batch_of(case):
    batch = safetensors.torch.load_file(case / "batch.safetensors")
    return {name: value.long() if value.dtype in (torch.int32, torch.uint8) else value for name, value in batch.items()}


def check_gradients(model, batch):
    parameters, checked = dict(model.named_parameters()), 0
    for name, expected in batch.items():
        if not name.startswith("grad."):
            continue
        found = parameters[name.removeprefix("grad.")].grad
        assert (found - expected).abs().max() <= GRADIENT * expected.abs().max(), name
        checked += 1
    assert checked > 0


@pytest.mark.parametrize("case", walk("training", "facts.json"), ids=lambda case: case.name)
def test_losses_and_gradients(case):
    facts, batch = read_json(case / "facts.json"), batch_of(case)
    model = load_drafter(case / "drafter")
    with torch.no_grad():
        target_logits = model.base_logits(batch["target_last_hidden_states"])
    if model.config.name == "eagle3":
        lengths = torch.full((len(batch["input_ids"]),), batch["input_ids"].shape[1])
        losses, _, logits = eagle3_steps(
            model,
            batch["target_hidden_states"],
            batch["input_ids"],
            batch["loss_mask"],
            lengths,
            target_logits,
            facts["ttt_length"],
            keep_logits=True,
        )
        numpy.testing.assert_allclose([loss.item() for loss in losses], facts["step_losses"], rtol=LOSS)
        for name in batch:
            if name.endswith(".draft_logits"):
                step = int(name.removeprefix("step").split(".")[0])
                rows = batch[name].shape[1] - step  # later ones are past the end and count nowhere
                numpy.testing.assert_allclose(
                    logits[step][:, :rows].detach(), batch[name][:, :rows], atol=1e-4, rtol=1e-4
                )
        total = eagle3_loss(losses, facts["step_loss_decay"])
        numpy.testing.assert_allclose(total.item(), facts["loss"], rtol=LOSS)
        total.backward()
        check_gradients(model, batch)
        return
    blocks = make_blocks(
        batch["input_ids"],
        batch["loss_mask"],
        batch["anchor_positions"],
        batch["anchor_keep"].bool(),
        model.config.block_size,
    )
    assert torch.equal(blocks.valid, batch["valid"].bool())
    assert torch.equal(blocks.labels[blocks.valid], batch["label_ids"][blocks.valid])
    context = model.context(batch["target_hidden_states"])
    h = model.block_hidden(context, blocks.previous[..., 0], blocks.anchors)
    latents, confidence = model.teacher_forced(h, blocks.previous)
    logits = model.logits(h, latents)
    kept = blocks.keep
    numpy.testing.assert_allclose(logits[kept].detach(), batch["draft_logits"][kept], atol=1e-4, rtol=1e-4)
    if confidence is not None and "confidence_logits" in batch:
        numpy.testing.assert_allclose(confidence[kept].detach(), batch["confidence_logits"][kept], atol=1e-4, rtol=1e-4)
    rows = torch.arange(len(h))[:, None, None]
    at = (blocks.anchors[..., None] + torch.arange(model.config.block_size)).clamp_max(batch["input_ids"].shape[1] - 1)
    valid = blocks.valid
    weights = LossWeights(
        facts["ce_loss_alpha"], facts["l1_loss_alpha"], facts["confidence_head_alpha"], facts["loss_decay_gamma"]
    )
    targets = target_logits[rows, at][valid]
    # In pieces, as training computes it where the vocabulary is large.
    terms = block_terms(
        blocks,
        lambda i: logits[valid][i],
        lambda i: targets[i],
        blocks.labels[valid],
        confidence,
        weights.decay,
        with_l1=weights.l1 > 0,
        rows_at_once=50,
    )
    numpy.testing.assert_allclose(terms.weight.item(), facts["weight_sum"], rtol=LOSS)
    scale = terms.weight + 1e-6
    for name, part in (("cross_entropy", terms.cross_entropy), ("l1", terms.l1), ("confidence", terms.confidence)):
        if facts[name] is not None:
            numpy.testing.assert_allclose((part / scale).item(), facts[name], rtol=LOSS, err_msg=name)
    if weights.l1 > 0:
        numpy.testing.assert_allclose(terms.acceptance[valid], batch["confidence_targets"][valid], atol=1e-5)
    loss = block_loss(terms, weights, terms.weight)
    numpy.testing.assert_allclose(loss.item(), facts["loss"], rtol=LOSS)
    loss.backward()
    check_gradients(model, batch)
    norm = torch.stack([p.grad.norm() for p in model.trained().values() if p.grad is not None]).norm()
    numpy.testing.assert_allclose(norm.item(), facts["gradient_norm"], rtol=1e-4)
    without = sorted(name for name, p in model.named_parameters() if p.grad is None)
    assert without == sorted(facts["parameters_without_gradient"])


def test_anchors():
    told = read_json(golden_dir() / "drafters/training/anchors.json")["cases"]
    assert told
    for case in told:
        mask = torch.tensor([[int(c) for c in case["loss_mask"]]])
        assert candidates(mask)[0].nonzero()[:, 0].tolist() == case["candidates"]
        anchors, keep = draw_anchors(mask, case["num_anchors"], torch.Generator().manual_seed(1))
        drawn = anchors[keep].tolist()
        assert drawn == sorted(set(drawn)) and set(drawn) <= set(case["candidates"])
        assert len(drawn) == min(len(case["candidates"]), case["num_anchors"]) == sum(case["kept"])
        example, kept = torch.tensor([case["example_draw"]]), torch.tensor([case["kept"]]).bool()
        blocks = make_blocks(torch.zeros_like(mask), mask, example, kept, case["block_size"])
        assert blocks.valid[0].sum(-1).tolist() == case["valid_labels"]
