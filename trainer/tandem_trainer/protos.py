"""Python modules of Tandem's proto files, generated when they are first needed."""

from __future__ import annotations

import functools
import importlib
import pathlib
import sys
import tempfile
import types

from tandem_trainer.errors import UserError

NAMES = ("run", "speculate", "capture")


@functools.cache
def load() -> types.SimpleNamespace:
    """run, speculate, capture: messages; *_grpc: stubs. Needs grpcio, grpcio-tools and the repository's proto/."""
    try:
        import grpc  # noqa: F401
        from grpc_tools import protoc
    except ImportError as error:
        raise UserError(
            "talking to a verifier needs grpcio and grpcio-tools (pip install 'tandem-trainer[capture]')"
        ) from error
    root = pathlib.Path(__file__).resolve().parents[2] / "proto"
    files = [root / f"tandem/v1/{name}.proto" for name in NAMES]
    files = [file for file in files if file.exists()]
    if not files:
        raise UserError(f"{root}: no proto files; install the trainer from a checkout with pip install -e trainer")
    directory = tempfile.mkdtemp(prefix="tandem-protos-")
    code = protoc.main(
        ["protoc", f"-I{root}", f"--python_out={directory}", f"--grpc_python_out={directory}", *map(str, files)]
    )
    if code != 0:
        raise UserError(f"{root}: protoc failed with {code}")
    sys.path.insert(0, directory)
    modules = {}
    for file in files:
        modules[file.stem] = importlib.import_module(f"tandem.v1.{file.stem}_pb2")
        modules[f"{file.stem}_grpc"] = importlib.import_module(f"tandem.v1.{file.stem}_pb2_grpc")
    return types.SimpleNamespace(**modules)
