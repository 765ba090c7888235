"""Tandem's programs for tests that need them: those of TANDEM_BIN, or of the release build."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/integration"))

pytest.importorskip("grpc_tools", reason="needs grpcio-tools")
pytest.importorskip("hpack", reason="needs the packages of tests/requirements.txt")
pytest.importorskip("yaml", reason="needs the packages of tests/requirements.txt")

from harness import paths  # noqa: E402
from harness.processes import ANY, Drafter, Process, Stack, Up  # noqa: E402
from harness.waiting import wait_until  # noqa: E402

if not pathlib.Path(paths.binary("tandem-drafter")).exists():
    pytest.skip(f"{paths.binary('tandem-drafter')} is not built", allow_module_level=True)

__all__ = ["ANY", "Drafter", "Process", "Stack", "Up", "paths", "wait_until"]
