"""Noise and coupled choices against the golden vectors, bit for bit."""

import struct

import torch
from conftest import golden_dir, read_json

from tandem_trainer.sampling import choose_coupled, gumbel, uniforms


def bits(value):
    return struct.unpack("<I", struct.pack("<f", value))[0]


def test_noise():
    told = read_json(golden_dir() / "sampling/noise.json")
    assert told["streams"] and told["single_tokens"]
    for case in told["streams"]:
        count = len(case["gumbel"])
        where = [int(case["seed"], 16)], torch.tensor([int(case["index"], 16)]), case["stream_tag"], count
        assert [bits(u) for u in uniforms(*where)[0].tolist()] == [int(w, 16) for w in case["uniform_bits"].split()]
        assert gumbel(*where)[0].tolist() == case["gumbel"]
    for case in told["single_tokens"]:
        where = [int(case["seed"], 16)], torch.tensor([int(case["index"], 16)]), case["stream_tag"], case["token"] + 1
        assert gumbel(*where)[0, -1].item() == case["gumbel"]


def test_coupled_choices():
    pairs = read_json(golden_dir() / "sampling/coupling.json")["pairs"]
    assert pairs
    for pair in pairs:
        noise = gumbel([int(pair["seed"], 16)], torch.tensor([pair["index"]]), 0, len(pair["p"]))
        for law, choice in (("p", "target"), ("q", "draft")):
            assert choose_coupled(torch.tensor([pair[law]]).log(), noise, 1.0).item() == pair[choice]
