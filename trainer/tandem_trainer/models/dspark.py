"""DSpark, and DFlash, which is DSpark without heads.

For a block behind `start` context positions, whose rows C = RmsNorm(fc F) only give keys and values:

  block:  x = embedding of [anchor, mask, mask, ...] at positions start, start + 1, ...
          layer by layer; each slot sees the whole context before the anchor, and all slots
          h = RmsNorm(x);  base logits = head h
  draft k = drawn from base logits k + what draft k - 1 adds (heads.py), left to right
"""

from __future__ import annotations

import torch
from torch import nn

from tandem_trainer.models.config import DraftConfig
from tandem_trainer.models.draft_model import NEVER, Choose, DraftModel
from tandem_trainer.models.heads import ConfidenceHead, MarkovHead
from tandem_trainer.models.layers import DraftLayer, RmsNorm, joint_softmax

KeysValues = list[tuple[torch.Tensor, torch.Tensor]]  # per layer K, V [B, T, kv heads, head_dim]


class DSpark(DraftModel):
    def __init__(self, config: DraftConfig):
        super().__init__(config)
        self.hidden_norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.layers = nn.ModuleList(DraftLayer(config) for _ in range(config.num_layers))
        self.markov_head = MarkovHead(config) if config.markov_rank else None
        self.confidence_head = ConfidenceHead(config) if config.has_confidence else None

    def context_rows(self, features: torch.Tensor) -> torch.Tensor:
        """features [B, T, taps * H] -> C [B, T, H]."""
        return self.hidden_norm(self.fc(features))

    def context(self, features: torch.Tensor, ids: torch.Tensor | None = None) -> KeysValues:
        rows = self.context_rows(features)
        positions = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape[:2])
        return [layer.self_attn.keys_values(rows, positions) for layer in self.layers]

    def block_hidden(self, context: KeysValues, anchors: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """anchors, starts [B, A]: token and position of each block -> h [B, A, G, H]. A block sees context positions
        below its start."""
        g = self.config.block_size
        ids = torch.full((*anchors.shape, g), self.config.mask_token_id, device=anchors.device)
        ids[..., 0] = anchors
        positions = starts[..., None] + torch.arange(g, device=starts.device)
        x = self.embed(ids)
        length = context[0][0].shape[1]
        unseen = torch.arange(length, device=starts.device) >= starts[..., None]  # [B, A, T]
        unseen = unseen[:, None, :, None, :]  # [B, 1, A, 1, T]
        for layer, (keys, values) in zip(self.layers, context, strict=True):
            x = layer.after_attention(x, self._attend(layer, x, positions, keys, values, unseen))
        return self.norm(x)

    def _attend(self, layer: DraftLayer, x, positions, keys, values, unseen) -> torch.Tensor:
        """-> [B, A, G, heads, head_dim]. In equations c is a KV head, r numbers the query heads that read it."""
        attention, config = layer.self_attn, self.config
        normed = layer.input_layernorm(x)
        q = attention.queries(normed, positions)
        q = q.unflatten(-2, (config.num_kv_heads, config.num_heads // config.num_kv_heads)) * config.attention_scale
        own_keys, own_values = attention.keys_values(normed, positions)
        q, keys, values = q.to(own_keys.dtype), keys.to(own_keys.dtype), values.to(own_values.dtype)
        batch, anchors, g = x.shape[:3]
        # [B, c, A*G*r, D] x [B, c, D, T]: one matrix product for all rows of a sequence.
        flat = q.permute(0, 3, 1, 2, 4, 5).reshape(batch, config.num_kv_heads, -1, config.head_dim)
        repeats = config.num_heads // config.num_kv_heads
        outside = (flat @ keys.permute(0, 2, 3, 1)).view(batch, config.num_kv_heads, anchors, g * repeats, -1)
        outside = outside.masked_fill(unseen, NEVER)
        inside = torch.einsum("bagcrd,bahcd->bcagrh", q, own_keys).reshape(*outside.shape[:-1], g)
        outside, inside = joint_softmax([outside, inside])
        outside = outside.to(values.dtype).view(batch, config.num_kv_heads, anchors * g * repeats, -1)
        seen = outside @ values.transpose(1, 2)
        seen = seen.view(batch, config.num_kv_heads, anchors, g, repeats, config.head_dim).permute(0, 2, 3, 1, 4, 5)
        inside = inside.to(values.dtype).view(batch, config.num_kv_heads, anchors, g, repeats, g)
        own = torch.einsum("bcagrh,bahcd->bagcrd", inside, own_values)
        return (seen + own).flatten(-3, -2)

    def teacher_forced(self, h: torch.Tensor, previous: torch.Tensor):
        """h [..., G, H], previous tokens [..., G] -> latents [..., G, r], confidence logits [..., G]; None without."""
        w = self.markov_head.markov_w1(previous) if self.markov_head is not None else None
        latents = self.markov_head.latents(w, h) if w is not None else None
        confidence = self.confidence_head(h, w) if self.confidence_head is not None else None
        return latents, confidence

    def logits(self, h: torch.Tensor, latents: torch.Tensor | None) -> torch.Tensor:
        """Z [..., R]: base logits and what the sequential head adds. With markov_top_k, the others are -inf."""
        base = self.base_logits(h)
        if latents is None:
            return base
        if not self.markov_top_k or self.markov_top_k >= base.shape[-1]:
            return base + self.markov_head.markov_w2(latents)
        top, ids = base.topk(self.markov_top_k, dim=-1)
        bias = torch.einsum("...kr,...r->...k", self.markov_head.markov_w2.weight[ids].to(latents.dtype), latents)
        return torch.full_like(base, NEVER).scatter(-1, ids, (top + bias).to(base.dtype))

    @torch.no_grad()
    def draft(self, context: KeysValues, rows, starts, anchors, choose: Choose):
        chosen = [(keys[rows], values[rows]) for keys, values in context]
        h = self.block_hidden(chosen, anchors[:, None], starts[:, None])[:, 0]  # [N, G, H]
        return self.draw(h, anchors, choose)

    @torch.no_grad()
    def draw(self, h: torch.Tensor, anchors: torch.Tensor, choose: Choose):
        """The sequential part of draft()."""
        previous, drafts, confidences = anchors, [], []
        state = self.markov_head.first_state(h[:, 0]) if self.markov_head is not None else None
        for k in range(self.config.block_size):
            latent = w = None
            if self.markov_head is not None:
                w = self.markov_head.markov_w1(previous)
                latent, state = self.markov_head.step(w, h[:, k], state)
            if self.confidence_head is not None:
                confidences.append(self.confidence_head(h[:, k], w))
            previous = self.draft_ids[choose(k, self.logits(h[:, k], latent).float())]
            drafts.append(previous)
        return torch.stack(drafts, 1), torch.stack(confidences, 1) if confidences else None
