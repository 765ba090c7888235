"""Texts of the target's own: answers to given conversations, or to user turns that it writes itself.

A drafter must learn the target's distribution, so given answers are thrown away and the target answers anew, turn by
turn. All draws depend on (seed, conversation, turn) and on which conversations share a batch, which the configuration
fixes: a run that was killed gives the same samples as one that was not.
"""

from __future__ import annotations

import dataclasses
import pathlib
import zlib
from collections.abc import Callable

import numpy

from tandem_trainer.data.conversations import (
    Conversation,
    detect_format,
    parse_conversation,
    prompt_ids,
    read_conversations,
    render,
)
from tandem_trainer.data.samples import Sample, SampleStore
from tandem_trainer.data.transformers_target import Decoding
from tandem_trainer.errors import UserError

USER_MARK = "@@user-turn@@"


@dataclasses.dataclass(frozen=True)
class DataOptions:
    conversations: tuple[str, ...] = ()  # JSONL files; none: the target writes user turns too
    answers: str = "regenerated"  # or "given"
    num_conversations: int = 0  # 0: all of the files; needed without files
    never: tuple[str, ...] = ()  # JSONL files whose first turns must not be trained on
    batch: int = 32  # conversations at once
    max_new_tokens: int = 256
    max_length: int = 1024  # of a sample, tokens
    max_user_tokens: int = 64  # of a user turn that the target writes
    temperatures: tuple[float, ...] = (0.0, 0.7, 1.0)  # of answers, taken in turns
    top_p: float = 1.0
    top_k: int = 0
    min_loss_tokens: int = 14  # samples with fewer are dropped
    max_bytes: int = 4 << 30  # of samples on disk; generation stops there
    seed: int = 42


def _seed(seed: int, conversation: int, turn: int) -> int:
    """64 bits that differ for each turn."""
    text = f"{seed}/{conversation}/{turn}".encode()
    return zlib.crc32(text) << 32 | zlib.crc32(b"tandem" + text)


class DataMaker:
    """target: generate(prompts, decodings), and .files with tokenizer and end tokens."""

    def __init__(self, target, options: DataOptions):
        self.target, self.options = target, options
        self.tokenizer = target.files.tokenizer
        if options.answers not in ("regenerated", "given"):
            raise UserError(f"data.answers is {options.answers!r}, allowed are regenerated and given")
        if not options.conversations and options.num_conversations < 1:
            raise UserError("data.num_conversations must be set where no conversations are given")

    def manifest(self) -> dict:
        """What the samples depend on."""
        return {
            "target_fingerprint": self.target.files.fingerprint,
            "tokenizer": self.target.files.tokenizer_digest,
            **{
                k: list(v) if isinstance(v, tuple) else v
                for k, v in dataclasses.asdict(self.options).items()
                if k not in ("num_conversations", "max_bytes")
            },
        }

    def conversations(self) -> list[Conversation]:
        forbidden = {
            c.user_turns[0].strip() for path in self.options.never for c in read_conversations(pathlib.Path(path))
        }
        found = [c for path in self.options.conversations for c in read_conversations(pathlib.Path(path))]
        found = [c for c in found if c.user_turns[0].strip() not in forbidden]
        if self.options.conversations and not found:
            raise UserError(f"{', '.join(self.options.conversations)}: no conversations")
        return found[: self.options.num_conversations] if self.options.num_conversations else found

    def fill(self, store: SampleStore, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """From where the store is to the end; `progress` gets conversations done and wanted."""
        given = self.conversations()
        total = len(given) if self.options.conversations else self.options.num_conversations
        size = self.options.batch
        while store.next_batch * size < total and not store.is_full():
            first = store.next_batch * size
            numbers = list(range(first, min(first + size, total)))
            batch = [given[n] for n in numbers] if given else self._user_turns(numbers)
            if self.options.answers == "given":
                samples = [self._given(conversation) for conversation in batch]
            else:
                samples = self._regenerated(numbers, batch)
            store.append_batch([s for s in samples if int(s.mask.sum()) >= self.options.min_loss_tokens])
            progress(min(first + size, total), total)
        if not store.samples:
            raise UserError(
                f"{store.directory}: none of {total} conversations gave {self.options.min_loss_tokens} or "
                "more answer tokens"
            )

    def _given(self, conversation: Conversation) -> Sample:
        if not conversation.has_answers():
            raise UserError(
                f'{conversation.where}: a conversation without assistant text, and answers are "given"; '
                'let the target answer (answers = "regenerated")'
            )
        ids, mask = parse_conversation(
            self.tokenizer, conversation, detect_format(self.tokenizer), self.options.max_length
        )
        return Sample(numpy.array(ids, "i4"), numpy.array(mask, "u1"))

    def _user_turns(self, numbers: list[int]) -> list[Conversation]:
        """The target continues the beginning of a user turn."""
        text = render(self.tokenizer, [{"role": "user", "content": USER_MARK}], "a self-written user turn")
        if USER_MARK not in text:
            raise UserError("template mismatch: the target's chat template does not show what the user says")
        start = self.tokenizer(text.split(USER_MARK)[0], add_special_tokens=False).input_ids
        if not start:
            raise UserError(
                "template mismatch: the target's chat template has nothing before a user turn, so the "
                "target cannot write one; give data.conversations"
            )
        decodings = [Decoding(self.options.max_user_tokens, 1.0, seed=_seed(self.options.seed, n, -1)) for n in numbers]
        answers = self.target.generate([start] * len(numbers), decodings)
        texts = [self.tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]
        return [
            Conversation([{"role": "user", "content": text or "Hello."}], f"self-written turn {n}")
            for n, text in zip(numbers, texts, strict=True)
        ]

    def _regenerated(self, numbers: list[int], batch: list[Conversation]) -> list[Sample]:
        messages = [list(c.system) for c in batch]
        samples: list[Sample] = []
        growing: dict[int, tuple[list[int], list[int]]] = {}
        for turn in range(max(len(c.user_turns) for c in batch)):
            rows, prompts, decodings = [], [], []
            for i, conversation in enumerate(batch):
                if turn >= len(conversation.user_turns):
                    continue
                messages[i].append({"role": "user", "content": conversation.user_turns[turn]})
                prompt = prompt_ids(self.tokenizer, messages[i], conversation.where)
                room = self.options.max_length - len(prompt)
                if room < self.options.min_loss_tokens:
                    continue  # the conversation has outgrown max_length
                rows.append(i)
                prompts.append(prompt)
                temperatures = self.options.temperatures
                decodings.append(
                    Decoding(
                        min(self.options.max_new_tokens, room),
                        temperatures[(numbers[i] + turn) % len(temperatures)],
                        self.options.top_p,
                        self.options.top_k,
                        _seed(self.options.seed, numbers[i], turn),
                    )
                )
            if not rows:
                break
            for i, prompt, answer in zip(rows, prompts, self.target.generate(prompts, decodings), strict=True):
                text = self.tokenizer.decode([t for t in answer if t not in self.target.end_tokens])
                messages[i].append({"role": "assistant", "content": text})
                ids, mask = growing.get(i, ([], []))
                if prompt[: len(ids)] != ids:  # the template writes the answer's end in another way: a text of its own
                    samples.append(_sample(ids, mask))
                    mask = []
                growing[i] = (prompt + answer, mask + [0] * (len(prompt) - len(mask)) + [1] * len(answer))
        return samples + [_sample(*growing[i]) for i in sorted(growing)]


def _sample(ids: list[int], mask: list[int]) -> Sample:
    return Sample(numpy.array(ids, "i4"), numpy.array(mask, "u1"))
