"""Conversations in JSON lines, and the token ids and loss mask of one whose answers are given.

A line is one of
  {"messages": [{"role": "user", "content": "..."}, ...]}
  {"conversations": [{"from": "human", "value": "..."}, ...]}
  {"turns": ["first user message", ...]}                          the evaluation format
  {"prompt": "..."}
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator

from tandem_trainer.errors import UserError

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
         "bard": "assistant", "assistant": "assistant", "model": "assistant", "system": "system"}  # fmt: skip
MAX_LINE_BYTES = 16 << 20


@dataclasses.dataclass
class Conversation:
    messages: list[dict[str, str]]
    where: str  # file and line, for errors

    @property
    def user_turns(self) -> list[str]:
        return [m["content"] for m in self.messages if m["role"] == "user"]

    @property
    def system(self) -> list[dict[str, str]]:
        return [m for m in self.messages if m["role"] == "system"][:1]

    def has_answers(self) -> bool:
        return any(m["role"] == "assistant" and m["content"].strip() for m in self.messages)


def _message(item, role_field: str, text_field: str, where: str) -> dict[str, str] | None:
    if not isinstance(item, dict) or not isinstance(item.get(text_field), str):
        raise UserError(f"{where}: a message without {text_field}")
    role = ROLES.get(str(item.get(role_field)))
    return None if role is None else {"role": role, "content": item[text_field]}


def parse_line(text: str, where: str) -> Conversation:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: no JSON: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: no JSON object")
    if isinstance(record.get("turns"), list) and all(isinstance(turn, str) for turn in record["turns"]):
        messages = [{"role": "user", "content": turn} for turn in record["turns"]]
    elif isinstance(record.get("prompt"), str):
        messages = [{"role": "user", "content": record["prompt"]}]
    elif isinstance(record.get("messages"), list):
        messages = [_message(item, "role", "content", where) for item in record["messages"]]
    elif isinstance(record.get("conversations"), list):
        messages = [_message(item, "from", "value", where) for item in record["conversations"]]
    else:
        raise UserError(f"{where}: none of messages, conversations, turns and prompt is there")
    messages = [m for m in messages if m is not None]
    spoken = [m for m in messages if m["role"] != "system"]
    if not spoken:
        raise UserError(f"{where}: a conversation without messages of user or assistant")
    if spoken[0]["role"] != "user":
        raise UserError(f"{where}: the conversation starts with {spoken[0]['role']}, not with user")
    return Conversation(messages, where)


def read_conversations(path: pathlib.Path) -> Iterator[Conversation]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(f"{path}:{number}: a line of {len(line)} characters, at most {MAX_LINE_BYTES}")
                if line.strip():
                    yield parse_line(line, f"{path}:{number}")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no UTF-8: {error}") from error


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """How a template's text shows where answers are."""

    name: str
    assistant_header: str
    end_of_turn: str
    default_system: str = ""  # added where a conversation has none
    answer_prefix: str = ""  # before each answer, not learnt


FORMATS = {
    format.name: format
    for format in (
        ChatFormat("qwen", "<|im_start|>assistant\n", "<|im_end|>\n", "You are a helpful assistant."),
        ChatFormat("chatml", "<|im_start|>assistant\n", "<|im_end|>\n"),
        ChatFormat("gemma4", "<|turn>model\n", "<turn|>\n", answer_prefix="<|channel>thought\n<channel|>"),
        ChatFormat("gemma3", "<start_of_turn>model\n", "<end_of_turn>\n"),
    )
}


def detect_format(tokenizer) -> ChatFormat:
    """By the headers in the tokenizer's chat template."""
    template = str(tokenizer.chat_template or "")
    for name, mark in (("gemma4", "<|turn>"), ("gemma3", "<start_of_turn>"), ("chatml", "<|im_start|>")):
        if mark in template:
            return FORMATS[name]
    raise UserError(
        f"{tokenizer.name_or_path}: its chat template has the answers' header of none of the formats "
        f'{", ".join(FORMATS)}; let the target answer anew (answers = "regenerated")'
    )


def parse_conversation(
    tokenizer, conversation: Conversation, format: ChatFormat, max_length: int, chat_template: str | None = None
) -> tuple[list[int], list[int]]:
    """Token ids and loss mask of a conversation with its answers: 1 from behind each answer's header through its end of
    turn. Borders are where the text before them ends in tokens."""
    messages = [dict(m) for m in conversation.messages]
    if format.default_system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": format.default_system})
    for message in messages:
        if message["role"] == "assistant" and not message["content"].startswith(format.answer_prefix):
            message["content"] = format.answer_prefix + message["content"]
    text = render(tokenizer, messages, conversation.where, chat_template=chat_template)
    pattern = re.escape(format.assistant_header) + "(.*?" + re.escape(format.end_of_turn) + ")"
    spans = [match.span(1) for match in re.finditer(pattern, text, re.DOTALL)]
    if not spans:
        raise UserError(
            f"{conversation.where}: template mismatch: the rendered conversation has no answer between "
            f"{format.assistant_header!r} and {format.end_of_turn!r} (format {format.name})"
        )
    ids = tokenizer(text, add_special_tokens=False).input_ids
    mask = [0] * len(ids)
    for begin, end in spans:
        if text.startswith(format.answer_prefix, begin):
            begin += len(format.answer_prefix)
        first = len(tokenizer(text[:begin], add_special_tokens=False).input_ids)
        last = len(tokenizer(text[:end], add_special_tokens=False).input_ids)
        mask[first:last] = [1] * (last - first)
    return ids[:max_length], mask[:max_length]


def render(
    tokenizer, messages: list[dict[str, str]], where: str, *, generation: bool = False, chat_template: str | None = None
) -> str:
    """The target's chat template as text."""
    if chat_template is None and not tokenizer.chat_template:
        raise UserError(f"{tokenizer.name_or_path}: the target has no chat template")
    try:
        return tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=generation,
            chat_template=chat_template,
            enable_thinking=False,
        )
    except Exception as error:  # templates raise what they like
        raise UserError(
            f"{where}: template mismatch: the target's chat template refuses the conversation: "
            f"{str(error).splitlines()[0]}"
        ) from error


def prompt_ids(tokenizer, messages: list[dict[str, str]], where: str) -> list[int]:
    """What the target reads before it answers."""
    ids = tokenizer(render(tokenizer, messages, where, generation=True), add_special_tokens=False).input_ids
    if not ids:
        raise UserError(f"{where}: template mismatch: the target's chat template renders nothing")
    return ids
