"""Text is the same on the golden targets of every family, whose layers see windows, share K and V, differ in shape.

The targets bring no tokenizer; they get one of bytes, and prompts are ids. Preemption and drafts on each of them are
verifier/engine/golden_targets_test.cc, in one process.
"""

import pathlib
import shutil

import pytest

from harness.drafters import Drafter, SpeculatingStack, speculation
from harness.paths import GOLDEN, TRAINED, golden_json
from harness.processes import Stack
from harness.workload import answers, assert_equal

CONCURRENT = 32
TARGETS = sorted(path.parent for path in (GOLDEN / "targets").glob("*/config.json"))


def families():
    """One target of each family, and those whose layers share K and V."""
    chosen = {}
    for target in TARGETS:
        config = golden_json(target / "config.json")
        text = config.get("text_config", config)
        chosen.setdefault((config["model_type"], text.get("num_kv_shared_layers", 0) > 0), target)
    assert {"qwen3", "gemma3_text", "gemma4_text"} <= {model_type for model_type, _ in chosen}
    return list(chosen.values())


def requests(count):
    """Prompts of ids around multiples of blocks and longer than windows; every other one begins as the one before."""
    lengths = [1, 15, 16, 17, 40, 90, 200]
    asked = []
    for i in range(count):
        seed = i // 2
        prompt = [(37 * seed + 11 * j + j * j) % 256 for j in range(lengths[seed % len(lengths)] + i % 2 * 33)]
        asked.append(("/v1/completions",
                      {"model": "default", "prompt": prompt, "temperature": [0, 0.7, 1][i % 3], "seed": i,
                       "max_tokens": 40, "ignore_eos": True, "logprobs": 2}, i % 2 == 0))
    return asked


def with_tokenizer(target, directory):
    shutil.copytree(target, directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{TRAINED}/{name}", directory)
    return str(directory)


@pytest.mark.parametrize("target", families(), ids=lambda target: pathlib.Path(target).name)
def test_text_is_the_same(target, tmp_path):
    model = with_tokenizer(target, tmp_path / "target")
    asked = requests(CONCURRENT)
    with Stack(model, verifier=["--threads", "1", "--prefix-cache", "off"]) as stack:
        alone = answers(stack.http, asked, 1)
    with Stack(model, verifier=["--threads", "2"]) as stack:
        assert_equal(asked, answers(stack.http, asked, CONCURRENT), alone)
        before = stack.gateway_metrics.read().sum("tandem_cached_prompt_tokens_total")
        assert_equal(asked, answers(stack.http, asked, CONCURRENT), alone)
        hits = stack.gateway_metrics.read().sum("tandem_cached_prompt_tokens_total") - before
        assert hits > 0, "the second round took nothing from the cache"
        stack.wait_until_idle()
    with Stack(model, verifier=["--max-step-tokens", "64", "--prefill-chunk", "16"]) as stack:
        assert_equal(asked, answers(stack.http, asked, CONCURRENT), alone)
        stack.wait_until_idle()


@pytest.mark.parametrize("case", ["dspark_gemma4", "eagle3_gemma4"])
def test_text_is_the_same_with_gemma4_drafters(case, tmp_path):
    named = golden_json(f"drafters/cases/{case}/facts.json")["target"]
    model = with_tokenizer(GOLDEN / "drafters" / named, tmp_path / "target")
    asked = requests(CONCURRENT)
    with Stack(model) as stack:
        alone = answers(stack.http, asked, 1)
    total = [0, 0, 0]
    for policy, transport in (("fixed:2", "shm"), ("fixed:7", "inline")):
        with SpeculatingStack([Drafter(str(GOLDEN / "drafters/cases" / case / "drafter"), target=model)],
                              ["--policy", policy, "--row-transport", transport], model=model) as stack:
            assert_equal(asked, answers(stack.http, asked, CONCURRENT), alone)
            stack.wait_until_idle()
            total = [a + b for a, b in zip(total, speculation(stack.verifier_metrics.read()))]
    drafted, checked, accepted = total
    # Random weights are hardly ever right; at temperature 1 the shared noise makes up for some of it.
    assert drafted >= checked > accepted > 0, total
