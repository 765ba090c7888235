"""S1 and G10: what the services cost beside the model, and how well the scheduler knows a step's time."""

import json
import os
import pathlib
import sys
import tempfile

from engines import HERE
from goals import Goal
from machine import run

sys.path.append(str(HERE.parent / "integration"))

from harness.metrics import Metrics  # noqa: E402
from harness.processes import ANY, Process, Up  # noqa: E402
from harness.waiting import wait_until  # noqa: E402
from load_sweep import PREDICTION_ERROR, quantile  # noqa: E402
from speculation import Measured  # noqa: E402

STREAMS, REQUESTS_PER_STREAM, TOKENS = 64, 4, 512
STEP_THREADS = ("tandem-steps", "tandem-pool")
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """({thread name: s}, s of the whole process, ended threads included)."""
    by_name = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        name, seconds = _times(task / "stat")
        by_name[name] = by_name.get(name, 0) + seconds
    return by_name, _times(pathlib.Path(f"/proc/{pid}/stat"))[1]


def _times(stat):
    head, _, fields = stat.read_text().rpartition(")")
    fields = fields.split()
    return head.split("(", 1)[1], (int(fields[11]) + int(fields[12])) / TICKS


def _load(options, http, streams, requests, tokens):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        run(options.bin / "tandem", "bench", "--http", http, "--concurrency", streams, "--requests", requests,
            "--max-tokens", tokens, "--warmup", streams, "--json", file.name)
        return json.load(open(file.name, encoding="utf-8"))


class Delivery:
    """A gateway and a verifier with a scripted model whose steps take `step`."""

    def __init__(self, options, model, step):
        self._options, self._step, self.values, self.record = options, step, [], []
        self.verifier = Process([str(options.bin / "tandem-verifier"), "--model", f"scripted:{model}", "--scripted-step",
                                 step, "--listen", ANY, "--metrics", ANY, "--threads", str(options.threads),
                                 "--max-num-seqs", str(STREAMS)])
        address = self.verifier.addresses(timeout=60)["grpc"]
        self.gateway = Process([str(options.bin / "tandem-gateway"), "--model", str(model), "--verifier", address, "--http",
                                ANY, "--grpc", ANY, "--metrics", ANY])
        doors = self.gateway.addresses(timeout=60)
        self._http, self._metrics = doors["http"], Metrics(doors["metrics"])
        wait_until(lambda: self._metrics.read().sum("tandem_ready") == 1, "gateway ready", 60)
        self._load(1, 64)

    def _load(self, requests_per_stream, tokens):
        return _load(self._options, self._http, STREAMS, STREAMS * requests_per_stream, tokens)

    def _snapshot(self):
        scrape = self._metrics.read()
        return (*cpu_seconds(self.verifier.pid), cpu_seconds(self.gateway.pid)[1],
                scrape.sum("tandem_generation_tokens_total"), scrape.sum("tandem_inter_token_latency_seconds_count"))

    def measure(self, requests_per_stream):
        before = self._snapshot()
        load = self._load(requests_per_stream, TOKENS)
        after = self._snapshot()
        threads, verifier, gateway, tokens, deliveries = (
            {name: after[0].get(name, 0) - before[0].get(name, 0) for name in STEP_THREADS},
            *(new - old for new, old in zip(after[1:], before[1:])))
        steps = sum(threads.values())
        figures = {"gateway_us": gateway, "verifier_us": verifier - steps, "steps_us": steps,
                   "generator_us": load["generator_cpu_seconds"]}
        figures = {name: seconds / tokens * 1e6 for name, seconds in figures.items()}
        self.record.append(figures | {"tokens": tokens, "tokens_per_delivery": tokens / max(deliveries, 1),
                                      "tokens_per_second": load["output_tokens_per_second"]})
        self.values.append(figures["gateway_us"] + figures["verifier_us"])

    def goal(self, counts):
        last = self.record[-1]
        return Goal("S1", f"CPU per token, {STREAMS} streams, {self._step} a step", self.values,
                    *((25, 5) if counts else (None, None)), at_most=True, unit="us",
                    detail=f"gateway {last['gateway_us']:.1f}, verifier {last['verifier_us']:.1f}; "
                           f"{last['tokens_per_second']:.0f} tokens/s, {last['tokens_per_delivery']:.1f} a delivery; "
                           f"steps {last['steps_us']:.1f}, load generator {last['generator_us']:.1f}")

    def stop(self):
        self.gateway.kill()
        self.verifier.kill()


def delivery(options, model):
    """S1: with steps long enough that each token is delivered by itself, and as fast as the machine allows, when several
    tokens gather in a delivery."""
    paced, free = Delivery(options, model, "10ms"), Delivery(options, model, "0s")
    try:
        for _ in range(options.rounds):
            paced.measure(1)
            free.measure(REQUESTS_PER_STREAM)
    finally:
        paced.stop()
        free.stop()
    return Measured([paced.goal(True), free.goal(False)], [], {"10ms": paced.record, "0s": free.record})


def scheduling(options, model, prompts):
    """G10."""
    result = json.loads(run(options.bin / "scheduling_bench", "--benchmark_filter=/256$", "--benchmark_format=json",
                            "--benchmark_repetitions=5"))
    rows = [row for row in result["benchmarks"] if row["run_type"] == "iteration"]
    both = [sum(row["real_time"] for row in rows if row["repetition_index"] == i) for i in range(5)]
    found = [Goal("G10", "decide on 256 sequences x 7", both, 100, 20, at_most=True, unit="us",
                  detail="whom to draft for, and windows")]
    with Up(options.model, "--drafter", options.drafter) as stack:
        _load(options, stack.http, 4, 8, 32)
        before = stack.verifier_metrics.read()
        for streams in (1, 4, 16):
            _load(options, stack.http, streams, 3 * streams, options.max_tokens)
        after = stack.verifier_metrics.read()
    begin, end = before.by_label(PREDICTION_ERROR, "le"), after.by_label(PREDICTION_ERROR, "le")
    errors = {float(bound): count - begin[bound] for bound, count in end.items()}
    steps = max(errors.values())
    for share, floor, reach in ((0.5, 5, 2), (0.95, 15, 6)):
        found.append(Goal("G10", f"error of predicted step times, p{100 * share:.0f}", [100 * quantile(errors, share)],
                          floor, reach, at_most=True, unit="%", detail=f"{steps:.0f} steps, 1, 4 and 16 streams"))
    return found
