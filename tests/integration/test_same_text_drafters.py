"""With coupled acceptance the text depends on no drafter: not on what it drafts with, nor on how much of it is checked,
nor on what else is checked with it, nor on how hidden rows travel.

The reference is each request alone without drafter. Every pair of values of the factors below occurs in some case;
every drafter with every policy and every window is tests/speculation/same_text_test.cc, in one process.
"""

import collections
import itertools
import shutil

import pytest

from harness.drafters import (TRAINED_DRAFTER, Drafter, SpeculatingStack, known_texts, speculation, without_heads,
                              write_script)
from harness.paths import GOLDEN, TRAINED, golden_json
from harness.processes import Stack
from harness.workload import answers, assert_equal

CONCURRENT = 64
ALONE = 6  # of the same requests, one after the other
TEMPERATURES = [0, 0.7, 1]
VOCABULARY_OF_TRAINED = 260

DRAFTERS = ["none", "DSpark", "DFlash", "ngram", "random", "hostile"]
NEURAL = {"DSpark", "DFlash"}
POLICIES = {
    "off": ["off"],
    "window 0": ["fixed:0"],
    "short window": ["fixed:1", "fixed:2", "fixed:3"],
    "long window": ["fixed:4", "fixed:5", "fixed:6", "fixed:7"],
    "threshold": ["threshold:0.5"],
    "prefix": ["prefix"],
}
OTHERS = {
    "temperature": TEMPERATURES,
    "penalties": [False, True],
    "number": [1, CONCURRENT],
    "transport": ["shm", "inline by verifier", "inline by drafter"],
}


def cover():
    """Cases: each drafter with each kind of policy once, the other factors so that all pairs of values occur."""
    names = ["drafter", "policy", *OTHERS]
    missing = {((a, x), (b, y))
               for (a, xs), (b, ys) in itertools.combinations(
                   [("drafter", DRAFTERS), ("policy", list(POLICIES)), *OTHERS.items()], 2)
               for x in xs for y in ys}
    cases, windows = [], {kind: itertools.cycle(policies) for kind, policies in POLICIES.items()}
    used = collections.Counter()
    for drafter, kind in itertools.product(DRAFTERS, POLICIES):
        def news(values, drafter=drafter, kind=kind):
            return set(itertools.combinations(zip(names, (drafter, kind, *values)), 2)) & missing
        # Where nothing is missing any more, what has been rare so far.
        others = max(itertools.product(*OTHERS.values()),
                     key=lambda values: (len(news(values)),
                                         -sum(used[drafter, value] + used[value] for value in values)))
        missing -= news(others)
        used.update(others)
        used.update((drafter, value) for value in others)
        cases.append((drafter, next(windows[kind]), *others))
    assert not missing, f"pairs that no case has: {missing}"
    assert {policy for _, policy, *_ in cases} == set(itertools.chain(*POLICIES.values()))
    assert len(cases) <= 40
    return cases


def requests(temperature, penalties, count, max_tokens=48):
    users = [example["user"] for example in golden_json("drafters/trained_pair/greedy_examples.json")]
    fields = {"model": "default", "temperature": temperature, "max_tokens": max_tokens}
    if penalties:
        fields.update(repetition_penalty=1.1, frequency_penalty=0.3, presence_penalty=0.2)
    return [("/v1/chat/completions",
             {**fields, "messages": [{"role": "user", "content": users[i % len(users)]}], "seed": 1000 + i,
              **({"logprobs": True, "top_logprobs": 2} if i % 5 == 0 else {})}, i % 2 == 0)
            for i in range(count)]


@pytest.fixture(scope="module")
def alone():
    """(temperature, penalties) -> answers to all requests, each alone, without drafter."""
    with Stack(TRAINED, verifier=["--prefix-cache", "off"]) as stack:
        return {key: answers(stack.http, requests(*key, CONCURRENT), 1)
                for key in itertools.product(TEMPERATURES, OTHERS["penalties"])}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The --model of each drafter."""
    directory = tmp_path_factory.mktemp("drafters")
    # Sure of itself, right about some texts, and now and then everything that a drafter must not do.
    hostile = [{"block_size": 7, "vocab_size": VOCABULARY_OF_TRAINED, "confidence": 30}, {"rule": "successor"},
               *known_texts(),
               *({"misbehave": name, "every": every} for name, every in [
                   ("id_beyond_vocab", 11), ("wrong_anchor", 5), ("nan_confidence", 13), ("stale_length", 7),
                   ("out_of_sync", 17), ("silence", 29), ("number_gap", 41)])]
    return {"DSpark": TRAINED_DRAFTER, "DFlash": without_heads(TRAINED_DRAFTER, directory / "dflash"),
            "ngram": "ngram", "random": "random", "hostile": write_script(directory / "hostile", hostile)}


@pytest.mark.parametrize("drafter, policy, temperature, penalties, number, transport", cover())
def test_text_is_the_same(alone, models, drafter, policy, temperature, penalties, number, transport):
    drafter_flags = ["--row-transport", "inline"] if transport == "inline by drafter" else []
    verifier_flags = ["--policy", policy]
    verifier_flags += ["--row-transport", "inline"] if transport == "inline by verifier" else []
    drafters = [] if drafter == "none" else [Drafter(models[drafter], *drafter_flags)]
    count = ALONE if number == 1 else CONCURRENT
    asked = requests(temperature, penalties, count)
    with SpeculatingStack(drafters, verifier_flags) as stack:
        assert_equal(asked, answers(stack.http, asked, number), alone[temperature, penalties][:count])
        stack.wait_until_idle()
        scrape = stack.verifier_metrics.read()
    assert_speculated(scrape, drafter, policy, transport)


def assert_speculated(scrape, drafter, policy, transport):
    """That the case was about drafts at all."""
    drafted, checked, accepted = speculation(scrape)
    if drafter == "none" or policy == "off":
        assert drafted == checked == 0
        return
    if drafter != "hostile":  # whose stream may be down now
        used = "unix" if transport == "shm" else "grpc"
        assert scrape.sum("tandem_drafter_message_streams", transport=used) == 1
    if policy == "fixed:0":
        assert checked == 0
        return
    if policy != "prefix":  # which may find that few drafts or none pay
        assert drafted > 0 and checked > 0
        if drafter == "hostile":
            reasons = scrape.by_label("tandem_spec_fallback_total", "reason")
            assert sum(reasons[reason] for reason in ("stale", "peer_protocol", "timeout", "breaker")) > 0, reasons
    if drafter in NEURAL and (policy != "prefix" or checked > 100):
        assert accepted > 0, "nothing was accepted"
        assert checked > accepted, "nothing was rejected"
    if drafter in NEURAL and drafted > 0:
        used, unused = ("shm", "inline") if transport == "shm" else ("inline", "shm")
        assert scrape.sum("tandem_hidden_state_bytes_total", transport=used) > 0
        assert scrape.sum("tandem_hidden_state_bytes_total", transport=unused) == 0


# --- Eagle3, whose golden target has no tokenizer; it gets one of bytes, and prompts are ids


@pytest.fixture(scope="module")
def eagle3_target(tmp_path_factory):
    directory = tmp_path_factory.mktemp("eagle3") / "target"
    shutil.copytree(GOLDEN / "drafters/targets/qwen3_tied", directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{TRAINED}/{name}", directory)
    return str(directory)


def test_text_is_the_same_with_eagle3(eagle3_target):
    asked = [("/v1/completions", {"model": "default", "prompt": [(37 * i + 11 * j) % 256 for j in range(5 + 3 * i)],
                                  "temperature": TEMPERATURES[i % 3], "seed": i, "max_tokens": 60, "logprobs": 1},
              i % 2 == 0) for i in range(16)]
    with Stack(eagle3_target) as stack:
        expected = answers(stack.http, asked, 1)
    total = [0, 0, 0]
    for policy, transport in (("fixed:1", "shm"), ("fixed:4", "inline"), ("fixed:7", "shm")):
        drafter = Drafter(str(GOLDEN / "drafters/cases/eagle3/drafter"), target=eagle3_target)
        with SpeculatingStack([drafter], ["--policy", policy, "--row-transport", transport],
                              model=eagle3_target) as stack:
            assert_equal(asked, answers(stack.http, asked, len(asked)), expected)
            stack.wait_until_idle()
            total = [a + b for a, b in zip(total, speculation(stack.verifier_metrics.read()))]
    drafted, checked, accepted = total
    # Random weights are hardly ever right; at temperature 1 the shared noise makes up for some of it.
    assert drafted >= checked > accepted > 0, total
