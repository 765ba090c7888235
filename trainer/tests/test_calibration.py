"""Fits against the golden tables; what they are for."""

import numpy
import pytest
import safetensors.numpy
import torch
from conftest import golden_dir, read_json

from tandem_trainer.calibration import GRID, fit, fit_scale_bias, fit_temperatures, sigmoid
from tandem_trainer.evaluation.metrics import confidence_quality
from tandem_trainer.evaluation.rounds import Rounds

TABLES = golden_dir() / "drafters/tables"


def cases():
    told = read_json(TABLES / "calibration.json")["cases"]
    arrays = safetensors.numpy.load_file(TABLES / "calibration.safetensors")
    assert told
    return [
        (i, case, {k.split(".", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{i}.")})
        for i, case in enumerate(told)
    ]


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case[0]))
def test_sequential_temperatures_and_metrics(case):
    _, told, arrays = case
    logits = arrays["confidence_logits"].astype(numpy.float64)
    proposed, accepted = arrays["proposal_length"], arrays["accepted"]
    found = fit_temperatures(logits, proposed, accepted)
    numpy.testing.assert_allclose(found, told["temperatures"], rtol=1e-12)
    survival = numpy.cumprod(sigmoid(logits / numpy.array(found)), 1)
    numpy.testing.assert_allclose(survival, arrays["calibrated_survival"], atol=1e-6)
    quality = confidence_quality(sigmoid(logits), proposed, accepted)
    for k, metrics in enumerate(told["metrics_raw"]):
        assert quality.ece[k] == pytest.approx(metrics["ece"], abs=1e-6)
        assert quality.brier[k] == pytest.approx(metrics["brier"], abs=1e-6)
        if metrics["auc"] is not None and not numpy.isnan(metrics["auc"]):
            assert quality.auroc[k] == pytest.approx(metrics["auc"], abs=1e-6)
    numpy.testing.assert_allclose(quality.ece, told["ece_raw"], atol=1e-9)


def test_the_trained_pairs_temperatures():
    told = read_json(golden_dir() / "drafters/trained_pair/tau.json")["sequential_temperatures"]
    arrays = safetensors.numpy.load_file(golden_dir() / "drafters/trained_pair/rejection_rounds.safetensors")
    found = fit_temperatures(
        arrays["confidence_logits"].astype(numpy.float64), arrays["proposal_length"], arrays["accepted"]
    )
    numpy.testing.assert_allclose(found, told["temperatures"], rtol=1e-12)
    assert set(numpy.round(found, 12)) <= set(numpy.round(GRID, 12))


def test_scale_and_bias_find_what_made_the_data():
    random = numpy.random.default_rng(1)
    scale, bias = numpy.array([0.6, 1.5, 1.0]), numpy.array([-0.7, 0.4, 0.0])
    logits = random.normal(0, 1.5, (60000, 3))
    passed = random.random(logits.shape) < sigmoid(logits * scale + bias)
    accepted = numpy.cumprod(passed, 1).sum(1)
    proposed = numpy.full(len(logits), 3)
    found = numpy.array(fit_scale_bias(logits, proposed, accepted))
    numpy.testing.assert_allclose(found[:, 0], scale, atol=0.05)
    numpy.testing.assert_allclose(found[:, 1], bias, atol=0.06)
    rounds = Rounds(
        torch.from_numpy(proposed),
        torch.from_numpy(accepted),
        torch.zeros(len(logits), dtype=torch.bool),
        torch.from_numpy(logits),
        ["x"] * len(logits),
        torch.arange(len(logits)),
    )
    whole = fit(rounds)
    numpy.testing.assert_allclose(numpy.array(whole.scale_bias), found, atol=1e-6)
    raw, by_temperature, by_scale_bias = whole.raw, whole.by_temperature, whole.by_scale_bias
    assert by_scale_bias.ece[0] < 0.015 < by_temperature.ece[0] < raw.ece[0]


def test_positions_that_nothing_reached_stay_as_they_are():
    logits, none = numpy.zeros((5, 2)), numpy.zeros(5, int)
    assert fit_scale_bias(logits, numpy.full(5, 1), none)[1] == [1.0, 0.0]
    assert fit_temperatures(logits, numpy.full(5, 1), none)[1] == 1.0
