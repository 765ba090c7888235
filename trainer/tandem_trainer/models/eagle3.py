"""Eagle3: one layer that drafts token after token.

Row i pairs feature i with the token at index i + 1 at position i, and predicts index i + 2:

  g = fc F_i, or the output of the step before;  e = embedding of the token
  u = [RmsNorm(e) ; RmsNorm(g)];  out = layer(u) with residual g, causal;  logits = head RmsNorm(out)

Drafts behind `start` positions begin with the output of row start - 1, which pairs with the anchor.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from tandem_trainer.models.config import DraftConfig
from tandem_trainer.models.draft_model import NEVER, Choose, DraftModel
from tandem_trainer.models.layers import DraftLayer, joint_softmax


class Eagle3Context(NamedTuple):
    outputs: torch.Tensor  # [B, T, H]
    keys: torch.Tensor  # [B, T, kv heads, head_dim]
    values: torch.Tensor


class Eagle3(DraftModel):
    def __init__(self, config: DraftConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([DraftLayer(config)])

    def step(
        self,
        g: torch.Tensor,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        causal: tuple[torch.Tensor, torch.Tensor] | None,
        unseen: torch.Tensor | None,
        chain: list[tuple[torch.Tensor, torch.Tensor]],
    ):
        """Rows [B, N]: g [B, N, H], tokens, positions [B, N].

        causal: K, V [B, T, ..] of rows with real features, of which row n does not see those where unseen [B, N, T];
        None: the rows themselves. chain: K, V [B, N, ..] of the row's own earlier steps. Returns the output [B, N, H]
        and the rows' K, V.
        """
        layer, config = self.layers[0], self.config
        attention = layer.self_attn
        u = torch.cat([layer.input_layernorm(self.embed(tokens)), layer.hidden_norm(g)], -1)
        q = attention.queries(u, positions) * config.attention_scale  # [B, N, h, D]
        keys, values = attention.keys_values(u, positions)
        if causal is None:
            causal = (keys, values)
            n = tokens.shape[1]
            unseen = torch.ones(n, n, dtype=torch.bool, device=g.device).triu(1)[None]
        else:
            chain = [*chain, (keys, values)]
        context_keys, context_values = (attention.repeated(x) for x in causal)
        scores = [torch.einsum("bnhd,bthd->bnht", q, context_keys).masked_fill(unseen[:, :, None, :], NEVER)]
        scores += [(q * attention.repeated(k)).sum(-1, keepdim=True) for k, _ in chain]
        weights = joint_softmax(scores)
        attended = torch.einsum("bnht,bthd->bnhd", weights[0].to(context_values.dtype), context_values)
        for weight, (_, v) in zip(weights[1:], chain, strict=True):
            attended = attended + weight.to(v.dtype) * attention.repeated(v)
        return layer.after_attention(g, attended), (keys, values)

    def logits(self, out: torch.Tensor) -> torch.Tensor:
        """out [..., H] -> [..., R]."""
        return self.base_logits(self.norm(out))

    def context(self, features: torch.Tensor, ids: torch.Tensor) -> Eagle3Context:
        tokens = torch.cat([ids[:, 1:], ids[:, -1:]], 1)  # the last row pairs with nothing known and is not used
        positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
        out, (keys, values) = self.step(self.fc(features), tokens, positions, None, None, [])
        return Eagle3Context(out, keys, values)

    @torch.no_grad()
    def draft(self, context: Eagle3Context, rows, starts, anchors, choose: Choose):
        causal = (context.keys[rows], context.values[rows])
        out = context.outputs[rows, starts - 1][:, None]  # [N, 1, H]
        unseen = (torch.arange(causal[0].shape[1], device=starts.device) >= starts[:, None])[:, None]
        chain, drafts = [], []
        for k in range(self.config.block_size):
            column = choose(k, self.logits(out[:, 0]).float())
            drafts.append(self.draft_ids[column])
            if k + 1 < self.config.block_size:
                position = (starts + k)[:, None]
                out, own = self.step(out, drafts[-1][:, None], position, causal, unseen, chain)
                chain.append(own)
        return torch.stack(drafts, 1), None
