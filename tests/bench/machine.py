"""What the benchmarks have in common: this machine, programs that are run to their end, figures summed up."""

import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import time

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tandem"


def fail(message):
    sys.exit(f"{pathlib.Path(sys.argv[0]).stem}: {message}")


def run(*command, environment=None):
    """The program's stdout; ends this one if it fails."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, **(environment or {})})
    if done.returncode != 0:
        fail(f"{command[0]} exited with {done.returncode}: {done.stderr[-2000:]}{done.stdout[-500:]}")
    return done.stdout


def _cpuinfo(key):
    match = re.search(rf"^{key}\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return match.group(1) if match else ""


def cpu_name():
    """With family and model, since virtual machines often hide the rest."""
    name = _cpuinfo("model name") or "unknown CPU"
    return f"{name} (family {_cpuinfo('cpu family')}, model {_cpuinfo('model')})"


def has_flag(flag):
    return flag in _cpuinfo("flags").split()


def num_cpus():
    return len(os.sched_getaffinity(0))


def model_file(model):
    """The path of a named model in the user's cache; a path stands for itself."""
    if os.path.exists(model):
        return pathlib.Path(model)
    files = sorted((CACHE / "models" / model).glob("*.gguf"))
    if not files:
        fail(f"{model} is neither a path nor a pulled model")
    return files[0]


def spread(values):
    """(median, smallest, largest), or None."""
    values = sorted(values)
    return (statistics.median(values), values[0], values[-1]) if values else None


class Others:
    """What programs other than this one and its children took of the machine since it was made. Children count once they
    have ended."""

    def __init__(self):
        self._begin = self._read()

    @staticmethod
    def _read():
        user, nice, system, idle, iowait, irq, softirq, steal, *_ = (
            int(word) / os.sysconf("SC_CLK_TCK")
            for word in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:])
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own = sum(u.ru_utime + u.ru_stime for u in usage)
        return user + nice + system + irq + softirq - own, steal, time.monotonic()

    def share(self):
        """(share of the CPUs' time, and what the host took of it)."""
        others, steal, now = (new - old for new, old in zip(self._read(), self._begin))
        whole = now * os.cpu_count()
        return max(0.0, others) / whole, steal / whole
