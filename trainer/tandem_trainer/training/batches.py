"""Which samples make which micro-batch, and their hidden states.

Samples are put into groups once; a group is a micro-batch, so its hidden states are the same whenever they are
computed.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy
import torch

from tandem_trainer.data.samples import Sample
from tandem_trainer.data.transformers_target import HiddenStates
from tandem_trainer.errors import UserError

SORTED_GROUPS = 16  # samples of so many groups are sorted by length, so that groups hold samples of about one length


@dataclasses.dataclass
class Batch:
    """B samples of T positions, padded at the end."""

    number: int  # of the micro-batch since the run began
    samples: list[int]  # their numbers in the store
    ids: torch.Tensor  # [B, T]
    loss_mask: torch.Tensor  # [B, T]
    lengths: torch.Tensor  # [B]
    states: HiddenStates

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())


def split_held_out(samples: list[Sample], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the samples to train on and of those held out (one at least, if share > 0 and there are two)."""
    order = numpy.random.default_rng([seed, 1]).permutation(len(samples)).tolist()
    count = min(max(round(share * len(samples)), 1 if share > 0 else 0), len(samples) - 1)
    return sorted(order[count:]), sorted(order[:count])


def make_groups(samples: list[Sample], numbers: list[int], size: int, seed: int) -> list[list[int]]:
    """Whole groups only; what is left over is not used."""
    order = numpy.random.default_rng([seed, 2]).permutation(numbers).tolist()
    window = size * SORTED_GROUPS
    groups = []
    for begin in range(0, len(order), window):
        part = sorted(order[begin : begin + window], key=lambda n: (len(samples[n]), n))
        groups += [part[i : i + size] for i in range(0, len(part) - size + 1, size)]
    if not groups:
        raise UserError(
            f"{len(numbers)} samples to train on, a micro-batch has {size}: make more data or set "
            "training.sequences lower"
        )
    return groups


class Batches:
    """source: hidden_states(ids, taps, lengths)."""

    def __init__(
        self, samples: list[Sample], groups: list[list[int]], source, taps: tuple[int, ...], seed: int, cache_bytes: int
    ):
        self.samples, self.groups, self.source, self.taps, self.seed = samples, groups, source, taps, seed
        self.cache_bytes, self._cached_bytes = cache_bytes, 0
        self._cache: collections.OrderedDict[int, HiddenStates] = collections.OrderedDict()

    def group_of(self, number: int) -> int:
        epoch, place = divmod(number, len(self.groups))
        return int(numpy.random.default_rng([self.seed, 3, epoch]).permutation(len(self.groups))[place])

    def generator(self, number: int) -> torch.Generator:
        """For the anchors and the vocabulary of a micro-batch."""
        state = numpy.random.default_rng([self.seed, 4, number]).integers(0, 2**63 - 1)
        return torch.Generator().manual_seed(int(state))

    def __call__(self, number: int) -> Batch:
        group = self.group_of(number)
        return self.of_group(group, number)

    def of_group(self, group: int, number: int = 0) -> Batch:
        numbers = self.groups[group]
        lengths = torch.tensor([len(self.samples[n]) for n in numbers])
        ids = torch.zeros(len(numbers), int(lengths.max()), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, n in enumerate(numbers):
            ids[row, : lengths[row]] = torch.from_numpy(self.samples[n].ids.astype(numpy.int64))
            mask[row, : lengths[row]] = torch.from_numpy(self.samples[n].mask.astype(numpy.int64))
        return Batch(number, numbers, ids, mask, lengths, self._states(group, ids, lengths))

    def _states(self, group: int, ids: torch.Tensor, lengths: torch.Tensor) -> HiddenStates:
        """In bf16, which is what they take in the verifier's memory; so they are the same from the cache or anew."""
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        states = self.source.hidden_states(ids, self.taps, lengths)
        states = HiddenStates(states.features.bfloat16(), states.last.bfloat16())
        size = 2 * (states.features.numel() + states.last.numel())
        if size > self.cache_bytes:
            return states
        while self._cached_bytes + size > self.cache_bytes:
            _, old = self._cache.popitem(last=False)
            self._cached_bytes -= 2 * (old.features.numel() + old.last.numel())
        self._cache[group] = states
        self._cached_bytes += size
        return states


def token_frequencies(samples: list[Sample], vocab_size: int) -> torch.Tensor:
    """Ids [V] by falling frequency in answers, ties by id."""
    counts = numpy.zeros(vocab_size, numpy.int64)
    for sample in samples:
        answer = sample.ids[sample.mask.astype(bool)]
        if len(answer) and answer.max() >= vocab_size:
            raise UserError(
                f"a sample has token id {answer.max()}, the target has {vocab_size}: the tokenizer is not the target's"
            )
        counts += numpy.bincount(answer, minlength=vocab_size)
    return torch.from_numpy(numpy.argsort(-counts, kind="stable").copy())
