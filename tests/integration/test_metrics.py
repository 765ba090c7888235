"""The metrics of all three processes, as Prometheus sees them: each series is there from the start, none comes later.
"""

import pytest

from harness.drafters import Drafter, SpeculatingStack
from harness.prometheus import Prometheus, check_metrics
from harness.waiting import wait_until
from harness.workload import answers, mixed_requests

POSITIONS = {"position": {str(i) for i in range(1, 8)}}
SURVIVALS = {"survival": {"0", *(f"0.{tenth}" for tenth in range(1, 10))}}
TRANSPORTS = {"transport": {"inline", "shm"}}
MESSAGE_TRANSPORTS = {"transport": {"grpc", "unix"}}
# Name, without tandem_, -> values that its labels have at least.
OF_ALL = {
    "ready": {}, "build_info": {}, "log_dropped_total": {}, "emfile_total": {},
    "open_connections": {"listener": {"grpc", "metrics"}}, "protocol_errors_total": {}, "handshake_failures_total": {},
}
SERIES = {
    "gateway": {
        "requests_waiting": {}, "requests_running": {}, "waiting_tokens": {}, "kv_cache_usage_ratio": {},
        "cache_config_info": {}, "streams_open": {"api": {"http", "grpc"}},
        "verifiers": {"state": {"ready", "connecting", "draining", "down"}},
        "requests_accepted_total": {}, "requests_total": {"api": {"chat", "completions", "grpc"}, "code": {"OK"}},
        "requests_rejected_total": {"reason": {
            "validation", "unsupported", "too_long", "too_large", "auth", "denied", "model", "unimplemented",
            "queue_full", "quota", "kv_full", "memory", "starting", "draining", "no_backend", "deadline", "write_stall",
            "cancelled", "backend_lost", "peer_protocol", "internal", "corrupt"}},
        "failovers_total": {"outcome": {"resumed", "lost"}}, "prompt_tokens_total": {},
        "cached_prompt_tokens_total": {}, "generation_tokens_total": {}, "preemptions_total": {},
        "unknown_field_total": {}, "write_stalls_total": {}, "time_to_first_token_seconds_count": {},
        "time_per_output_token_seconds_count": {}, "inter_token_latency_seconds_count": {},
        "request_duration_seconds_count": {}, "queue_time_seconds_count": {}, "prefill_time_seconds_count": {},
        "decode_time_seconds_count": {}, "request_prompt_tokens_count": {}, "request_generation_tokens_count": {},
        "stale_messages_total": {"stream": {"run"}}, "out_of_sync_total": {"stream": {"run"}},
        "model_load_bytes": {}, "model_load_seconds": {}, "model_info": {},
        "open_connections": {"listener": {"http", "grpc", "metrics"}},
        "rpc_server_duration_seconds_count": {"method": {"Generate", "Tokenize", "Detokenize", "ListModels"}},
    },
    "verifier": {
        "spec_proposed_tokens_total": {}, "spec_drafts_total": {}, "spec_draft_tokens_total": {},
        "spec_accepted_tokens_total": {}, "spec_expected_accepted_tokens_total": {},
        "spec_checked_tokens_per_pos_total": POSITIONS, "spec_accepted_tokens_per_pos_total": POSITIONS,
        "spec_expected_accepted_tokens_per_survival_total": SURVIVALS,
        "spec_checked_tokens_per_survival_total": SURVIVALS, "spec_accepted_tokens_per_survival_total": SURVIVALS,
        "spec_window_tokens_count": {}, "spec_accepted_length_tokens_count": {},
        "spec_calibration_error_ratio": POSITIONS, "spec_policy": {"policy": {"fixed:7"}},
        "breaker_state": {"state": {"closed", "open", "half_open"}}, "drafter_up": {},
        "spec_fallback_total": {"reason": {"stale", "timeout", "breaker", "no_rows", "drafter_down", "uncalibrated",
                                           "cost", "credit", "peer_protocol"}},
        "hidden_state_bytes_total": TRANSPORTS, "draft_wait_seconds_count": {},
        "drafter_streams": TRANSPORTS, "drafter_message_streams": MESSAGE_TRANSPORTS,
        "drafter_streams_ended_total": {"reason": {"misfit", "protocol", "away"}},
        "drafter_fingerprint_warnings_total": {}, "run_message_streams": MESSAGE_TRANSPORTS,
        "step_seconds_count": {"phase": {"plan", "forward", "sample", "project", "deliver"}}, "step_tokens_count": {},
        "step_sequences_count": {}, "step_prediction_error_ratio_count": {}, "verifier_utilization_ratio": {},
        "verifier_utilization_part_ratio": {"kind": {"tokens", "kv"}}, "sequences_running": {},
        "kv_blocks": {"state": {"free", "cached", "used"}}, "max_num_seqs": {}, "verifier_busy_seconds_total": {},
        "out_of_sync_total": {"stream": {"speculate"}}, "stale_messages_total": {"stream": {"run"}},
        "model_load_bytes": {}, "model_load_seconds": {}, "model_info": {},
        "rpc_server_duration_seconds_count": {"method": {"Run"}},
    },
    "drafter": {
        "drafter_sequences": {}, "drafter_context_lag_tokens": {}, "draft_step_seconds_count": {},
        "drafter_context_token_bytes": {},
        "drafter_busy_seconds_total": {}, "drafter_drafts_total": {}, "drafter_draft_tokens_total": {},
        "drafter_context_rows_total": {}, "drafter_shared_rows_total": {}, "drafter_evictions_total": {},
        "drafter_streams": TRANSPORTS, "drafter_message_streams": MESSAGE_TRANSPORTS,
        "kv_blocks": {"state": {"free", "used"}},
        "out_of_sync_total": {"stream": {"speculate"}}, "stale_messages_total": {"stream": {"speculate"}},
        "model_load_bytes": {}, "model_load_seconds": {}, "model_info": {},
        "rpc_server_duration_seconds_count": {"method": {"Speculate"}},
    },
}
# Counters that the start itself raises: the warm-up's steps.
RAISED_BY_START = {"tandem_verifier_busy_seconds_total", "tandem_verifier_prompt_tokens_total",
                   "tandem_verifier_generated_tokens_total", "process_cpu_seconds_total"}
MAX_SERIES = 1000
OWN = {"job", "instance"}  # labels that Prometheus adds


def series_of(prometheus, job):
    """{(name, labels): value} of all that a job's process says."""
    found = {}
    for labels, value in prometheus.query(f'{{job="{job}"}}'):
        name = labels.pop("__name__")
        if name == "up" or name.startswith("scrape_"):
            continue
        found[name, tuple(sorted((k, v) for k, v in labels.items() if k not in OWN))] = value
    return found


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """The stack, its drafter, {job: address}, Prometheus, and what each process said before the first request."""
    drafter = Drafter()
    with SpeculatingStack([drafter], ["--policy", "fixed:7"]) as stack:
        targets = {"gateway": stack.gateway_metrics.address, "verifier": stack.verifier_metrics.address,
                   "drafter": drafter.metrics.address}
        with Prometheus(tmp_path_factory.mktemp("prometheus"), targets) as prometheus:
            yield stack, targets, prometheus, {job: series_of(prometheus, job) for job in targets}


@pytest.mark.parametrize("job", SERIES)
def test_every_series_is_there_from_the_start_at_0(scraped, job):
    _, _, _, at_start = scraped
    found = at_start[job]
    for name, labels in {**OF_ALL, **SERIES[job]}.items():
        series = [dict(have) for full, have in found if full == f"tandem_{name}"]
        assert series, f"no tandem_{name}"
        for label, values in labels.items():
            assert values <= {have.get(label) for have in series}, f"tandem_{name} by {label}: {series}"
    for (name, labels), value in found.items():
        if name.endswith(("_total", "_count")) and name not in RAISED_BY_START and not name.startswith("tandem_step_"):
            assert value == 0 or name == "tandem_spec_window_tokens_count", (name, labels, value)
    assert len(found) <= MAX_SERIES
    for name in ("open_fds", "max_fds", "resident_memory_bytes", "cpu_seconds_total", "start_time_seconds"):
        assert found[f"process_{name}", ()] > 0


def test_promtool_has_nothing_to_say(scraped):
    _, targets, _, _ = scraped
    assert {job: check_metrics(address) for job, address in targets.items()} == dict.fromkeys(targets, "")


def test_requests_raise_series_and_add_none(scraped):
    stack, _, prometheus, at_start = scraped
    requests = mixed_requests(40, seed=9)
    answers(stack.http, requests, 8)
    stack.wait_until_idle()
    raised = {
        "gateway": ["requests_accepted_total", "generation_tokens_total", "time_to_first_token_seconds_count"],
        "verifier": ["spec_proposed_tokens_total", "spec_drafts_total", "spec_draft_tokens_total",
                     "spec_accepted_tokens_total", "spec_expected_accepted_tokens_total", "draft_wait_seconds_count",
                     "spec_accepted_length_tokens_count"],
        "drafter": ["drafter_drafts_total", "drafter_draft_tokens_total", "drafter_context_rows_total",
                    "draft_step_seconds_count", "drafter_busy_seconds_total"],
    }
    for job, names in raised.items():
        for name in names:
            wait_until(lambda: sum(value for _, value in prometheus.query(f'tandem_{name}{{job="{job}"}}')) > 0, name)
        now = series_of(prometheus, job)
        assert set(now) == set(at_start[job]), set(now) ^ set(at_start[job])
    # Rates and ratios as dashboards and alerts ask for them.
    (_, ratio), = prometheus.query("tandem_spec_accepted_tokens_total / tandem_spec_draft_tokens_total")
    assert 0 < ratio < 1
    by_position = prometheus.query("sum(tandem_spec_accepted_tokens_per_pos_total) "
                                   "- sum(tandem_spec_accepted_tokens_total)")
    assert by_position[0][1] == 0
    for name in ("accepted", "expected_accepted"):
        (_, difference), = prometheus.query(f"sum(tandem_spec_{name}_tokens_per_survival_total) "
                                            f"- sum(tandem_spec_{name}_tokens_total)")
        assert difference == pytest.approx(0, abs=1e-6), name
