"""Tandem's noise: a function of (seed, absolute index, token id), so that target and drafter draw alike.

Philox4x32-10 with key = (low s, high s), counter = (id / 4, low i, high i, tag), word id % 4;
u = ((word >> 9) + 0.5) 2^-23;  g = -log(-log u), in f64, rounded to f32. docs/numerics.md has the rules.
"""

from __future__ import annotations

import torch

COUPLED, ACCEPTANCE, RESIDUAL, DRAFTER = 0, 1, 2, 3  # streams: who draws
GREEDY_TEMPERATURE = 1e-5
_MASK = 0xFFFFFFFF
_MULTIPLIERS, _WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)


def _multiply(a: int, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low word of a * b; int64 arithmetic wraps, which keeps all 64 bits."""
    product = b * a
    return (product >> 32) & _MASK, product & _MASK


def philox(counter: list[torch.Tensor], key: list[torch.Tensor]) -> list[torch.Tensor]:
    """Four counter words and two key words, int64 tensors below 2^32 -> four words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


def uniforms(seeds: list[int], indices: torch.Tensor, tag: int, num_tokens: int) -> torch.Tensor:
    """[N, num_tokens] f32, row n of seed n (below 2^64) at absolute index n."""
    device = indices.device
    blocks = torch.arange((num_tokens + 3) // 4, device=device)[None]
    low = torch.tensor([seed & _MASK for seed in seeds], device=device)[:, None]
    high = torch.tensor([seed >> 32 for seed in seeds], device=device)[:, None]
    index = indices.long()[:, None]
    zero = torch.zeros_like(blocks + index)
    counter = [blocks + zero, (index & _MASK) + zero, (index >> 32) + zero, zero + tag]
    words = torch.stack(philox(counter, [low + zero, high + zero]), -1).flatten(1)[:, :num_tokens]
    return (((words >> 9).double() + 0.5) * 2.0**-23).float()


def gumbel(seeds: list[int], indices: torch.Tensor, tag: int, num_tokens: int) -> torch.Tensor:
    """Standard Gumbel noise [N, num_tokens], f32."""
    return (-torch.log(-torch.log(uniforms(seeds, indices, tag, num_tokens).double()))).float()


def choose_coupled(logits: torch.Tensor, noise: torch.Tensor | None, temperature: float) -> torch.Tensor:
    """logits, noise [N, V] -> [N]: argmax((z - max z) / T + g); the argmax at temperature 0. First of equal ones."""
    logits = logits.float()
    if temperature < GREEDY_TEMPERATURE or noise is None:
        return logits.argmax(-1)
    return ((logits - logits.amax(-1, keepdim=True)) / temperature + noise).argmax(-1)
