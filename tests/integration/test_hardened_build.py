"""The programs carry what the compiler and linker offer against memory errors."""

import pathlib
import platform
import re
import subprocess

import pytest

from harness.paths import binary

PROGRAMS = ["tandem", "tandem-gateway", "tandem-verifier", "tandem-drafter"]


def readelf(name, *what):
    return subprocess.run(["readelf", "--wide", *what, binary(name)], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_layout(name):
    assert re.search(r"Type:\s+DYN", readelf(name, "--file-header")), "position-independent"
    segments = readelf(name, "--segments")
    assert "GNU_RELRO" in segments
    stack = next(line for line in segments.splitlines() if "GNU_STACK" in line)
    assert "RWE" not in stack, "the stack is not executable"
    assert re.search(r"FLAGS.*BIND_NOW|FLAGS_1.*NOW", readelf(name, "--dynamic"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_checks(name):
    symbols = readelf(name, "--symbols")
    assert "__stack_chk_fail" in symbols
    assert re.search(r"__\w+_chk@GLIBC", symbols), "calls of the C library that know their buffers' sizes"
    assert "__glibcxx_assert_fail" in symbols, "containers check their indices"


@pytest.mark.parametrize("name", PROGRAMS)
def test_control_flow(name):
    """Targets of indirect jumps are marked. Debian's own start files are not, so the program as a whole claims nothing."""
    if platform.machine() == "x86_64":
        assert pathlib.Path(binary(name)).read_bytes().count(b"\xf3\x0f\x1e\xfa") > 1000  # endbr64
