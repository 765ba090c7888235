"""What a running server accepts on the same prompts, seeds and temperatures: its per-request metrics.

The gateway must run with --per-request-spec-decode-metrics=summary, the verifier with whole blocks, --policy=fixed:G,
and in the rule that is asked for.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import urllib.error
import urllib.request

from tandem_trainer.errors import UserError
from tandem_trainer.evaluation.rounds import Setting
from tandem_trainer.evaluation.texts import Prompt
from tandem_trainer.report import number, table

AT_ONCE, SECONDS = 4, 600


@dataclasses.dataclass
class LiveAcceptance:
    """mean_acceptance_length is 1 + accepted / steps, also of rounds that an end token closed."""

    steps: int
    accepted: int
    histogram: list[int]  # steps by how many drafts stood

    @property
    def mean_acceptance_length(self) -> float:
        return 1 + self.accepted / self.steps if self.steps else float("nan")


def _ask(url: str, prompt: Prompt, temperature: float, max_tokens: int) -> dict:
    body = {
        "model": "default",
        "messages": list(prompt.messages),
        "temperature": temperature,
        "seed": prompt.seed,
        "max_tokens": max_tokens,
    }
    request = urllib.request.Request(
        f"{url.rstrip('/')}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: HTTP {error.code}: {error.read(500).decode(errors='replace')}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{url}: {error}") from error
    metrics = (found.get("metrics") or {}).get("speculative_decoding")
    if metrics is None:
        raise UserError(
            f"{url}: the answer has no metrics.speculative_decoding: start the gateway with "
            "--per-request-spec-decode-metrics=summary"
        )
    return metrics


def evaluate_live(
    url: str, prompts: list[Prompt], settings: list[Setting], max_tokens: int
) -> dict[str, LiveAcceptance]:
    """By setting. Which rule the server uses is the verifier's --acceptance; `match` has no counterpart there."""
    if any(not prompt.messages for prompt in prompts):
        raise UserError("a live server is asked with prompts of JSONL files")
    result = {}
    for setting in settings:
        if setting.rule == "match":
            continue
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(lambda p, s=setting: _ask(url, p, s.temperature, max_tokens), prompts))
        width = max((len(m["acceptance_histogram"]) for m in found), default=0)
        histogram = [
            sum(m["acceptance_histogram"][i] for m in found if i < len(m["acceptance_histogram"])) for i in range(width)
        ]
        result[setting.name] = LiveAcceptance(
            sum(m["num_spec_steps"] for m in found), sum(m["num_accepted_draft_tokens"] for m in found), histogram
        )
    return result


def live_table(live: dict[str, LiveAcceptance], found) -> str:
    rows = [
        [
            name,
            number(a.mean_acceptance_length),
            str(a.steps),
            number(found.total[name].drafts_accepted),
            str(found.total[name].rounds),
            number(found.total[name].tau_error),
        ]
        for name, a in live.items()
    ]
    return table(["1 + accepted / rounds", "live", "rounds", "here", "rounds", "standard error"], rows)
