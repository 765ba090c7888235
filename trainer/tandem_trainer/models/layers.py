"""What all draft layers are made of, in the styles of Qwen3 and Gemma 4.

Norms, angles and softmax are computed in f32 whatever the model's type, as the C++ drafter does. Shapes: B sequences,
T context positions, A anchors a sequence, G = block size; heads come before positions only inside attention.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tandem_trainer.models.config import EAGLE3, GEMMA4, DraftConfig


class RmsNorm(nn.Module):
    """w * x / sqrt(mean(x^2) + eps) over the last dimension; without w where `weight` is false."""

    def __init__(self, size: int, eps: float, weight: bool = True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size)) if weight else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        if self.weight is not None:
            wide = wide * self.weight.float()
        return wide.to(x.dtype)


class Rotary(nn.Module):
    """Rotates pairs (j, j + head_dim/2) of x [..., heads, head_dim] at `positions` [...]."""

    def __init__(self, config: DraftConfig):
        super().__init__()
        frequencies = torch.tensor(config.rope.inverse_frequencies(config.head_dim), dtype=torch.float64)
        self.register_buffer("frequencies", frequencies.float(), persistent=False)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        angles = positions.float()[..., None, None] * self.frequencies.float()
        cos, sin = angles.cos(), angles.sin()
        low, high = x.float().chunk(2, dim=-1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1).to(x.dtype)


class Mlp(nn.Module):
    def __init__(self, config: DraftConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.gelu = config.style == GEMMA4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.gate_proj(x)
        gate = functional.gelu(gate, approximate="tanh") if self.gelu else functional.silu(gate)
        return self.down_proj(gate * self.up_proj(x))


class Attention(nn.Module):
    """Projections of one layer; who sees whom is the caller's."""

    def __init__(self, config: DraftConfig):
        super().__init__()
        inputs = config.hidden_size * (2 if config.algorithm == EAGLE3 else 1)
        self.config = config
        self.q_proj = nn.Linear(inputs, config.num_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(inputs, config.num_kv_heads * config.head_dim, bias=False)
        if not config.value_is_key:
            self.v_proj = nn.Linear(inputs, config.num_kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_heads * config.head_dim, config.hidden_size, bias=False)
        self.q_norm = RmsNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RmsNorm(config.head_dim, config.rms_norm_eps)
        self.v_norm = RmsNorm(config.head_dim, config.rms_norm_eps, weight=False) if config.style == GEMMA4 else None
        self.rotary = Rotary(config)

    def queries(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """x [..., inputs] -> [..., heads, head_dim]."""
        heads = self.q_proj(x).unflatten(-1, (self.config.num_heads, self.config.head_dim))
        return self.rotary(self.q_norm(heads), positions)

    def keys_values(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [..., inputs] -> K after norm and rotation, V; both [..., kv heads, head_dim]."""
        split = (self.config.num_kv_heads, self.config.head_dim)
        raw_keys = self.k_proj(x).unflatten(-1, split)
        values = raw_keys if self.config.value_is_key else self.v_proj(x).unflatten(-1, split)
        if self.v_norm is not None:
            values = self.v_norm(values)
        return self.rotary(self.k_norm(raw_keys), positions), values

    def repeated(self, x: torch.Tensor) -> torch.Tensor:
        """[..., kv heads, head_dim] -> [..., heads, head_dim]: each serves consecutive query heads."""
        return x.repeat_interleave(self.config.num_heads // self.config.num_kv_heads, dim=-2)


def joint_softmax(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Softmax over the last dimension of all parts together, in f32. Rows that see nothing get NaN-free zeros."""
    scores = torch.cat([part.float() for part in parts], dim=-1)
    peak = scores.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).min)
    weights = (scores - peak).exp()
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-30)
    return list(weights.split([part.shape[-1] for part in parts], dim=-1))


class DraftLayer(nn.Module):
    """Norms, attention projections and MLP of one layer; the residual path after attention is here.

    Qwen3:  x = x + O a;        x = x + MLP(norm(x))
    Gemma4: x = x + norm(O a);  x = (x + norm(MLP(norm(x)))) * layer_scalar
    """

    def __init__(self, config: DraftConfig):
        super().__init__()
        self.style = config.style
        size, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)
        self.input_layernorm = RmsNorm(size, eps)
        self.post_attention_layernorm = RmsNorm(size, eps)
        if config.algorithm == EAGLE3:
            self.hidden_norm = RmsNorm(size, eps)
        if config.style == GEMMA4:
            self.pre_feedforward_layernorm = RmsNorm(size, eps)
            self.post_feedforward_layernorm = RmsNorm(size, eps)
            self.register_buffer("layer_scalar", torch.ones(1))

    def after_attention(self, residual: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """attended [..., heads, head_dim] -> the layer's output [..., H]."""
        projected = self.self_attn.o_proj(attended.flatten(-2))
        if self.style == GEMMA4:
            x = residual + self.post_attention_layernorm(projected)
            x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
            return x * self.layer_scalar
        x = residual + projected
        return x + self.mlp(self.post_attention_layernorm(x))
