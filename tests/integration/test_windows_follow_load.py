"""Draft windows shrink when the verifier's utilisation rises and return when load leaves, as whoever has nothing but
the Prometheus series sees it. Drafts are always worth checking here (synthetic acceptance), so only load decides.
"""

import pytest

from harness.background import Streams
from harness.drafters import Drafter, SpeculatingStack
from harness.paths import SOURCE, smollm2_path
from harness.prometheus import Prometheus
from harness.waiting import wait_until

ACCEPTANCE = "0.8,0.75,0.7,0.65,0.6,0.55,0.5"
# Over the last 2 s, which are ten scrapes.
WINDOW = "rate(tandem_spec_window_tokens_sum[2s]) / rate(tandem_spec_window_tokens_count[2s])"
UTILIZATION = "avg_over_time(tandem_verifier_utilization_ratio[2s])"
# The default drafter is sure of itself in such texts, so that drafting begins at once.
PROBLEM = ("A baker sells {} loaves of bread a day for {} dollars each. How much money does he make in {} days? "
           "Think step by step.")
REQUESTS = [("/v1/chat/completions",
             {"model": "default", "messages": [{"role": "user", "content": PROBLEM.format(10 + i, 2 + i % 5, 3 + i)}],
              "temperature": 0, "max_tokens": 100, "ignore_eos": True}, True) for i in range(16)]


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
        found = None

        def reached():
            nonlocal found
            found = latest(WINDOW), latest(UTILIZATION)
            return condition(*found)

        try:
            wait_until(reached, what, timeout=40, interval=0.2)
        finally:
            print(f"{what}: window and utilization {found}")
        return found

    with AnyText(stack.http, 1):
        window, _ = reaches("a stream alone is drafted", lambda window, busy: window > 2 and busy < 0.7)
    with AnyText(stack.http, len(REQUESTS)):
        reaches("among many nothing is drafted", lambda window, busy: window < 0.5 and busy > 0.95)
    with AnyText(stack.http, 1):
        reaches("windows return", lambda again, busy: again > 0.7 * window and busy < 0.7)
