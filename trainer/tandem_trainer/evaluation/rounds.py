"""Rounds of drafting and acceptance, played over texts that the target wrote before.

The target's text does not depend on drafts, so it is generated once, its hidden states are computed in one pass, and
all texts are then drafted in lock-step: nothing of the target runs between rounds. That is exact for every rule:

  greedy, match   drafts are argmax; accepted while they equal the text
  coup            drafts are drawn with the text's own noise; accepted while they equal it
  rej             the text's token y has law p; given y, the rejection rule accepted a draft of law q with probability
                  min(1, q(y) / p(y)), and then the draft was y; else the draft has the law max(q - p, 0), normalised.
                  q keeps its top_m tokens, as the drafter in service does.

A round is left out where the limit of tokens, not an end token, cuts the text within its block.
"""

from __future__ import annotations

import dataclasses

import torch

from tandem_trainer.errors import UserError
from tandem_trainer.evaluation.texts import TextBatch
from tandem_trainer.models.draft_model import DraftModel
from tandem_trainer.sampling import COUPLED, choose_coupled, gumbel

TOP_M = 64


@dataclasses.dataclass(frozen=True)
class Setting:
    """ "greedy", "coup:T", "rej:T" or "match:T" (the drafter's argmax, the target samples)."""

    rule: str
    temperature: float

    @staticmethod
    def parse(text: str) -> Setting:
        rule, _, number = text.partition(":")
        if text == "greedy":
            return Setting("greedy", 0.0)
        try:
            temperature = float(number)
        except ValueError:
            temperature = -1.0
        if rule not in ("coup", "rej", "match") or not 0 < temperature <= 2:
            raise UserError(f"setting {text!r}: expected greedy, or coup:T, rej:T or match:T with T above 0 up to 2")
        return Setting(rule, temperature)

    @property
    def name(self) -> str:
        return self.rule if self.rule == "greedy" else f"{self.rule}:{self.temperature:g}"

    @property
    def key(self) -> str:
        """As calibration.json has it: T with a decimal point."""
        return self.rule if self.rule == "greedy" else f"{self.rule}:{self.temperature}"


@dataclasses.dataclass
class Rounds:
    """One row a round."""

    proposed: torch.Tensor  # [R]: drafts checked; up to an end token that was accepted
    accepted: torch.Tensor  # [R]
    ended: torch.Tensor  # [R] bool: by an accepted end token, so without a token of the target's own
    confidence: torch.Tensor  # [R, G] logits; empty without a confidence head
    category: list[str]
    prompt: torch.Tensor  # [R]: which prompt

    @staticmethod
    def join(parts: list[Rounds]) -> Rounds:
        return Rounds(
            *(torch.cat([getattr(p, name) for p in parts]) for name in ("proposed", "accepted", "ended", "confidence")),
            [c for p in parts for c in p.category],
            torch.cat([p.prompt for p in parts]),
        )

    def of(self, category: str) -> Rounds:
        rows = torch.tensor([i for i, c in enumerate(self.category) if c == category], dtype=torch.long)
        return Rounds(
            self.proposed[rows],
            self.accepted[rows],
            self.ended[rows],
            self.confidence[rows],
            [category] * len(rows),
            self.prompt[rows],
        )

    def lengths(self) -> torch.Tensor:
        """Tokens of each round, the target's own included."""
        return self.accepted + (~self.ended).long()


class _Chooser:
    """Draws drafts for N rows; remembers which of the rejection rule's stand."""

    def __init__(
        self,
        setting: Setting,
        model: DraftModel,
        batch: TextBatch,
        head: torch.Tensor,
        rows,
        starts,
        generator: torch.Generator,
    ):
        self.setting, self.model, self.batch, self.head = setting, model, batch, head
        self.rows, self.starts, self.generator = rows, starts, generator
        self.alive = torch.ones(len(rows), dtype=torch.bool)  # rejection: all drafts so far were accepted
        self.accepted = torch.zeros(len(rows), dtype=torch.long)
        self.column_of = torch.full((model.config.vocab_size,), -1, device=model.draft_ids.device)
        self.column_of[model.draft_ids] = torch.arange(len(model.draft_ids), device=model.draft_ids.device)

    def __call__(self, k: int, logits: torch.Tensor) -> torch.Tensor:
        setting = self.setting
        if setting.rule in ("greedy", "match"):
            return logits.argmax(-1)
        index = self.starts + 1 + k
        if setting.rule == "coup":
            seeds = [self.batch.texts[r].prompt.seed for r in self.rows.tolist()]
            noise = gumbel(seeds, index.to(logits.device), COUPLED, self.model.config.vocab_size)
            return choose_coupled(logits, noise[:, self.model.draft_ids], setting.temperature)
        return self._rejection(index, logits)

    def _rejection(self, index: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        temperature, device = self.setting.temperature, logits.device
        top, columns = (logits / temperature).topk(min(TOP_M, logits.shape[-1]), -1)
        q = torch.zeros_like(logits).scatter(-1, columns, torch.softmax(top, -1))
        inside = index < self.batch.ids.shape[1]
        at = index.clamp_max(self.batch.ids.shape[1] - 1)
        last = self.batch.last[self.rows, at - 1].to(device)
        raw = last.to(self.head.dtype) @ self.head.T
        cap = self.model.config.logit_softcap
        raw = cap * torch.tanh(raw / cap) if cap else raw
        p_all = torch.softmax(raw.float() / temperature, -1)
        p = p_all[:, self.model.draft_ids]
        token = self.batch.ids[self.rows, at].to(device)
        column = self.column_of[token]
        q_token = torch.where(column >= 0, q.gather(-1, column.clamp_min(0)[:, None])[:, 0], torch.zeros_like(q[:, 0]))
        p_token = p_all.gather(-1, token[:, None])[:, 0]
        u = torch.rand(len(token), generator=self.generator).to(device)
        stands = (u < (q_token / p_token.clamp_min(1e-12)).clamp(max=1)) & inside.to(device)
        residual = (q - p).clamp_min(0)
        usable = residual.sum(-1, keepdim=True) > 1e-8
        # Behind a rejected draft, and past the text's end, drafts are the drafter's own.
        law = torch.where(usable & self.alive.to(device)[:, None] & inside.to(device)[:, None], residual, q)
        drawn = torch.multinomial(law.cpu(), 1, generator=self.generator)[:, 0].to(device)
        stands = stands & self.alive.to(device) & (column >= 0)
        self.alive = stands.cpu()
        self.accepted += self.alive.long()
        return torch.where(stands, column.clamp_min(0), drawn)


@torch.no_grad()
def play_rounds(
    model: DraftModel, batch: TextBatch, setting: Setting, head: torch.Tensor, first_prompt: int = 0, seed: int = 0
) -> Rounds:
    """All rounds of a batch of texts. head [V, H]: the target's, for the rejection rule."""
    device = model.fc.weight.device
    context = model.context(batch.features.to(device), batch.ids.to(device))
    generator = torch.Generator().manual_seed(seed)
    block = model.config.block_size
    starts = torch.tensor([text.start for text in batch.texts])
    lengths = torch.tensor([len(text.ids) for text in batch.texts])
    ended_texts = torch.tensor([text.ended for text in batch.texts])
    found: list[Rounds] = []
    while True:
        remaining = lengths - 1 - starts  # tokens behind the anchor
        rows = ((remaining >= 1) & (ended_texts | (remaining > block))).nonzero()[:, 0]
        if not len(rows):
            break
        anchors = batch.ids[rows, starts[rows]]
        choose = _Chooser(setting, model, batch, head, rows, starts[rows], generator)
        drafts, confidence = model.draft(context, rows.to(device), starts[rows].to(device), anchors.to(device), choose)
        drafts = drafts.cpu()
        if setting.rule == "rej":
            accepted = choose.accepted
        else:
            places = (starts[rows, None] + 1 + torch.arange(block)).clamp_max(batch.ids.shape[1] - 1)
            equal = drafts == batch.ids[rows[:, None], places]
            equal &= torch.arange(block) < remaining[rows, None]
            accepted = equal.long().cumprod(-1).sum(-1)
        at_end = accepted >= remaining[rows]  # only texts that end by themselves get here: the end token was accepted
        accepted = torch.minimum(accepted, remaining[rows])
        proposed = torch.where(at_end, accepted, torch.full_like(accepted, block))
        found.append(
            Rounds(
                proposed,
                accepted,
                at_end,
                confidence.cpu() if confidence is not None else torch.zeros(len(rows), 0),
                [batch.texts[r].prompt.category for r in rows.tolist()],
                rows + first_prompt,
            )
        )
        starts[rows] += accepted + 1
    if not found:
        empty = torch.zeros(0, dtype=torch.long)
        width = block if model.config.has_confidence else 0
        return Rounds(empty, empty, empty.bool(), torch.zeros(0, width), [], empty)
    return Rounds.join(found)
