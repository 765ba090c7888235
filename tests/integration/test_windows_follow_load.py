"""Draft windows shrink when the verifier's utilisation rises and return when load leaves, as whoever has nothing but
the Prometheus series sees it. Drafts are always worth checking here (synthetic acceptance), so only load decides.
"""

import pytest

from harness.background import Streams
from harness.drafters import Drafter, SpeculatingStack
from harness.paths import SOURCE, smollm2_path
from harness.prometheus import Prometheus
from harness.waiting import wait_until
from harness.workload import long_streams

ACCEPTANCE = "0.8,0.75,0.7,0.65,0.6,0.55,0.5"
# Over the last 2 s, which are ten scrapes.
WINDOW = "rate(tandem_spec_window_tokens_sum[2s]) / rate(tandem_spec_window_tokens_count[2s])"
UTILIZATION = "avg_over_time(tandem_verifier_utilization_ratio[2s])"
REQUESTS = [(path, {**fields, "max_tokens": 100}, streamed) for path, fields, streamed in long_streams(16)]


class AnyText(Streams):
    """Synthetic acceptance makes the text meaningless."""

    def __init__(self, address, clients):
        super().__init__(address, REQUESTS, [None] * len(REQUESTS), clients)

    def _is_as_expected(self, found, expected):
        return bool(found)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    flags = ["--policy", "prefix", "--synthetic-acceptance", ACCEPTANCE]
    model = smollm2_path()
    drafter = Drafter(str(SOURCE / "drafter/default/smollm2-135m-dspark-r0"), target=model)
    with SpeculatingStack([drafter], flags, model=model) as stack:
        targets = {"verifier": stack.verifier_metrics.address}
        with Prometheus(tmp_path_factory.mktemp("prometheus"), targets) as server:
            yield stack, server


def test_windows_fall_with_utilization_and_come_back(prometheus):
    stack, server = prometheus

    def latest(query):
        found = server.query(query)
        return found[0][1] if found else float("nan")

    def reaches(what, condition):
        wait_until(lambda: condition(latest(WINDOW), latest(UTILIZATION)), what, timeout=30, interval=0.2)
        return latest(WINDOW), latest(UTILIZATION)

    with AnyText(stack.http, 1):
        alone = reaches("a stream alone is drafted", lambda window, busy: window > 2 and busy < 0.7)
    with AnyText(stack.http, len(REQUESTS)):
        crowded = reaches("among many nothing is drafted", lambda window, busy: window < 0.5 and busy > 0.95)
    with AnyText(stack.http, 1):
        again = reaches("windows return", lambda window, busy: window > 0.8 * alone[0] and busy < 0.7)
    print(f"window and utilization: alone {alone}, among {len(REQUESTS)} {crowded}, alone again {again}")
