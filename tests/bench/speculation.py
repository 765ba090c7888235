"""C5, C6 and G5: what speculation brings with the model's own drafter, one stream, greedy, and beside llama.cpp."""

import contextlib
import json
import pathlib
import random
import socket
import statistics
import subprocess
import sys
import time

from engines import HERE
from goals import Goal
from machine import CACHE, fail, run

sys.path.append(str(HERE.parent / "integration"))

from harness import http  # noqa: E402
from harness.paths import SOURCE  # noqa: E402
from harness.processes import Up  # noqa: E402
from harness.waiting import wait_until  # noqa: E402

WINDOWS = (1, 2, 3, 5, 7)
LONG_TOKENS, LONG_SAMPLE = 6500, 2
LONG_CHARACTERS = 26_000  # more than LONG_TOKENS, less than a context
# llama.cpp: drafts at most, and the confidence below which it stops.
SCAN_SAMPLE = 3  # prompts of the search for the best setting
LLAMA_SETTINGS = [*((window, 0.0) for window in WINDOWS), *((7, p) for p in (0.3, 0.5, 0.7, 0.9)), (3, 0.5), (3, 0.7)]


class Prompts:
    """First turns: a sample of the files, in turns; and long ones, a text of this repository with a question behind."""

    def __init__(self, options, folder):
        files = options.prompts or [HERE / "prompts.jsonl"]
        lists = []
        for file in files:
            turns = [json.loads(line)["turns"][0] for line in pathlib.Path(file).read_text("utf-8").splitlines()]
            random.Random(1).shuffle(turns)
            lists.append(turns)
        mixed = [turns[i] for i in range(max(map(len, lists))) for turns in lists if i < len(turns)]
        self.texts = mixed[:options.sample]
        self._folder, self._options = folder, options
        self.short_file = self._write("short", self.texts)

    def _write(self, name, texts):
        path = self._folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"turns": [text]}) + "\n" for text in texts), encoding="utf-8")
        return path

    def long_file(self):
        """LONG_SAMPLE prompts of LONG_TOKENS tokens and a question."""
        documents = [path.read_text("utf-8") for path in sorted((SOURCE / "docs").glob("*.md"))]
        texts = []
        with Up(self._options.model, "--drafter", "none") as stack:
            for number in range(LONG_SAMPLE):
                document = "\n".join(documents[number:] + documents[:number])[:LONG_CHARACTERS]
                fields = {"model": "default", "prompt": document}
                ids = http.post(stack.http, "/tokenize", fields).json()["tokens"][:LONG_TOKENS]
                cut = http.post(stack.http, "/detokenize", {"model": "default", "tokens": ids}).json()["prompt"]
                texts.append(f"Read this text.\n\n{cut}\n\nSummarise its most important points in a numbered list.")
        return self._write("long", texts)


class Comparison:
    """`tandem bench --compare` of `off` with other policies."""

    def __init__(self, options, prompts, sample, policies, rounds, name):
        self._name = name
        path = prompts.with_suffix(".json")
        settings = [f"--set={process}.threads={options.threads}" for process in ("verifier", "drafter")]
        run(options.bin / "tandem", "bench", "--compare", ",".join(("off", *policies)), "--model", options.model,
            "--drafter", options.drafter, "--prompts", prompts, "--sample", sample, "--rounds", rounds, "--max-tokens",
            options.max_tokens, "--time-limit", "10m", "--json", path, *settings)
        self.result = json.loads(path.read_text("utf-8"))
        self.off, *self.others = self.result["policies"]

    def explain(self, policy):
        """tau, V, c, h of a policy and the speed-up that they make: a round takes V + c + h of a step without drafts, a
        token without them a step and its own hand-over."""
        step = self.off["step_ms"]
        terms = {"tau": policy["tokens_per_step"], "V": policy["step_ms"] / step, "c": policy["drafting_ms"] / step,
                 "h": policy["hand_over_ms"] / step}
        alone = 1 + self.off["hand_over_ms"] / step
        made = terms["tau"] * alone / (terms["V"] + terms["c"] + terms["h"])
        return (f"tau {terms['tau']:.2f} V {terms['V']:.2f} c {terms['c']:.2f} h/t1 {terms['h']:.2f} "
                f"({self.off['hand_over_ms'] / step:.2f} without drafts): {made:.2f}")

    def goals(self):
        found = []
        for policy in self.others:
            speed_up = policy["speed_up"]
            counts = policy["policy"] == "prefix"
            found.append(Goal("C5", f"{policy['policy']} / off, {self._name}",
                              [speed_up["p25"], speed_up["p50"], speed_up["p75"]],
                              1.5 if counts else None, 2.2 if counts else None, detail=self.explain(policy)))
        return found

    def hand_over(self):
        return [Goal("G5", f"hand-over, {policy['policy']}, {self._name}", [100 * policy["hand_over_share"]],
                     *((3, 1) if policy is not self.off else (None, None)), at_most=True, unit="%",
                     detail=f"{1e3 * policy['hand_over_ms']:.0f} us of a round")
                for policy in self.result["policies"]]


class Measured:
    def __init__(self, goals, notes, record):
        self._goals, self.notes, self.record = goals, notes, record

    def goals(self):
        return self._goals


def on_and_off(options, prompts):
    short = Comparison(options, prompts.short_file, len(prompts.texts), ("prefix", "fixed:1", "fixed:2", "fixed:3"),
                       options.rounds, "short prompts")
    print("C5: short prompts done")
    long = Comparison(options, prompts.long_file(), LONG_SAMPLE, ("prefix", "fixed:2"), options.rounds,
                      f"context {LONG_TOKENS}")
    print("C5: long contexts done")
    notes = [f"C5: {c.result['pairs'] - c.result['different_texts']} of {c.result['pairs']} texts of {name} are the same "
             "under all policies" for name, c in (("short prompts", short), ("long contexts", long))]
    return Measured(short.goals() + long.goals() + short.hand_over(), notes,
                    {"short": short.result, "long": long.result})


# --- beside llama.cpp


def ask(address, prompt, max_tokens):
    """(text, tokens/s behind the first token) of a greedy streamed chat answer."""
    first = last = None
    text, tokens = "", 0
    request = {"model": "default", "messages": [{"role": "user", "content": prompt}], "temperature": 0,
               "max_tokens": max_tokens, "stream_options": {"include_usage": True}}
    with http.EventStream(address, "/v1/chat/completions", request) as events:
        for event in events:
            now = time.monotonic()
            content = event["choices"][0]["delta"].get("content") if event["choices"] else None
            if content:
                text += content
                last = now
                first = first or now
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
    if not tokens or first is None or last == first:
        fail(f"{address} gave {tokens} tokens to measure")
    return text, (tokens - 1) / (last - first)


class Contender:
    """An address with the texts and speeds of its answers."""

    def __init__(self, name, address):
        self.name, self._address = name, address
        self.texts, self.speeds = {}, []

    def answer(self, prompt, max_tokens):
        text, speed = ask(self._address, prompt, max_tokens)
        self.texts.setdefault(prompt, set()).add(text)
        self.speeds.append(speed)
        return speed

    def same_texts(self, other):
        """Of how many prompts all answers equal the other's."""
        return sum(texts == other.texts[prompt] and len(texts) == 1 for prompt, texts in self.texts.items())


@contextlib.contextmanager
def llama_server(program, model, threads, drafter=None, window=0, p_min=0.0):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % free.getsockname()[1]
    # Its threads spin while they wait, those of target and drafter against each other: five times slower on two cores.
    flags = ["-md", drafter, "--spec-type", "draft-dspark", "--spec-draft-n-max", window, "--spec-draft-p-min", p_min,
             "--poll", 0, "--spec-draft-poll", 0] if drafter else []
    command = [program, "-m", model, "-t", threads, "-c", 4096, "-np", 1, "-ngl", 0, "--jinja", "--host", "127.0.0.1",
               "--port", address.rsplit(":", 1)[1], *flags]
    with open(CACHE / "bench/llama-server.log", "wb") as log:
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)

        def ready():
            if process.poll() is not None:
                fail(f"llama-server ended: {pathlib.Path(log.name).read_text(errors='replace')[-2000:]}")
            with contextlib.suppress(OSError):
                return http.get(address, "/health").status == 200

        try:
            wait_until(ready, "llama-server ready", 120)
            yield address
        finally:
            process.kill()
            process.wait()


def converted_drafter(options, model, make_environment, source):
    """The drafter as llama.cpp has it, converted once."""
    path = pathlib.Path(options.drafter)
    if options.drafter == "auto":
        path, = (SOURCE / "drafter/default").iterdir()
    if not (path / "model.safetensors").exists():
        fail(f"C6 needs a DSpark drafter in a folder, not {options.drafter}")
    digest = run("sha256sum", path / "model.safetensors").split()[0][:16]
    out = CACHE / "bench/drafters" / f"{path.name}-{digest}.gguf"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        run(make_environment("python-convert", "requirements-convert.txt"), HERE / "convert_drafter.py", source, path, model,
            out)
    return out


def beside_llama(options, prompts, model, llama, make_environment):
    server = llama.with_name("llama-server")
    drafter = converted_drafter(options, model, make_environment, llama.parents[2] / "source")
    texts = prompts.texts

    def median_speed(contender, texts=texts[:SCAN_SAMPLE]):
        for prompt in texts:
            contender.answer(prompt, options.max_tokens)
        speed = statistics.median(contender.speeds)
        contender.speeds.clear()
        return speed

    record = {"llama_scan": {}, "tandem_scan": {}, "rounds": {}}
    for window, p_min in LLAMA_SETTINGS:
        with llama_server(server, model, options.threads, drafter, window, p_min) as address:
            speed = record["llama_scan"][f"n-max {window}, p-min {p_min}"] = median_speed(Contender("scan", address))
        print(f"C6: llama.cpp with n-max {window}, p-min {p_min}: {speed:.0f} tokens/s")
    best = max(LLAMA_SETTINGS, key=lambda s: record["llama_scan"][f"n-max {s[0]}, p-min {s[1]}"])

    def tandem(policy):
        flags = [f"--set=verifier.threads={options.threads}", f"--set=drafter.threads={options.threads}"]
        return Up(options.model, *flags, *(("--drafter", "none") if policy == "off" else
                                           ("--drafter", options.drafter, f"--set=verifier.policy={policy}")))

    for window in WINDOWS:
        with tandem(f"fixed:{window}") as stack:
            speed = record["tandem_scan"][f"fixed:{window}"] = median_speed(Contender("scan", stack.http))
        print(f"C6: Tandem with fixed:{window}: {speed:.0f} tokens/s")
    fixed = max(record["tandem_scan"], key=record["tandem_scan"].get)
    with contextlib.ExitStack() as running:
        contenders = [Contender(f"Tandem {policy}", running.enter_context(tandem(policy)).http)
                      for policy in ("off", "prefix", fixed)]
        for name, arguments in (("llama.cpp off", ()), ("llama.cpp with drafts", (drafter, *best))):
            address = running.enter_context(llama_server(server, model, options.threads, *arguments))
            contenders.append(Contender(name, address))
        for contender in contenders:  # prompts into the caches, policies learn
            median_speed(contender, texts)
        pairs = []
        for number in range(options.rounds):
            for place, prompt in enumerate(texts):
                turn = (number + place) % len(contenders)
                speeds = {c.name: c.answer(prompt, options.max_tokens) for c in contenders[turn:] + contenders[:turn]}
                pairs.append(speeds)
            print(f"C6: round {number + 1} of {options.rounds} done")
    record["rounds"] = pairs
    return _sum_up(contenders, pairs, record, best)


def _sum_up(contenders, pairs, record, best):
    off, prefix, fixed, llama_off, llama_drafts = contenders
    medians = {c.name: statistics.median(c.speeds) for c in contenders}

    def ratios(ours, theirs):
        return [speeds[ours.name] / speeds[theirs.name] for speeds in pairs]

    goals = [Goal("C6", f"{ours.name} / llama.cpp, its best with drafts", ratios(ours, llama_drafts), 1.5, 2.5,
                  detail=f"{medians[ours.name]:.0f} and {medians[llama_drafts.name]:.0f} tokens/s, "
                         f"n-max {best[0]}, p-min {best[1]}") for ours in (prefix, fixed)]
    goals += [Goal("C6", f"{ours.name} / {theirs.name}", ratios(ours, theirs), None, None,
                   detail=f"{medians[ours.name]:.0f} and {medians[theirs.name]:.0f} tokens/s")
              for ours, theirs in ((prefix, llama_off), (off, llama_off), (llama_drafts, llama_off))]
    count = len(off.texts)
    notes = [f"C6: greedy texts as without drafts: Tandem prefix {prefix.same_texts(off)}, {fixed.name} "
             f"{fixed.same_texts(off)}, llama.cpp {llama_drafts.same_texts(llama_off)} of {count}; "
             f"Tandem's and llama.cpp's own without drafts: {off.same_texts(llama_off)} of {count}",
             "C6: the scan: llama.cpp's settings, tokens/s: " +
             ", ".join(f"{name}: {speed:.0f}" for name, speed in record["llama_scan"].items()),
             "C6: the scan: Tandem's windows, tokens/s: " +
             ", ".join(f"{name}: {speed:.0f}" for name, speed in record["tandem_scan"].items())]
    return Measured(goals, notes, record)
