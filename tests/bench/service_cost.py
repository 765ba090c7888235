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


def delivery(options, model):
    """S1."""
    verifier = Process([str(options.bin / "tandem-verifier"), "--model", f"scripted:{model}", "--listen", ANY, "--metrics",
                        ANY, "--threads", str(options.threads), "--max-num-seqs", str(STREAMS)])
    with verifier:
        addresses = verifier.addresses(timeout=60)
        gateway = Process([str(options.bin / "tandem-gateway"), "--model", str(model), "--verifier", addresses["grpc"],
                           "--http", ANY, "--grpc", ANY, "--metrics", ANY])
        with gateway:
            doors = gateway.addresses(timeout=60)
            metrics = Metrics(doors["metrics"])
            wait_until(lambda: metrics.read().sum("tandem_ready") == 1, "gateway ready", 60)
            _load(options, doors["http"], STREAMS, STREAMS, 64)
            values, record = [], []
            for _ in range(options.rounds):
                before = (cpu_seconds(verifier.pid), cpu_seconds(gateway.pid),
                          metrics.read().sum("tandem_generation_tokens_total"))
                load = _load(options, doors["http"], STREAMS, STREAMS * REQUESTS_PER_STREAM, TOKENS)
                after = (cpu_seconds(verifier.pid), cpu_seconds(gateway.pid),
                         metrics.read().sum("tandem_generation_tokens_total"))
                tokens = after[2] - before[2]
                steps = sum(after[0][0].get(name, 0) - before[0][0].get(name, 0) for name in STEP_THREADS)
                verifier_other = (after[0][1] - before[0][1] - steps) / tokens * 1e6
                gateway_all = (after[1][1] - before[1][1]) / tokens * 1e6
                values.append(verifier_other + gateway_all)
                record.append({"gateway_us": gateway_all, "verifier_us": verifier_other, "steps_us": steps / tokens * 1e6,
                               "tokens": tokens, "tokens_per_second": load["output_tokens_per_second"],
                               "generator_us": load["generator_cpu_seconds"] / tokens * 1e6})
    last = record[-1]
    detail = (f"gateway {last['gateway_us']:.1f}, verifier {last['verifier_us']:.1f}; {last['tokens_per_second']:.0f} "
              f"tokens/s")
    notes = [f"S1: {STREAMS} HTTP streams, scripted model; step loop and pool {last['steps_us']:.1f} us, load generator "
             f"{last['generator_us']:.1f} us a token"]
    return Measured([Goal("S1", f"CPU per token at {STREAMS} streams", values, 25, 5, at_most=True, unit="us",
                          detail=detail)], notes, record)


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
