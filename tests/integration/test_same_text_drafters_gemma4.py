"""The same on golden Gemma 4 targets with drafters of theirs, whose layers differ in shape."""

import pytest

from harness.drafters import Drafter, SpeculatingStack, speculation
from harness.paths import GOLDEN, golden_json
from harness.processes import Stack
from harness.subjects import id_requests, with_trained_tokenizer
from harness.workload import answers, assert_equal

CONCURRENT = 32
MAX_ROUNDS = 20


@pytest.mark.parametrize("case", ["dspark_gemma4", "eagle3_gemma4"])
def test_text_is_the_same(case, tmp_path):
    named = golden_json(f"drafters/cases/{case}/facts.json")["target"]
    model = with_trained_tokenizer(GOLDEN / "drafters" / named, tmp_path / "target")
    asked = id_requests(CONCURRENT)
    with Stack(model) as stack:
        alone = answers(stack.http, asked, 1)
    total = [0, 0, 0]
    for policy, transport in (("fixed:2", "shm"), ("fixed:7", "inline")):
        with SpeculatingStack([Drafter(str(GOLDEN / "drafters/cases" / case / "drafter"), target=model)],
                              ["--policy", policy, "--row-transport", transport], model=model) as stack:
            # Such small models hardly ever wait for a draft: again, until one has been accepted, or at least checked.
            for _ in range(MAX_ROUNDS):
                assert_equal(asked, answers(stack.http, asked, CONCURRENT), alone)
                stack.wait_until_idle()
                counts = [a + b for a, b in zip(total, speculation(stack.verifier_metrics.read()))]
                if counts[2] > 0:
                    break
            total = counts
    drafted, checked, accepted = total
    assert drafted >= checked > 0, total
    # Eagle3's weights are random ones, which may never be right.
    assert checked > accepted and (accepted > 0 or case == "eagle3_gemma4"), total
