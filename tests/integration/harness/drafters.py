"""Drafters as processes, and what they draft with: checkpoints made from golden ones, scripts of known drafts."""

import contextlib
import json
import os
import pathlib
import shutil
import struct

from .metrics import Metrics
from .paths import GOLDEN, TRAINED, binary, golden_json
from .processes import ANY, Process, Stack, descriptors
from .waiting import wait_until

TRAINED_DRAFTER = str(GOLDEN / "drafters/trained_pair/drafter")


class Drafter:
    """One tandem-drafter. Ends with the `with`, or with kill(); start() begins another one at the same address."""

    def __init__(self, model=TRAINED_DRAFTER, *flags, target=TRAINED):
        self.command(model, *flags, target=target)
        self._address = ANY

    def command(self, model, *flags, target=TRAINED):
        """What the next start() runs."""
        self._command = [binary("tandem-drafter"), "--model", model, "--target", target, "--metrics", ANY, *flags]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *unused):
        self.kill()

    def start(self):
        self.process = Process([*self._command, "--listen", self._address])
        addresses = self.process.addresses()
        self._address = self.address = addresses["grpc"]
        self.metrics = Metrics(addresses["metrics"])

    def kill(self):
        self.process.kill()

    @property
    def pid(self):
        return self.process.pid


class SpeculatingStack(Stack):
    """A gateway and a verifier with drafters, which are started first; entered once all their streams are open."""

    def __init__(self, drafters, verifier=(), model=TRAINED, gateway=()):
        super().__init__(model, verifier, gateway)
        self.drafters = list(drafters)

    def __enter__(self):
        try:
            for drafter in self.drafters:
                drafter.start()
                self._verifier_flags += ["--drafter", drafter.address]
            super().__enter__()
            self.wait_for_drafters(len(self.drafters))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused):
        super().__exit__()
        for drafter in self.drafters:
            if hasattr(drafter, "process"):
                drafter.kill()

    def wait_for_drafters(self, count, timeout=30.0):
        wait_until(lambda: count == 0 or self.verifier_metrics.read().sum("tandem_drafter_up") == count,
                   f"{count} drafters connected", timeout)


def speculation(scrape):
    """(drafted, checked, accepted) tokens of a verifier's scrape."""
    return tuple(int(scrape.sum(f"tandem_spec_{kind}_tokens_total")) for kind in ("proposed", "draft", "accepted"))


def rings(pid):
    """Names of the shared memory through which the verifier `pid` passes rows."""
    return [name for name in os.listdir("/dev/shm") if name.startswith(f"tandem-{pid}-")]


# --- what a verifier's metrics say of its drafters, and what must hold

FALLBACK = "tandem_spec_fallback_total"
BACK = 5.0  # s from a drafter's return until its drafts are accepted again
# A draft timeout is 200 ms in tests, where a round takes some milliseconds; the rest is for clients and machine.
LONGEST_PAUSE = 1.5


def accepted(metrics):
    return speculation(metrics.read())[2]


def fallbacks(metrics, *reasons):
    by_reason = metrics.read().by_label(FALLBACK, "reason")
    return sum(by_reason[reason] for reason in reasons)


def wait_until_used(metrics, more=200, timeout=30.0):
    """Until `more` drafts have been accepted from now on."""
    begin = accepted(metrics)
    wait_until(lambda: accepted(metrics) >= begin + more, f"{more} more drafts accepted than {begin}", timeout)


@contextlib.contextmanager
def nothing_left(verifier_pid, metrics):
    """Descriptors of a verifier as before, no shared memory of it, no breaker open, all drafters connected."""
    before = descriptors(verifier_pid)
    up = metrics.read().sum("tandem_drafter_up")
    yield
    wait_until(lambda: descriptors(verifier_pid) <= before, "descriptors back")
    wait_until(lambda: not rings(verifier_pid), "no shared memory left")
    wait_until(lambda: metrics.read().sum("tandem_drafter_up") == up, "all drafters connected")
    wait_until(lambda: metrics.read().sum("tandem_breaker_state", state="closed") == up, "no breaker open")


# --- checkpoints


def _read_tensors(path):
    data = pathlib.Path(path).read_bytes()
    size, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        tensors[name] = (tensor["dtype"], tensor["shape"], data[8 + size + begin:8 + size + end])
    return tensors


def _write_tensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def without_heads(dspark, out):
    """A DFlash drafter: the same backbone without its sequential and confidence heads. Returns its path."""
    dspark, out = pathlib.Path(dspark), pathlib.Path(out)
    out.mkdir(exist_ok=True)
    config = json.loads((dspark / "config.json").read_text(encoding="utf-8"))
    config.update(markov_rank=0, enable_confidence_head=False)
    for name in ("markov_head_type", "confidence_head_with_markov"):
        config.pop(name, None)
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = _read_tensors(dspark / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items()
            if not name.startswith(("markov_head.", "confidence_head."))}
    assert len(kept) < len(tensors), f"{dspark} has no heads"
    _write_tensors(out / "model.safetensors", kept)
    return str(out)


def with_other_projection(drafter, out):
    """The same drafter after some more training: one weight of the projection of its rows differs. Its path."""
    drafter, out = pathlib.Path(drafter), pathlib.Path(out)
    shutil.copytree(drafter, out)
    tensors = _read_tensors(out / "model.safetensors")
    dtype, shape, values = tensors["fc.weight"]
    tensors["fc.weight"] = (dtype, shape, bytes([values[0] ^ 1]) + values[1:])
    _write_tensors(out / "model.safetensors", tensors)
    return str(out)


# --- scripts (drafter/models/script.h)


def known_texts():
    """Lines of a script that is right about the greedy answers of the small trained model."""
    return [{"text": example["prompt_ids"] + example["greedy_ids"]}
            for example in golden_json("drafters/trained_pair/greedy_examples.json")]


def write_script(path, lines):
    """The --model of a scripted drafter."""
    pathlib.Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return f"scripted:{path}"
