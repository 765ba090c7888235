"""What every test needs: the reference vectors, one thread, nothing from the network."""

import json
import os
import pathlib

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def golden_dir() -> pathlib.Path:
    """TANDEM_GOLDEN_DIR, or tests/golden; cases are found by walking, others of the same layout must work."""
    return pathlib.Path(os.environ.get("TANDEM_GOLDEN_DIR") or REPOSITORY / "tests/golden")


def walk(folder: str, marker: str) -> list[pathlib.Path]:
    found = sorted(path.parent for path in (golden_dir() / "drafters" / folder).glob(f"*/{marker}"))
    assert found, f"no golden cases in {golden_dir()}/drafters/{folder}"
    return found


def read_json(path: pathlib.Path):
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def trained_pair() -> pathlib.Path:
    return golden_dir() / "drafters/trained_pair"
