"""Models on which text must be the same whatever happens to a request, and what to ask each of them.

trained        the small trained model, whose tokens are bytes
a golden one   of each family, and of those whose layers share K and V: layers that see windows, differ in shape, random
               weights. They bring no tokenizer and get the trained model's.
published      tokens are pieces of words, matrices fill many tiles, prompts are longer than Gemma 3's windows
"""

import dataclasses
import pathlib
import shutil

from .paths import GOLDEN, TRAINED, golden_json, pulled_path
from .workload import CONTEXT_FILLER, long_streams, mixed_requests

CONCURRENT = 64
PUBLISHED = ["gemma3-270m"]


@dataclasses.dataclass
class Subject:
    model: str      # path
    requests: list  # CONCURRENT of them, of many kinds
    streams: list   # that take a while each


def subject_names():
    return ["trained", *(path.name for path in golden_targets()), *PUBLISHED]


def make_subject(name, directory):
    """Subject `name`; `directory` takes the files it needs. Skips with TANDEM_OFFLINE=1 where it is a published one."""
    if name == "trained":
        return Subject(TRAINED, mixed_requests(CONCURRENT), long_streams(64))
    if name in PUBLISHED:
        return _published(pulled_path(name))
    model = with_trained_tokenizer(GOLDEN / "targets" / name, directory / name)
    ids = id_requests(CONCURRENT // 2)
    return Subject(model, mixed_requests(CONCURRENT - len(ids)) + ids, long_streams(64))


def golden_targets():
    """One target of each family, and those whose layers share K and V."""
    chosen = {}
    for path in sorted((GOLDEN / "targets").glob("*/config.json")):
        config = golden_json(path)
        text = config.get("text_config", config)
        chosen.setdefault((config["model_type"], text.get("num_kv_shared_layers", 0) > 0), path.parent)
    assert {"qwen3", "gemma3_text", "gemma4_text"} <= {model_type for model_type, _ in chosen}
    return list(chosen.values())


def with_trained_tokenizer(target, directory):
    """A copy of golden target `target` with the trained model's tokenizer and template. Returns its path."""
    shutil.copytree(target, directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pathlib.Path(TRAINED, name), directory)
    return str(directory)


def id_requests(count):
    """Prompts of ids around multiples of blocks and longer than windows; every other one begins as the one before."""
    lengths = [1, 15, 16, 17, 40, 90, 200]
    asked = []
    for i in range(count):
        seed = i // 2
        prompt = [(37 * seed + 11 * j + j * j) % 256 for j in range(lengths[seed % len(lengths)] + i % 2 * 33)]
        asked.append(("/v1/completions",
                      {"model": "default", "prompt": prompt, "temperature": [0, 0.7, 1][i % 3], "seed": i,
                       "max_tokens": 40, "ignore_eos": True, "logprobs": 2}, i % 2 == 0))
    return asked


def _published(model):
    # Longer than the windows of Gemma 3's local layers, 512 positions.
    long = [("/v1/completions", {"model": "default", "prompt": CONTEXT_FILLER * 26 + beginning, "temperature": 0,
                                 "max_tokens": 6, "ignore_eos": True}, False) for beginning in ("Then", "But")]
    mixed = mixed_requests(CONCURRENT - len(long), seed=3)
    return Subject(model, [_shorter(request, 5) for request in mixed] + long,
                   [_shorter(request, 64) for request in long_streams(12)])


def _shorter(request, max_tokens):
    """At most so many tokens, and without template: Gemma 3 270M's file has none."""
    path, fields, streamed = request
    fields = {**fields, "max_tokens": min(fields["max_tokens"], max_tokens)}
    if "messages" not in fields:
        return path, fields, streamed
    prompt = fields.pop("messages")[-1]["content"]
    if fields.pop("logprobs", False):
        fields["logprobs"] = min(fields.pop("top_logprobs"), 5)
    return "/v1/completions", {**fields, "prompt": prompt}, streamed
