"""The programs under test as child processes.

Stack      one verifier and one gateway on any free ports, stopped at the end of a `with`
Drafter    one drafter, likewise
Up         `tandem up`, which starts and restarts both itself
Process    one program; ends with the test even if the test fails
"""

import os
import pathlib
import re
import select
import signal
import subprocess
import tempfile
import time

from . import http
from .metrics import Metrics
from .paths import binary
from .waiting import wait_until

ANY = "127.0.0.1:0"
# Nobody polls readiness before routing here, so draining need not wait for that.
NO_DRAIN_DELAY = ["--drain-delay", "0s"]


class Process:
    """A child. Its stderr goes to a file, which a failure at start shows; stdout is read line by line."""

    def __init__(self, command, environment=None):
        self.command = command
        self._stderr = tempfile.NamedTemporaryFile(prefix="tandem-stderr-", suffix=".log")
        self._child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._stderr,
            env={**os.environ, **(environment or {})}, start_new_session=True)
        self.pid = self._child.pid
        self._unread = b""

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.kill()

    def read_line(self, timeout=30.0):
        """The next line of stdout. AssertionError with stderr's end if the process ends or is silent first."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._child.stdout], [], [], max(left, 0))
            data = os.read(self._child.stdout.fileno(), 65536) if ready else b""
            if not data:
                state = f"ended ({self._child.wait(5)})" if ready else f"no line in {timeout} s"
                raise AssertionError(f"{self.command[0]}: {state}\n{self.stderr()[-3000:]}")
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        return line.decode()

    def addresses(self, first_word="listening", timeout=30.0):
        """{'http': 'HOST:PORT', ...} of a line "listening http=HOST:PORT ..."."""
        line = self.read_line(timeout)
        words = line.split()
        assert words and words[0] == first_word, f"expected '{first_word} ...', got {line!r}"
        return dict(word.split("=", 1) for word in words[1:])

    def stderr(self):
        return pathlib.Path(self._stderr.name).read_text(encoding="utf-8", errors="replace")

    def signal(self, number):
        self._child.send_signal(number)

    def running(self):
        return self._child.poll() is None

    def wait(self, timeout=30.0):
        """The exit code; negative for a signal."""
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command[0]} still runs after {timeout} s\n{self.stderr()[-3000:]}") from None

    def terminate(self, timeout=60.0):
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self):
        if self.running():
            self._child.kill()
        self._child.wait()
        self._child.stdout.close()
        if not self._stderr.closed:
            self._stderr.close()


def is_running(pid):
    """Whether `pid` is a process that has not ended (a zombie has)."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] not in "ZX"


def children(pid):
    """{program name: pid} of the running children of `pid`."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            command = (entry / "cmdline").read_bytes().split(b"\0")[0].decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = stat.rsplit(")", 1)[1].split()
        if int(fields[1]) == pid and fields[0] not in "ZX":
            found[os.path.basename(command)] = int(entry.name)
    return found


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_bytes(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M).group(1)) * 1024


def _drain_delay(flags):
    return flags if "--drain-delay" in flags else NO_DRAIN_DELAY + flags


class Drafter:
    """A drafter on any free ports; ready when entered."""

    def __init__(self, model, *flags):
        self._command = [binary("tandem-drafter"), "--model", model, "--listen", ANY, "--metrics", ANY, *flags]

    def __enter__(self):
        self.process = Process(self._command)
        try:
            addresses = self.process.addresses()
            self.grpc, self.metrics = addresses["grpc"], Metrics(addresses["metrics"])
            wait_until(lambda: self.process.running() and self.metrics.read().sum("tandem_ready") == 1,
                       "drafter ready", timeout=60)
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(self, *unused):
        self.process.kill()


class Stack:
    """Verifier and gateway started one by one, each on any free port; ready when entered."""

    def __init__(self, model, verifier=(), gateway=()):
        self.model, self._verifier_flags, self._gateway_flags = model, list(verifier), list(gateway)

    def __enter__(self):
        self.verifier = self.gateway = None
        try:
            self.verifier = Process(
                [binary("tandem-verifier"), "--model", self.model, "--listen", ANY, "--metrics", ANY]
                + _drain_delay(self._verifier_flags))
            verifier = self.verifier.addresses()
            self.verifier_address = verifier["grpc"]
            self.gateway = Process(
                [binary("tandem-gateway"), "--verifier", verifier["grpc"], "--model", self.model, "--http", ANY,
                 "--grpc", ANY, "--metrics", ANY] + _drain_delay(self._gateway_flags))
            gateway = self.gateway.addresses()
            self.http, self.grpc = gateway["http"], gateway["grpc"]
            self.gateway_metrics = Metrics(gateway["metrics"])
            self.verifier_metrics = Metrics(verifier["metrics"])
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_until_ready(self):
        def ready():
            for process in (self.verifier, self.gateway):
                assert process.running(), f"{process.command[0]} ended\n{process.stderr()[-3000:]}"
            return http.get(self.http, "/ready").status == 200

        wait_until(ready, "gateway ready", timeout=60)

    def __exit__(self, *unused):
        for process in (self.gateway, self.verifier):
            if process:
                process.kill()

    def wait_until_idle(self, timeout=30.0):
        """Until no request, stream, sequence or block is in use."""
        def idle():
            gateway, verifier = self.gateway_metrics.read(), self.verifier_metrics.read()
            return (gateway.sum("tandem_requests_running") == 0 and gateway.sum("tandem_requests_waiting") == 0
                    and gateway.sum("tandem_streams_open") == 0 and verifier.sum("tandem_sequences_running") == 0
                    and all_blocks_free(verifier))

        wait_until(idle, "no request, stream, sequence or block in use", timeout)


def all_blocks_free(verifier):
    """free + cached = all blocks."""
    states = verifier.by_label("tandem_kv_blocks", "state")
    total = states.pop("total", None)
    if total is None:
        total = sum(states.values())
    assert total > 0, "the verifier reports no KV blocks"
    return states["free"] + states["cached"] == total


class Up:
    """`tandem up` on any free ports; ready when entered, stopped with SIGTERM (then SIGKILL) at the end."""

    def __init__(self, model, *flags):
        self._command = [binary("tandem"), "up", "--model", model, "--http", ANY, "--grpc", ANY, *flags]

    def __enter__(self):
        self.process = Process(self._command)
        try:
            ready = self.process.addresses("ready", timeout=120)
            self.http, self.grpc = ready["http"], ready["grpc"]
            metrics = dict(entry.split("@") for entry in ready["metrics"].split(","))
            self.gateway_metrics, self.verifier_metrics = Metrics(metrics["gateway"]), Metrics(metrics["verifier"])
            self.drafter_metrics = Metrics(metrics["drafter"]) if "drafter" in metrics else None
        except BaseException:
            self.process.kill()
            raise
        return self

    def child(self, name):
        """The pid of tandem-<name>, or None while it is not running."""
        return children(self.process.pid).get(f"tandem-{name}")

    def __exit__(self, *unused):
        if self.process.running():
            self.process.signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except AssertionError:
                for pid in children(self.process.pid).values():
                    os.kill(pid, signal.SIGKILL)
        self.process.kill()
