"""Golden greedy decodes of the small trained pair, everything in f32, through the three real processes: the same
text, with as many drafts accepted in each round."""

import collections
import itertools

import pytest

from harness import rpc
from harness.drafters import TRAINED_DRAFTER, Drafter, SpeculatingStack, speculation
from harness.paths import golden_json

F32 = ["--dtype", "f32", "--activations", "f32", "--kv-dtype", "f32"]
TRACES = golden_json("drafters/trained_pair/trace_greedy.json")
BLOCK = golden_json("drafters/trained_pair/drafter/config.json")["block_size"]


@pytest.fixture(scope="module")
def stack():
    with SpeculatingStack([Drafter(TRAINED_DRAFTER, *F32, "--markov-top-k", "0")],
                          [*F32, "--row-dtype", "f32", "--policy", f"fixed:{BLOCK}", "--max-draft-tokens", str(BLOCK)]
                          ) as running:
        yield running


def round_lengths(scrape):
    """{tokens of a round, the target's own included: how many rounds}."""
    below = scrape.by_label("tandem_spec_accepted_length_tokens_bucket", "le")
    return collections.Counter({length: int(below[str(length)] - below[str(length - 1)])
                                for length in range(1, BLOCK + 2)})


@pytest.mark.parametrize("trace", TRACES, ids=[f"trace {i}" for i in range(len(TRACES))])
def test_a_trace_is_reproduced_round_by_round(stack, protos, trace):
    before = stack.verifier_metrics.read()
    m = protos.generation
    # Room behind the recorded end, where the reference trims what its last round gave beyond it.
    request = m.GenerateRequest(model="default", token_ids=m.TokenIds(ids=trace["prompt_ids"]),
                                max_tokens=trace["max_new_tokens"] + 2 * BLOCK, sampling=m.Sampling(temperature=0))
    with rpc.channel(stack.grpc) as channel:
        responses = list(protos.generation_grpc.GenerationStub(channel).Generate(request, timeout=60))
    _, tokens, _, _, finished = rpc.collect(responses)
    stack.wait_until_idle()
    after = stack.verifier_metrics.read()

    expected = trace["output_ids"]
    assert tokens[0][:len(expected)] == expected
    # A round in which a stop token was accepted has no token of the target's own.
    lengths = [r["accepted"] + (r["next_kind"] is not None) for r in trace["rounds"]]
    # A delta is a round, or several where the gateway was behind: it ends where some round ended.
    round_ends = set(itertools.accumulate(lengths, initial=1))
    delta_ends = itertools.accumulate(len(r.delta.token_ids) for r in responses if r.WhichOneof("event") == "delta")
    assert {end for end in delta_ends if end <= max(round_ends)} <= round_ends
    found = round_lengths(after) - round_lengths(before)
    drafted, checked, accepted = (b - a for a, b in zip(speculation(before), speculation(after)))
    if expected[-1] in trace["stop_token_ids"]:
        assert found == collections.Counter(lengths)
        assert checked == drafted == BLOCK * len(lengths)
        assert accepted == sum(r["accepted"] for r in trace["rounds"])
    else:
        assert found >= collections.Counter(lengths)
    assert (finished[0].drafted_tokens, finished[0].checked_tokens, finished[0].accepted_tokens) == (
        drafted, checked, accepted)
