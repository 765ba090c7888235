"""The CPU goals of Tandem, each with its floor and its reach, beside llama.cpp in the same run: `make bench-cpu`.

  C1  decode, ours / llama.cpp, the model alone, around a context of 256, on the same file
  C2  weight bytes x tokens/s / what the machine reads from a buffer as large as the weights with as many threads
  C3  V(8) = T(8)/T(1), logits of all 8 rows; with AMX also V(32) of bf16 and 8-bit
  C4  prefill of 512 tokens, ours / llama.cpp
  C5  speculation on / off, the model with its drafter, one stream, short prompts and contexts of 6k to 8k tokens
  C6  the same with llama.cpp's speculation on the same drafter, at its best setting
  G5  share of a round outside the target's and the drafter's computing
  G10 error of predicted step times; time to decide on 256 sequences of 7 drafts
  S1  CPU per delivered token at 64 streams outside the step loop and its pool, scripted model

Weights are f32, bf16 and 8-bit twins of the dequantised model (twins.py) and the model's own file (4-bit). Activations:
Tandem's are f32 beside f32 and bf16 weights, int8 in blocks of 32 beside 8 and 4 bits; llama.cpp's f32, bf16, int8 in
blocks of 32 (q8_0, q8_1). What is compared works strictly in turns, A B A B. A missed goal is no failure: the exit status
is 0 if everything could be measured.

  tests/bench/bench_cpu.py --bin build/release/bin [--only C1,C3] [--rounds 5] [--prompts FILE ...] [--json FILE]
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import goals
import service_cost
import speculation
from engines import LlamaBench, ModelBench, find_llama
from goals import Goal
from machine import CACHE, Others, cpu_name, fail, has_flag, model_file, num_cpus, spread

HERE = pathlib.Path(__file__).resolve().parent
ALL = ("C1", "C2", "C3", "C4", "C5", "C6", "G5", "G10", "S1")
WIDTHS = ("f32", "bf16", "8-bit", "4-bit")
C1 = dict(zip(WIDTHS, ((0.95, 1.1), (1.1, 1.35), (1.3, 1.65), (1.1, 1.5))))
C2 = dict(zip(WIDTHS, ((0.85, 0.95), (0.75, 0.90), (0.70, 0.90), (None, None))))
C3 = dict(zip(WIDTHS, ((1.5, 1.10), (1.8, 1.30), (2.2, 1.60), (None, None))))
C4 = dict(zip(WIDTHS, ((1.2, 2.0), (1.2, 2.0), (1.2, 3.0), (1.2, 3.0))))
WITH_AMX = {"V(32)": (1.3, 1.1), "prefill": (1.2, 10.0)}
# Of one round of the models alone, and of the rest, on two cores of 2025; for the estimate only.
ROUND_SECONDS, SPECULATION_SECONDS, PEER_SECONDS, SERVICE_SECONDS = 60, 360, 420, 60


def make_environment(name, requirements):
    """A Python environment of the benchmarks' own; its interpreter."""
    folder = CACHE / "bench" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([HERE.parent / "integration/make_venv.sh", folder, HERE / requirements],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        fail(f"no Python environment for {requirements}: {done.stderr[-1000:]}")
    return folder / "bin/python"


def files_by_width(model):
    """The twins, written once into the user's cache, and the model itself."""
    prefix = CACHE / "bench/twins" / f"{model.stem}-{model.stat().st_size}"
    twins = [prefix.with_name(f"{prefix.name}-{width}.gguf") for width in ("f32", "bf16", "q8_0")]
    if not all(twin.exists() for twin in twins):
        subprocess.run([make_environment("python", "requirements.txt"), HERE / "twins.py", model, prefix], check=True,
                       stdout=subprocess.DEVNULL)
    return dict(zip(WIDTHS, [*twins, model]))


class ModelsAlone:
    """C1 to C4: steps of the model in both engines, by width, in turns."""

    def __init__(self, options, model, llama):
        self._files = files_by_width(model)
        self._ours = {width: ModelBench(options.bin, path, options.threads) for width, path in self._files.items()}
        self._theirs = {width: LlamaBench(llama, path, options.threads) for width, path in self._files.items()}
        self._amx = has_flag("amx_int8")
        self._steps = (1, 8, 32) if self._amx else (1, 8)
        self.rounds = {width: {"ours": [], "llama.cpp": []} for width in WIDTHS}

    def round(self, with_peer):
        for width in WIDTHS:
            self.rounds[width]["ours"].append(self._ours[width].measure(self._steps))
            if with_peer:
                self.rounds[width]["llama.cpp"].append(self._theirs[width].measure())

    def _ratios(self, width, figure):
        return [figure(ours) / figure(theirs)
                for ours, theirs in zip(self.rounds[width]["ours"], self.rounds[width]["llama.cpp"])]

    def _medians(self, width, figure, unit):
        ours, theirs = (spread([figure(values) for values in self.rounds[width][who]])[0]
                        for who in ("ours", "llama.cpp"))
        return f"{ours:.0f} and {theirs:.0f} {unit}"

    def goals(self, only):
        found = []
        for width in WIDTHS:
            ours = self.rounds[width]["ours"]
            if "C1" in only:
                found.append(Goal("C1", f"decode, ours / llama.cpp, {width}",
                                  self._ratios(width, lambda figures: 1 / figures["T(1)"]), *C1[width],
                                  detail=self._medians(width, lambda figures: 1 / figures["T(1)"], "tokens/s")))
            if "C2" in only:
                values = [f["weight_bytes"] / f["T(1)"] / f["read_bytes_per_second"] for f in ours]
                limit, size = ours[-1]["read_bytes_per_second"], ours[-1]["weight_bytes"]
                found.append(Goal("C2", f"weights read at / the limit, {width}", values, *C2[width],
                                  detail=f"{size / 1e6:.0f} MB of weights, limit {limit / 1e9:.1f} GB/s"))
            if "C3" in only:
                theirs = [f["T(8)"] / f["T(1)"] for f in self.rounds[width]["llama.cpp"]]
                found.append(Goal("C3", f"V(8), all logits, {width}", [f["T(8)"] / f["T(1)"] for f in ours], *C3[width],
                                  at_most=True,
                                  detail=f"llama.cpp, one logits row: {spread(theirs)[0]:.2f}" if theirs else ""))
                if self._amx and width in ("bf16", "8-bit"):
                    found.append(Goal("C3", f"V(32), all logits, AMX, {width}", [f["T(32)"] / f["T(1)"] for f in ours],
                                      *WITH_AMX["V(32)"], at_most=True))
            if "C4" in only:
                floor, reach = WITH_AMX["prefill"] if self._amx else C4[width]
                found.append(Goal("C4", f"prefill of 512, ours / llama.cpp, {width}",
                                  self._ratios(width, lambda figures: figures["prefill"]), floor, reach,
                                  detail=self._medians(width, lambda figures: figures["prefill"], "tokens/s")))
        return sorted(found, key=lambda goal: goal.name)

    def machine(self):
        """The line that goes with every figure."""
        rates = [f["f32_operations_per_second"] / 1e9 for figures in self.rounds.values() for f in figures["ours"]]
        reads = {width: spread([f["read_bytes_per_second"] / 1e9 for f in figures["ours"]])
                 for width, figures in self.rounds.items()}
        sizes = {width: figures["ours"][0]["weight_bytes"] / 1e6 for width, figures in self.rounds.items()}
        lines = [f"f32 multiply-adds: {max(rates):.0f} GFLOP/s; read from buffers of the weights' sizes: " +
                 ", ".join(f"{sizes[width]:.0f} MB {read[0]:.1f} GB/s" for width, read in reads.items())]
        return lines + [f"{width}: {bench.numerics}" for width, bench in self._ours.items()]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of Tandem's programs")
    parser.add_argument("--model", default="smollm2-135m", help="a pulled name or a GGUF file")
    parser.add_argument("--drafter", default="auto", help="as tandem up's")
    parser.add_argument("--only", default=",".join(ALL), help="goals to measure, such as C1,C3")
    parser.add_argument("--rounds", type=int, default=5, help="alternations")
    parser.add_argument("--threads", type=int, default=num_cpus(), help="of both engines; default: all CPUs")
    parser.add_argument("--prompts", nargs="*", default=[], help='JSON lines of {"turns": ["..."]}; default: a few built in')
    parser.add_argument("--sample", type=int, default=6, help="prompts of C5 and C6")
    parser.add_argument("--max-tokens", type=int, default=96, help="of an answer in C5 and C6")
    parser.add_argument("--json", type=pathlib.Path, help="a file for all figures")
    options = parser.parse_args()
    options.bin = options.bin.resolve()
    options.only = options.only.split(",")
    for name in options.only:
        if name not in ALL:
            parser.error(f"--only: {name} is none of {', '.join(ALL)}")
    return options


def estimate(options):
    only = set(options.only)
    seconds = options.rounds * ROUND_SECONDS * bool(only & {"C1", "C2", "C3", "C4"})
    seconds += SPECULATION_SECONDS * bool(only & {"C5", "G5"}) + PEER_SECONDS * ("C6" in only)
    return seconds + SERVICE_SECONDS * bool(only & {"S1", "G10"})


def main():
    options = parse()
    sys.stdout.reconfigure(line_buffering=True)
    model = model_file(options.model)
    only = set(options.only)
    print(f"{cpu_name()}, {options.threads} threads, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {model.name}")
    print(f"measuring {', '.join(options.only)}: about {estimate(options) / 60:.0f} minutes, and more the first time")
    llama = find_llama(required=True) if only & {"C1", "C3", "C4", "C6"} else None
    others = Others()
    found, record, notes = [], {"cpu": cpu_name(), "threads": options.threads, "model": model.name}, []
    if only & {"C1", "C2", "C3", "C4"}:
        alone = ModelsAlone(options, model, llama)
        for number in range(options.rounds):
            alone.round(with_peer=bool(only & {"C1", "C3", "C4"}))
            print(f"models alone: round {number + 1} of {options.rounds} done")
        found += alone.goals(only)
        notes += alone.machine()
        record["models_alone"] = alone.rounds
    with tempfile.TemporaryDirectory() as folder:
        prompts = speculation.Prompts(options, pathlib.Path(folder))
        if only & {"C5", "G5"}:
            measured = speculation.on_and_off(options, prompts)
            found += [goal for goal in measured.goals() if goal.name in only]
            notes += measured.notes
            record["speculation"] = measured.record
        if "C6" in only:
            measured = speculation.beside_llama(options, prompts, model, llama, make_environment)
            found += measured.goals()
            notes += measured.notes
            record["beside_llama"] = measured.record
        if "G10" in only:
            found += service_cost.scheduling(options, model, prompts)
        if "S1" in only:
            measured = service_cost.delivery(options, model)
            found += measured.goals()
            notes += measured.notes
            record["delivery"] = measured.record
    busy, stolen = others.share()
    notes.append(f"meanwhile other programs took {100 * busy:.1f} % of the machine, its host {100 * stolen:.1f} %" +
                 ("; llama.cpp suffers most from that: measure again when it is quiet" if busy + stolen > 0.03 else ""))
    record |= {"others_share": busy, "stolen_share": stolen}
    print()
    for note in notes:
        print(note)
    print()
    goals.show(found)
    if options.json:
        record["goals"] = [goal.json() for goal in found]
        options.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
