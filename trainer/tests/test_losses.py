"""Sums over a part of the vocabulary: exact where the part is all, right on average where it is a sample."""

import torch

from tandem_trainer.training.anchors import make_blocks
from tandem_trainer.training.losses import block_terms, draw_vocabulary

V, N = 60, 12


def case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, V, (1, N + 8), generator=generator)
    blocks = make_blocks(ids, torch.ones_like(ids), torch.arange(N)[None], torch.ones(1, N).bool(), 1)
    draft = 2 * torch.randn(N, V, generator=generator)
    target = 2 * torch.randn(N, V, generator=generator)
    return blocks, draft, target


def terms(blocks, draft, target, vocabulary=None, **more):
    columns = torch.arange(V) if vocabulary is None else vocabulary.columns
    labels = blocks.labels[blocks.valid]
    labels = labels if vocabulary is None else vocabulary.position[labels]
    return block_terms(blocks, lambda i: draft[i][:, columns], lambda i: target[i][:, columns], labels,
                       torch.zeros(blocks.valid.shape), 4.0, vocabulary=vocabulary, **more)  # fmt: skip


def test_a_sample_of_everything_is_exact():
    blocks, draft, target = case()
    vocabulary = draw_vocabulary(V, torch.arange(20), V, blocks.labels.flatten(), torch.Generator().manual_seed(1))
    assert sorted(vocabulary.columns.tolist()) == list(range(V))
    exact, found = terms(blocks, draft, target), terms(blocks, draft, target, vocabulary)
    for name in ("cross_entropy", "l1", "confidence", "weight", "acceptance"):
        torch.testing.assert_close(getattr(found, name), getattr(exact, name), rtol=1e-5, atol=1e-5)


def test_a_sample_is_right_on_average():
    blocks, draft, target = case()
    exact, sums = terms(blocks, draft, target), torch.zeros(2)
    frequent = (draft.exp().sum(0) + target.exp().sum(0)).argsort(descending=True)[:20]
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        found = terms(blocks, draft, target, draw_vocabulary(V, frequent, 20, blocks.labels.flatten(), generator))
        sums += torch.stack([found.cross_entropy, found.l1])
    # Normalising by a sampled sum has a bias of second order; a forgotten importance weight is off by a tenth and more.
    torch.testing.assert_close(sums / 400, torch.stack([exact.cross_entropy, exact.l1]), rtol=0.03, atol=0)


def test_what_the_drafter_cannot_draw_counts_as_missed():
    """A draft vocabulary of the first 40: the target's mass beyond is lost acceptance, labels there have no CE."""
    blocks, draft, target = case()
    draft = draft[:, :40]
    labels = blocks.labels[blocks.valid]
    columns = torch.where(labels < 40, labels, -1)
    found = block_terms(blocks, lambda i: draft[i], lambda i: target[i, :40], columns, None, 4.0,
                        target_mass=lambda i: target[i].logsumexp(-1))  # fmt: skip
    p, q = torch.softmax(target, -1), torch.softmax(draft, -1)
    expected = torch.minimum(p[:, :40], q).sum(-1)
    torch.testing.assert_close(found.acceptance[blocks.valid], expected, rtol=1e-5, atol=1e-6)
    known = columns >= 0
    assert 0 < known.sum() < N
    own = -q[known].log().gather(-1, columns[known, None]).sum()
    torch.testing.assert_close(found.cross_entropy, own)
