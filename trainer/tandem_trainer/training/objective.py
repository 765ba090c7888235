"""What one micro-batch contributes: the loss's parts as sums, and their weight."""

from __future__ import annotations

import dataclasses
import math

import torch

from tandem_trainer.models.config import EAGLE3
from tandem_trainer.models.draft_model import DraftModel
from tandem_trainer.recipe import TrainingOptions
from tandem_trainer.training.anchors import draw_anchors, make_blocks
from tandem_trainer.training.batches import Batch
from tandem_trainer.training.eagle3_loss import eagle3_loss, eagle3_steps
from tandem_trainer.training.losses import (
    BlockTerms,
    block_loss,
    block_terms,
    draw_vocabulary,
    expected_accepted_length,
)


@dataclasses.dataclass
class Result:
    loss: torch.Tensor  # to call backward on
    parts: dict[str, float]  # for logs
    acceptance: list[float]  # teacher-forced, by position
    tau: float  # estimate
    labels: int


class Objective:
    """target_head [V, H]: the target's own, frozen. `frequent`: columns by falling frequency."""

    def __init__(
        self,
        model: DraftModel,
        target_head: torch.Tensor,
        frequent: torch.Tensor,
        options: TrainingOptions,
        device: torch.device,
    ):
        self.model, self.target_head, self.options, self.device = model, target_head, options, device
        self.frequent = frequent[: options.frequent]
        self.sampled = options.frequent + options.random > 0
        self.weights = options.loss_weights()
        if model.config.name == "dflash":
            self.weights = dataclasses.replace(self.weights, cross_entropy=1.0, l1=0.0, confidence=0.0)
        inside = torch.zeros(len(target_head), dtype=torch.bool)
        inside[model.draft_ids.cpu()] = True
        self.outside = (~inside).nonzero()[:, 0]

    def _target_logits(self, last: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
        """last [n, H] -> [n, columns]; ids: target ids of the columns, None: all."""
        head = self.target_head if ids is None else self.target_head[ids]
        logits = last.to(head.dtype) @ head.T
        cap = self.model.config.logit_softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    def __call__(self, batch: Batch, generator: torch.Generator, total_weight=None) -> Result:
        """total_weight(w): the sum of all ranks' weights w, before the loss is divided by it."""
        ids, mask = batch.ids.to(self.device), batch.loss_mask.to(self.device)
        features, last = batch.states.features.to(self.device), batch.states.last.to(self.device)
        if self.device.type == "cpu":
            features, last = features.float(), last.float()
        if self.model.config.algorithm == EAGLE3:
            return self._eagle3(batch, ids, mask, features, last)
        return self._blocks(batch, ids, mask, features, last, generator, total_weight)

    def _blocks(self, batch, ids, mask, features, last, generator, total_weight) -> Result:
        model, options = self.model, self.options
        anchors, keep = draw_anchors(batch.loss_mask, options.anchors, generator)
        blocks = make_blocks(ids, mask, anchors.to(self.device), keep.to(self.device), model.config.block_size)
        h = model.block_hidden(model.context(features), blocks.previous[..., 0], blocks.anchors)
        latents, confidence = model.teacher_forced(h, blocks.previous)
        valid = blocks.valid
        positions = blocks.anchors[..., None] + torch.arange(model.config.block_size, device=self.device)
        rows = torch.arange(len(ids), device=self.device)[:, None, None]
        last = last[rows, positions.clamp_max(ids.shape[1] - 1)][valid]
        h, latents = h[valid], None if latents is None else latents[valid]
        column_of = torch.full((model.config.vocab_size,), -1, device=self.device)
        column_of[model.draft_ids] = torch.arange(len(model.draft_ids), device=self.device)
        labels = column_of[blocks.labels[valid]]
        vocabulary = None
        if self.sampled:
            known = labels[labels >= 0].cpu()
            vocabulary = draw_vocabulary(model.config.num_draft_tokens, self.frequent, options.random, known, generator)
            vocabulary = dataclasses.replace(
                vocabulary,
                columns=vocabulary.columns.to(self.device),
                log_scale=vocabulary.log_scale.to(self.device),
                position=vocabulary.position.to(self.device),
            )
            labels = torch.where(labels >= 0, vocabulary.position[labels.clamp_min(0)], labels)
        draft_logits, target_logits, target_mass = self._logits(h, latents, last, vocabulary, generator)
        terms = block_terms(
            blocks,
            draft_logits,
            target_logits,
            labels,
            confidence,
            self.weights.decay,
            vocabulary=vocabulary,
            target_mass=target_mass,
            with_l1=self.weights.l1 > 0,
            rows_at_once=options.rows_at_once,
        )
        total = terms.weight if total_weight is None else total_weight(terms.weight)
        loss = block_loss(terms, self.weights, total)
        return self._block_result(loss, terms, valid)

    def _logits(self, h, latents, last, vocabulary, generator):
        model = self.model
        if vocabulary is None:
            whole = len(self.outside) == 0
            ids = None if whole else model.draft_ids

            def mass(i):
                return self._target_logits(last[i], None).float().logsumexp(-1)

            return (
                lambda i: model.logits(h[i], None if latents is None else latents[i]),
                lambda i: self._target_logits(last[i], ids),
                None if whole else mass,
            )
        head, columns = model.lm_head.weight[vocabulary.columns], vocabulary.columns
        w2 = None if latents is None else model.markov_head.markov_w2.weight[columns]
        cap = model.config.logit_softcap
        ids, mass = model.draft_ids[columns], None

        def draft(i):
            logits = torch.nn.functional.linear(h[i], head.to(h.dtype))
            logits = cap * torch.tanh(logits / cap) if cap else logits
            return logits if w2 is None else logits + torch.nn.functional.linear(latents[i], w2)

        if len(self.outside):
            picked = torch.randperm(len(self.outside), generator=generator)[: max(self.options.random, 1)]
            outside = self.outside[picked].to(self.device)
            share = math.log(len(self.outside) / len(picked))

            def mass(i):
                inner = self._target_logits(last[i], ids).float() + vocabulary.log_scale
                outer = self._target_logits(last[i], outside).float() + share
                return torch.cat([inner, outer], -1).logsumexp(-1)

        return draft, lambda i: self._target_logits(last[i], ids), mass

    def _block_result(self, loss: torch.Tensor, terms: BlockTerms, valid: torch.Tensor) -> Result:
        weight = terms.weight.item() + 1e-6
        parts = {"cross_entropy": terms.cross_entropy.item() / weight}
        if self.weights.l1 > 0:
            parts["l1"] = terms.l1.item() / weight
        if self.weights.confidence > 0 and self.model.config.has_confidence:
            parts["confidence"] = terms.confidence.item() / weight
        counts = valid.flatten(0, 1).sum(0).clamp_min(1)
        acceptance = (terms.acceptance.flatten(0, 1).sum(0) / counts).tolist()
        return Result(
            loss, parts, acceptance, expected_accepted_length(terms.acceptance, valid).item(), int(valid.sum())
        )

    def _eagle3(self, batch, ids, mask, features, last) -> Result:
        model = self.model
        target_ids = None if len(self.outside) == 0 else model.draft_ids
        with torch.no_grad():
            target_logits = self._target_logits(last, target_ids)
        losses, acceptance, _ = eagle3_steps(
            model, features, ids, mask, batch.lengths, target_logits, model.config.block_size
        )
        loss = eagle3_loss(losses, float(model.config.raw.get("step_loss_decay", 0.8)))
        return Result(
            loss,
            {"cross_entropy": losses[0].item()},
            acceptance.tolist(),
            (1 + acceptance.cumprod(0).sum()).item(),
            int(mask.sum()),
        )
