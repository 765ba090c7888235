"""Texts to play rounds over: the target's answers to prompts at one temperature, with hidden states."""

from __future__ import annotations

import dataclasses
import pathlib
import zlib

import torch

from tandem_trainer.data.conversations import prompt_ids, read_conversations
from tandem_trainer.data.transformers_target import Decoding
from tandem_trainer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Prompt:
    category: str
    ids: tuple[int, ...]
    seed: int
    messages: tuple = ()  # as a live server wants them


@dataclasses.dataclass
class Text:
    prompt: Prompt
    ids: list[int]  # prompt and answer
    ended: bool  # by an end token, not by the limit

    @property
    def start(self) -> int:
        return len(self.prompt.ids)


@dataclasses.dataclass
class TextBatch:
    """B texts of T positions, padded at the end."""

    texts: list[Text]
    ids: torch.Tensor  # [B, T]
    features: torch.Tensor  # [B, T, taps * H]
    last: torch.Tensor  # [B, T, H]


def read_prompts(tokenizer, files: list[str], count: int, seed: int) -> list[Prompt]:
    """The first turn of `count` conversations of each file, picked by `seed`; the file's name is the category."""
    prompts = []
    for file in files:
        path = pathlib.Path(file)
        conversations = [c for c in read_conversations(path) if c.user_turns]
        if not conversations:
            raise UserError(f"{path}: no prompts")
        order = torch.randperm(len(conversations), generator=torch.Generator().manual_seed(seed)).tolist()
        for i in sorted(order[:count]):
            messages = [*conversations[i].system, {"role": "user", "content": conversations[i].user_turns[0]}]
            prompts.append(
                Prompt(
                    path.stem,
                    tuple(prompt_ids(tokenizer, messages, conversations[i].where)),
                    prompt_seed(seed, path.stem, i),
                    tuple(messages),
                )
            )
    return prompts


def prompt_seed(seed: int, category: str, number: int) -> int:
    """Below 2^53, since it travels in JSON to a live server."""
    return zlib.crc32(f"{seed}/{category}/{number}".encode()) & 0x7FFFFFFF


def answer_prompts(target, prompts: list[Prompt], temperature: float, max_tokens: int, batch: int = 24) -> list[Text]:
    """Answers drawn with each prompt's seed, as the service would."""
    texts = []
    for begin in range(0, len(prompts), batch):
        part = prompts[begin : begin + batch]
        answers = target.generate(
            [list(p.ids) for p in part], [Decoding(max_tokens, temperature, seed=p.seed) for p in part]
        )
        for prompt, answer in zip(part, answers, strict=True):
            texts.append(Text(prompt, [*prompt.ids, *answer], answer[-1] in target.end_tokens))
    return texts


def with_hidden_states(target, texts: list[Text], taps: tuple[int, ...], batch: int = 16):
    """Batches of texts of about one length."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i].ids))
    for begin in range(0, len(order), batch):
        part = [texts[i] for i in order[begin : begin + batch]]
        lengths = torch.tensor([len(t.ids) for t in part])
        ids = torch.zeros(len(part), int(lengths.max()), dtype=torch.long)
        for row, text in enumerate(part):
            ids[row, : len(text.ids)] = torch.tensor(text.ids)
        states = target.hidden_states(ids, taps, lengths)
        yield TextBatch(part, ids, states.features.float(), states.last.float())
