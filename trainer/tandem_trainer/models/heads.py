"""DSpark's sequential head: what the previous token adds to a position's base logits; and the confidence head.

With w = W1[previous], h the position's hidden state, s the state of the rnn type (0 at first):
  vanilla   l = w
  gated     l = sigmoid(G [h ; w] + b) * w
  rnn       (g, c, o) = J [s ; w ; h] + b;  l = tanh(o);  s' = sigmoid(g) * s + (1 - sigmoid(g)) * tanh(c)
  logits    = base + W2 l
  confidence logit = a . [h ; w] + b, or a . h + b
"""

from __future__ import annotations

import torch
from torch import nn

from tandem_trainer.models.config import DraftConfig


class MarkovHead(nn.Module):
    def __init__(self, config: DraftConfig):
        super().__init__()
        rank, hidden = config.markov_rank, config.hidden_size
        self.type, self.rank = config.markov_type, rank
        self.markov_w1 = nn.Embedding(config.vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, config.num_draft_tokens, bias=False)
        if self.type == "gated":
            self.gate_proj = nn.Linear(hidden + rank, rank)
        elif self.type == "rnn":
            self.joint_proj = nn.Linear(2 * rank + hidden, 3 * rank)

    def first_state(self, like: torch.Tensor) -> torch.Tensor | None:
        """For hidden states like [..., H]."""
        return like.new_zeros(*like.shape[:-1], self.rank) if self.type == "rnn" else None

    def step(self, w: torch.Tensor, h: torch.Tensor, state: torch.Tensor | None):
        """w [..., r], h [..., H] -> latent [..., r] and the next state. Any leading dimensions."""
        if self.type == "vanilla":
            return w, state
        if self.type == "gated":
            return torch.sigmoid(self.gate_proj(torch.cat([h, w.to(h.dtype)], -1))) * w, state
        g, c, o = self.joint_proj(torch.cat([state, w.to(h.dtype), h], -1)).chunk(3, -1)
        keep = torch.sigmoid(g)
        return torch.tanh(o), keep * state + (1 - keep) * torch.tanh(c)

    def latents(self, w: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Teacher-forced: w [..., G, r], h [..., G, H] -> [..., G, r]."""
        if self.type != "rnn":
            return self.step(w, h, None)[0]
        state, result = self.first_state(h[..., 0, :]), []
        for k in range(h.shape[-2]):
            latent, state = self.step(w[..., k, :], h[..., k, :], state)
            result.append(latent)
        return torch.stack(result, -2)


class ConfidenceHead(nn.Module):
    def __init__(self, config: DraftConfig):
        super().__init__()
        self.with_markov = config.confidence_with_markov
        self.proj = nn.Linear(config.hidden_size + (config.markov_rank if self.with_markov else 0), 1)

    def forward(self, h: torch.Tensor, w: torch.Tensor | None) -> torch.Tensor:
        """h [..., H], w [..., r] -> confidence logits [...], f32."""
        inputs = torch.cat([h, w.to(h.dtype)], -1) if self.with_markov else h
        return self.proj(inputs)[..., 0].float()
