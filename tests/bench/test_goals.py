"""What the benchmarks say of figures: floors, reaches, sums made of a comparison."""

import pytest
from goals import Goal
from load_sweep import quantile
from speculation import Comparison


@pytest.mark.parametrize("values, at_most, verdict", [
    ([1.0, 1.2, 9.0], False, "floor met"), ([0.1, 0.2, 9.0], False, "MISSED"), ([2.0, 2.0, 0.1], False, "reach met"),
    ([2.0], True, "floor met"), ([2.1], True, "MISSED"), ([1.0], True, "reach met"), ([], True, "not measured")])
def test_the_median_decides(values, at_most, verdict):
    floor, reach = (2.0, 1.0) if at_most else (1.0, 2.0)
    assert Goal("C1", "", values, floor, reach, at_most=at_most).verdict() == verdict


def test_a_figure_without_goal_has_no_verdict():
    assert Goal("C6", "", [1.0], None, None).verdict() == ""


def test_a_speed_up_is_made_of_tau_v_c_and_h():
    comparison = Comparison.__new__(Comparison)
    comparison.off = {"step_ms": 4.0, "hand_over_ms": 0.4}
    policy = {"tokens_per_step": 2.0, "step_ms": 5.0, "drafting_ms": 1.0, "hand_over_ms": 0.6}
    # A round of 6.6 ms gives two tokens, of which each takes 4.4 ms without drafts.
    assert comparison.explain(policy) == "tau 2.00 V 1.25 c 0.25 h/t1 0.15 (0.10 without drafts): 1.33"


def test_quantiles_of_a_histogram_are_linear_within_a_bucket():
    cumulative = {0.1: 50, 0.2: 100, float("inf"): 100}
    assert quantile(cumulative, 0.5) == pytest.approx(0.1)
    assert quantile(cumulative, 0.75) == pytest.approx(0.15)
