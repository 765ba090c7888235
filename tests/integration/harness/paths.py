"""Where programs, golden data and models lie."""

import json
import os
import pathlib

import pytest

SOURCE = pathlib.Path(__file__).resolve().parents[3]


def _directory(variable, default):
    value = os.environ.get(variable)
    return pathlib.Path(value) if value else default


def binary(name):
    """A program of the build under test: TANDEM_BIN, or the release build."""
    return str(_directory("TANDEM_BIN", SOURCE / "build/release/bin") / name)


GOLDEN = _directory("TANDEM_GOLDEN_DIR", SOURCE / "tests/golden")
TRAINED = str(GOLDEN / "drafters/trained_pair/target")
SMOLLM2 = "smollm2-135m"


def golden_json(path):
    """A golden file as Python objects; a file that is not there or empty is a failure, never a skip."""
    value = json.loads((GOLDEN / path).read_text(encoding="utf-8"))
    assert value, f"{path} holds no case"
    return value


def trained_config():
    """config.json of the small trained model."""
    return json.loads(pathlib.Path(TRAINED, "config.json").read_text(encoding="utf-8"))


def offline():
    return os.environ.get("TANDEM_OFFLINE") == "1"


def pulled_path(name):
    """The file that `tandem pull` got. Skips where TANDEM_OFFLINE=1 left it out; fails otherwise."""
    cache = _directory("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
    files = sorted((cache / "tandem/models" / name).glob("*.gguf"))
    if not files:
        message = f"{name} is not in the cache; run: tandem pull {name}"
        pytest.skip(message) if offline() else pytest.fail(message)
    return str(files[0])


def smollm2_path():
    return pulled_path(SMOLLM2)
