"""Window policies under load: tokens/s of `off`, `fixed:k` and `prefix` with 1, 4, 16 and 64 requests at a time.

Each policy has gateway, verifier and drafter of its own; they stand side by side and work strictly in turns, so that a
slow spell of the machine meets all alike. A cell is a fixed number of requests, the same for every policy, sent by N
clients of which each sends its next request once it has its answer (closed loop). Requests have a fixed length
(ignore_eos). Prompts come from the prefix cache after the first round: the figures are those of decoding.

Two parts. The scan runs all policies and finds the best fixed window at each load. The pairs then run `off`, that
window and `prefix` in turns, of which the ratios are taken: median, and the lower end of a one-sided 90 % bootstrap
interval. Two starts of the same program differ by up to 5 % for as long as they live (where their memory happens to
lie), so the pairs are shared among several starts. Texts of all policies must be equal, except with --synthetic-acceptance, which makes them meaningless.

  tests/bench/load_sweep.py --prompts gsm8k.jsonl mt-bench.jsonl ... [--synthetic-acceptance .8,.75,.7,.65]
"""

import argparse
import concurrent.futures
import contextlib
import itertools
import json
import pathlib
import random
import re
import statistics
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "integration"))

from machine import cpu_name  # noqa: E402
from harness import http  # noqa: E402
from harness.paths import SOURCE, smollm2_path  # noqa: E402
from harness.drafters import Drafter, SpeculatingStack  # noqa: E402

DEFAULT_DRAFTER = SOURCE / "drafter/default/smollm2-135m-dspark-r0"
MAX_STREAMS = 64
PREDICTION_ERROR = "tandem_step_prediction_error_ratio_bucket"


def read_prompts(files, count, seed):
    """`count` first turns, the files in turns."""
    lists = []
    for file in files:
        turns = [json.loads(line)["turns"][0] for line in pathlib.Path(file).read_text(encoding="utf-8").splitlines()]
        random.Random(seed).shuffle(turns)
        lists.append(turns)
    mixed = [turn for row in itertools.zip_longest(*lists) for turn in row if turn is not None]
    return list(itertools.islice(itertools.cycle(mixed), count))


class Contender:
    """The processes of one policy."""

    def __init__(self, policy, options):
        self.policy = policy
        flags = ["--policy", policy, "--max-num-seqs", str(MAX_STREAMS)]
        if options.synthetic_acceptance and policy != "off":
            flags += ["--synthetic-acceptance", options.synthetic_acceptance]
        model = options.model or smollm2_path()
        drafters = [] if policy == "off" else [Drafter(str(options.drafter), target=model)]
        self.stack = SpeculatingStack(drafters, flags, model=model)

    def run(self, load, requests):
        """{"rate": tokens/s, "window": drafts checked per step of a sequence, ...} of `requests` by `load` clients."""
        before = self.stack.verifier_metrics.read()
        texts, waiting, lock = [None] * len(requests), iter(range(len(requests))), threading.Lock()

        def client():
            while True:
                with lock:
                    index = next(waiting, None)
                if index is None:
                    return
                answer = http.post(self.stack.http, "/v1/chat/completions", requests[index])
                assert answer.status == 200, answer
                texts[index] = answer.json()["choices"][0]["message"]["content"]

        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(load) as pool:
            clients = [pool.submit(client) for _ in range(load)]
            utilization = []
            while concurrent.futures.wait(clients, timeout=0.5).not_done:
                utilization.append(self.stack.verifier_metrics.read().sum("tandem_verifier_utilization_ratio"))
            for done in clients:
                done.result()
        seconds = time.monotonic() - begin
        after = self.stack.verifier_metrics.read()

        def more(name):
            return after.sum(name) - before.sum(name)

        rounds, accepted = more("tandem_spec_drafts_total"), more("tandem_spec_accepted_tokens_total")
        expected = more("tandem_spec_expected_accepted_tokens_total")
        errors = {float(bound): count - before.by_label(PREDICTION_ERROR, "le")[bound]
                  for bound, count in after.by_label(PREDICTION_ERROR, "le").items()}
        return {
            "rate": sum(request["max_tokens"] for request in requests) / seconds,
            "window": more("tandem_spec_window_tokens_sum") / max(more("tandem_spec_window_tokens_count"), 1),
            "tau": 1 + accepted / rounds if rounds else 0,
            "expected_accepted": expected / accepted if accepted else 1,
            "prediction_error_p50": quantile(errors, 0.5),
            "prediction_error_p95": quantile(errors, 0.95),
            "utilization": statistics.median(utilization) if utilization else 0,
            "texts": texts,
        }


def quantile(cumulative, share):
    """Of a histogram {upper bound: observations up to it}; linear within a bucket, as Prometheus has it."""
    total, low, below = max(cumulative.values()), 0.0, 0
    for bound, count in sorted(cumulative.items()):
        if count >= share * total and count > below:
            return low if bound == float("inf") else low + (bound - low) * (share * total - below) / (count - below)
        low, below = bound, count
    return low


def lower_bound(ratios, seed=1, samples=4000):
    """Of the median: what nine in ten resamples are above."""
    draw = random.Random(seed)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(samples))
    return medians[samples // 10]


class Sweep:
    def __init__(self, options):
        self.options = options
        most = max(load * options.requests_per_stream(load) for load in options.loads)
        self.prompts = read_prompts(options.prompts, most, options.seed)
        self.different_texts = 0

    def requests(self, load):
        return [{"model": "default", "messages": [{"role": "user", "content": prompt}], "temperature": 0,
                 "max_tokens": self.options.max_tokens, "ignore_eos": True}
                for prompt in self.prompts[:load * self.options.requests_per_stream(load)]]

    @contextlib.contextmanager
    def contenders(self, policies):
        """Started in this order, and warmed up: prefix caches filled, policies taught."""
        with contextlib.ExitStack() as running:
            contenders = [Contender(policy, self.options) for policy in policies]
            for contender in contenders:
                running.enter_context(contender.stack)
            for load in self.options.loads:
                self.round(contenders, 0, load)
            print("warmed up", file=sys.stderr, flush=True)
            yield contenders

    def round(self, contenders, number, load):
        """{policy: figures} of one load; who begins changes from round to round."""
        turn = number % len(contenders)
        found = {}
        for contender in contenders[turn:] + contenders[:turn]:
            found[contender.policy] = contender.run(load, self.requests(load))
        texts = [figures.pop("texts") for figures in found.values()]
        if not self.options.synthetic_acceptance:
            self.different_texts += sum(other != texts[0] for other in texts[1:])
        return found

    def run(self):
        options = self.options
        result = {"cpu": cpu_name(), "scan": {load: [] for load in options.loads},
                  "pairs": {load: [] for load in options.loads}, "best": {}}
        with self.contenders(options.policies) as contenders:
            for number in range(options.scan_rounds):
                for load in options.loads:
                    result["scan"][load].append(self.round(contenders, number, load))
                print(f"scan {number + 1} of {options.scan_rounds}", file=sys.stderr, flush=True)
        fixed = [policy for policy in options.policies if policy.startswith("fixed:")]
        for load, rounds in result["scan"].items():
            result["best"][load] = max(
                fixed, key=lambda policy: statistics.median(found[policy]["rate"] for found in rounds))
        policies = ["off", *sorted(set(result["best"].values())), "prefix"]
        for start in range(options.starts):
            with self.contenders(policies[start % len(policies):] + policies[:start % len(policies)]) as contenders:
                for number in range(start, options.rounds, options.starts):
                    for load in options.loads:
                        chosen = ["off", result["best"][load], "prefix"]
                        result["pairs"][load].append(
                            self.round([c for c in contenders if c.policy in chosen], number, load))
                    print(f"pairs {len(result['pairs'][load])} of {options.rounds}", file=sys.stderr, flush=True)
        result["different_texts"] = self.different_texts
        return result


def show(result, policies):
    print(f"{result['cpu']}\n\nscan: tokens/s (mean window), medians of {len(next(iter(result['scan'].values())))} rounds")
    print(f"{'load':>5}" + "".join(f"{policy:>16}" for policy in policies))
    for load, rounds in result["scan"].items():
        cells = []
        for policy in policies:
            rate = statistics.median(found[policy]["rate"] for found in rounds)
            window = statistics.median(found[policy]["window"] for found in rounds)
            cells.append(f"{rate:.0f} ({window:.2f})")
        print(f"{load:>5}" + "".join(f"{cell:>16}" for cell in cells))
    count = len(next(iter(result["pairs"].values())))
    print(f"\npairs: ratios of tokens/s, median of {count} (lower 90 % bound)")
    print(f"{'load':>5}{'prefix / off':>18}{'prefix / best fixed':>30}")
    for load, rounds in result["pairs"].items():
        cells = []
        for other in ("off", result["best"][load]):
            ratios = [found["prefix"]["rate"] / found[other]["rate"] for found in rounds]
            cells.append(f"{statistics.median(ratios):.3f} ({lower_bound(ratios):.3f})")
        print(f"{load:>5}{cells[0]:>18}{cells[1] + ' ' + result['best'][load]:>30}")
    columns = {"utilization": "utilization", "window": "window", "tau": "tau",
               "expected / real accepted": "expected_accepted", "step time error p50": "prediction_error_p50",
               "p95": "prediction_error_p95"}
    print("\nprefix: medians of the pairs")
    print(f"{'load':>5}" + "".join(f"{name:>{max(len(name), 6) + 2}}" for name in columns))
    for load, rounds in result["pairs"].items():
        medians = {name: statistics.median(found["prefix"][key] for found in rounds) for name, key in columns.items()}
        print(f"{load:>5}" + "".join(f"{value:>{max(len(name), 6) + 2}.3f}" for name, value in medians.items()))
    print(f"\nrounds in which a policy's texts differ from the others': {result['different_texts']}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", nargs="+", required=True, help='JSON lines of {"turns": ["..."]}')
    parser.add_argument("--model", help="target; default: smollm2-135m from the cache")
    parser.add_argument("--drafter", default=DEFAULT_DRAFTER)
    parser.add_argument("--loads", default="1,4,16,64", type=lambda text: [int(word) for word in text.split(",")])
    parser.add_argument("--windows", default="1,2,3,5,7", help="of fixed:k")
    parser.add_argument("--scan-rounds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="of pairs")
    parser.add_argument("--starts", type=int, default=3, help="of all processes, among which the pairs are shared")
    parser.add_argument("--requests", type=int, default=16, help="of a cell; at least two for each client")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--synthetic-acceptance", help="as the verifier's flag")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", help="a file for all figures")
    options = parser.parse_args()
    options.policies = ["off", *(f"fixed:{window}" for window in options.windows.split(",")), "prefix"]
    # Few clients would take long for as many requests as many clients need.
    options.requests_per_stream = lambda load: max(2, min(6, options.requests // load))
    return options


def main():
    options = parse()
    result = Sweep(options).run()
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
    show(result, options.policies)
    sys.exit(1 if result["different_texts"] else 0)


if __name__ == "__main__":
    main()
