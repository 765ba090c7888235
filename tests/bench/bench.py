"""Measures Tandem on one model, beside llama.cpp on the same file in the same run. Called by bench.sh.

What is measured, interleaved A B A B so that a slow spell of the machine meets both alike:
  decode, 1 and 8 streams   tokens/s through gateway and verifier (`tandem bench`); llama.cpp: llama-bench and
                            llama-batched-bench, both without a server
  prefill                   tokens/s of a long prompt with max_tokens 1, from the request to its answer
  T(n)                      seconds of a step of n tokens of one sequence, all with logits (`model_bench`)
  V(8) = T(8)/T(1)          llama.cpp: from the tokens/s of 8-token batches (logits of the last) and of single tokens

Settings from the environment:
  LLAMA_BENCH      llama-bench to use (llama-batched-bench beside it); "off": none. Default: built once by
                   build_llama.sh into the user's cache
  BENCH_ROUNDS     alternations (default 5)
  BENCH_THREADS    threads of both (default: all CPUs)
  BENCH_JSON       a file to write all figures to
"""

import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from engines import DECODE_TOKENS, PREFILL_TOKENS, LlamaBench, ModelBench, find_llama
from machine import cpu_name, fail, model_file, num_cpus, run, spread

STREAMS = 8
STEP_TOKENS = (1, 2, 4, 8, 16, 32)


class Engine:
    """`tandem up` for the time of the run. Without prefix cache: a prompt sent twice must be computed twice;
    without drafter: what speculation brings is `tandem bench --compare`'s to say."""

    def __init__(self, binaries, model, threads):
        self._process = subprocess.Popen(
            [binaries / "tandem", "up", "--model", model, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0",
             "--set", f"verifier.threads={threads}", "--set", "verifier.prefix-cache=off",
             "--drafter", "none"],
            stdout=subprocess.PIPE, text=True)
        words = self._process.stdout.readline().split()
        if not words or words[0] != "ready":
            fail("tandem up did not become ready")
        self.http = dict(word.split("=", 1) for word in words[1:])["http"]

    def post(self, path, fields):
        host, port = self.http.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=600)
        connection.request("POST", path, json.dumps(fields), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != 200:
            fail(f"{path} answered {answer.status}: {body[:500]!r}")
        return json.loads(body)

    def stop(self):
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)


class Tandem:
    def __init__(self, binaries, model, threads):
        self._binaries, self._steps = binaries, ModelBench(binaries, model, threads)
        self._engine = Engine(binaries, model, threads)
        # Ids of plain words, so that the prompt has the same length each time.
        self._ids = self._engine.post("/tokenize", {"model": "default", "prompt": "one two three four five"})["tokens"]

    def measure(self):
        figures = {}
        for streams in (1, STREAMS):
            with tempfile.NamedTemporaryFile(suffix=".json") as file:
                run(self._binaries / "tandem", "bench", "--http", self._engine.http, "--concurrency", streams,
                    "--requests", max(2, streams), "--warmup", 0, "--max-tokens", DECODE_TOKENS, "--json", file.name)
                summary = json.load(open(file.name, encoding="utf-8"))
            figures[f"decode_{streams}"] = streams * 1000 / summary["tpot_ms"]["p50"]
        prompt = (self._ids * PREFILL_TOKENS)[:PREFILL_TOKENS]
        begin = time.monotonic()
        self._engine.post("/v1/completions", {"model": "default", "prompt": prompt, "max_tokens": 1})
        figures["prefill"] = PREFILL_TOKENS / (time.monotonic() - begin)
        alone = self._steps.measure(STEP_TOKENS)
        figures |= {name: value for name, value in alone.items() if name.startswith("T(")}
        figures["decode_alone"], figures["prefill_alone"] = 1 / alone["T(1)"], alone["prefill"]
        figures["V(8)"] = figures["T(8)"] / figures["T(1)"]
        return figures

    @property
    def numerics(self):
        return self._steps.numerics

    def stop(self):
        self._engine.stop()


class LlamaCpp:
    def __init__(self, program, model, threads):
        self._bench = LlamaBench(program, model, threads)

    def measure(self):
        alone = self._bench.measure()
        return {"decode_1": alone["decode"], "decode_alone": alone["decode"],
                f"decode_{STREAMS}": self._bench.decode_batched(STREAMS), "prefill": alone["prefill"],
                "prefill_alone": alone["prefill"], "T(1)": alone["T(1)"], "T(8)": alone["T(8)"],
                "V(8)": alone["T(8)"] / alone["T(1)"]}

    def stop(self):
        pass


ROWS = [("decode_1", "decode, 1 stream", "tokens/s", 1), (f"decode_{STREAMS}", f"decode, {STREAMS} streams", "tokens/s", 1),
        ("prefill", f"prefill, {PREFILL_TOKENS} tokens", "tokens/s", 1),
        ("decode_alone", "decode, model alone", "tokens/s", 1),
        ("prefill_alone", "prefill, model alone", "tokens/s", 1),
        *((f"T({n})", f"T({n}), all logits", "ms", 1e3) for n in STEP_TOKENS),
        ("V(8)", "V(8) = T(8)/T(1)", "", 1)]


def show(results):
    """A table; one column per contender: median (fastest and slowest round), and ours / theirs."""
    print(f"\n{'':<26}" + "".join(f"{name:>32}" for name in results) + f"{'ratio of medians':>20}")
    for name, label, unit, scale in ROWS:
        cells = [spread(scale * figures[name] for figures in rounds if name in figures) for rounds in results.values()]
        if not any(cells):
            continue
        texts = [f"{c[0]:.2f} ({c[1]:.2f} .. {c[2]:.2f}) {unit}" if c else "-" for c in cells]
        ratio = f"{cells[0][0] / cells[1][0]:.2f}" if len(cells) == 2 and all(cells) else ""
        print(f"{label:<26}" + "".join(f"{text:>32}" for text in texts) + f"{ratio:>20}")


def main():
    if len(sys.argv) != 3:
        print("usage: bench.sh BIN MODEL", file=sys.stderr)
        sys.exit(2)
    binaries, model = pathlib.Path(sys.argv[1]).resolve(), model_file(sys.argv[2])
    threads = int(os.environ.get("BENCH_THREADS") or num_cpus())
    rounds = int(os.environ.get("BENCH_ROUNDS") or 5)
    llama = find_llama() if model.suffix == ".gguf" else None
    print(f"{model.name} on {cpu_name()}, {threads} threads, {rounds} rounds", flush=True)
    contenders = {"Tandem": Tandem(binaries, model, threads)}
    if llama:
        contenders["llama.cpp"] = LlamaCpp(llama, model, threads)
    results = {name: [] for name in contenders}
    try:
        for number in range(rounds):
            for name, contender in contenders.items():
                results[name].append(contender.measure())
            print(f"round {number + 1} of {rounds} done", flush=True)
    finally:
        for contender in contenders.values():
            contender.stop()
    print(f"model alone: {contenders['Tandem'].numerics}")
    show(results)
    if os.environ.get("BENCH_JSON"):
        pathlib.Path(os.environ["BENCH_JSON"]).write_text(json.dumps(
            {"cpu": cpu_name(), "threads": threads, "model": model.name, "rounds": results}, indent=2))


main()
