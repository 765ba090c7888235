"""What DSpark and Eagle3 have in common: frozen vocabulary matrices, the draft vocabulary, drafting."""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch
from torch import nn

from tandem_trainer.models.config import DraftConfig
from tandem_trainer.models.layers import RmsNorm

# (k, logits [N, R] f32 of draft k for N sequences, in columns of the draft vocabulary) -> column indices [N].
Choose = Callable[[int, torch.Tensor], torch.Tensor]
NEVER = float("-inf")


class DraftModel(nn.Module, abc.ABC):
    """embed_tokens and lm_head are the target's and never trained. Columns of logits are draft tokens: the target id
    of column i is draft_ids[i]; without a reduced vocabulary they are the same."""

    def __init__(self, config: DraftConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.num_draft_tokens, bias=False)
        self.embed_tokens.requires_grad_(False)
        self.lm_head.requires_grad_(False)
        self.fc = nn.Linear(len(config.taps) * config.hidden_size, config.hidden_size, bias=False)
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.register_buffer("draft_ids", torch.arange(config.num_draft_tokens), persistent=False)
        self.markov_top_k = 0  # the sequential head scores only so many of the best; 0: all

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.embed_tokens(ids) * self.config.embedding_scale

    def base_logits(self, h: torch.Tensor) -> torch.Tensor:
        """h [..., H] -> [..., R]."""
        logits = self.lm_head(h)
        cap = self.config.logit_softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    def set_draft_ids(self, ids: torch.Tensor) -> None:
        """ids [R]: target id of each column."""
        self.draft_ids = ids.to(self.draft_ids.device, torch.long)

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    @abc.abstractmethod
    def context(self, features: torch.Tensor, ids: torch.Tensor):
        """Of whole texts: features [B, T, taps * H] of ids [B, T], of which drafting at `start` sees what lies before.

        What comes back is passed to draft().
        """

    @abc.abstractmethod
    def draft(
        self, context, rows: torch.Tensor, starts: torch.Tensor, anchors: torch.Tensor, choose: Choose
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One round of N sequences: rows [N] of the context's batch, behind `starts` [N] positions, with the tokens
        `anchors` [N] there. Returns drafts (target ids) [N, G] and confidence logits [N, G] or None."""
