"""Start, stop and faults at start of the programs, as operators and supervisors see them."""

import concurrent.futures
import json
import os
import signal
import subprocess
import time

import pytest

from harness import http, rpc
from harness.metrics import Metrics
from harness.paths import GOLDEN, TRAINED, binary, golden_json
from harness.processes import ANY, Process, Stack, Up, children, is_running
from harness.waiting import wait_until
from harness.workload import answer

EXAMPLE = golden_json("drafters/trained_pair/greedy_examples.json")[0]
PROGRAMS = ["tandem-verifier", "tandem-gateway"]
LONG = ("/v1/chat/completions",
        {"model": "default", "messages": [{"role": "user", "content": EXAMPLE["user"]}], "temperature": 0.7,
         "seed": 5, "ignore_eos": True, "max_tokens": 400}, True)
STREAMS = 24


def greedy_text(address):
    answer = http.chat(address, EXAMPLE["user"], temperature=0)
    assert answer.status == 200, answer
    return answer.json()["choices"][0]["message"]["content"]


def held_requests(pool, address, metrics, verifier, number):
    """Futures of requests that cannot end: their verifier has been stopped before, so they keep a drain from ending."""
    os.kill(verifier, signal.SIGSTOP)
    futures = [pool.submit(answer, address, LONG) for _ in range(number)]
    wait_until(lambda: metrics.read().sum("tandem_requests_running") == number, "the requests are with the verifier")
    return futures


def held_request(pool, address, metrics, verifier):
    return held_requests(pool, address, metrics, verifier, 1)[0]


def wait_for_drain(address):
    wait_until(lambda: http.get(address, "/ready").status == 503, "draining")


def test_sigterm_lets_running_streams_finish_and_exits_0():
    with Stack(TRAINED) as stack, concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        expected = answer(stack.http, LONG)
        futures = held_requests(pool, stack.http, stack.gateway_metrics, stack.verifier.pid, STREAMS)
        stack.gateway.signal(signal.SIGTERM)
        wait_for_drain(stack.http)
        stack.verifier.signal(signal.SIGCONT)
        assert [future.result(60) for future in futures] == [expected] * STREAMS
        assert stack.gateway.wait(40) == 0
        assert stack.verifier.terminate(10) == 0


def refusal(address):
    """The answer to a new request, if it is refused; None if it was taken, whereupon it is cancelled."""
    fields = {"model": "default", "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 1}
    try:
        refused = http.request(address, "POST", "/v1/chat/completions", json.dumps(fields),
                               {"Content-Type": "application/json"}, timeout=0.2)
    except TimeoutError:
        return None
    return refused if refused.status == 503 else None


def test_while_draining_new_requests_are_refused_and_ready_is_503():
    with Stack(TRAINED, gateway=["--drain-delay", "1s"]) as stack, concurrent.futures.ThreadPoolExecutor(1) as pool:
        expected = answer(stack.http, LONG)
        future = held_request(pool, stack.http, stack.gateway_metrics, stack.verifier.pid)
        stack.gateway.signal(signal.SIGTERM)
        wait_for_drain(stack.http)
        assert http.get(stack.http, "/health").status == 200
        refused = wait_until(lambda: refusal(stack.http), "new requests refused after the delay")
        assert refused.error()["code"] == "unavailable" and int(refused.headers["retry-after"]) >= 1
        stack.verifier.signal(signal.SIGCONT)
        assert future.result(60) == expected
        assert stack.gateway.wait(40) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_drain_at_once(number):
    with Stack(TRAINED) as stack, concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = held_request(pool, stack.http, stack.gateway_metrics, stack.verifier.pid)
        stack.gateway.signal(number)
        wait_for_drain(stack.http)
        stack.gateway.signal(number)
        assert stack.gateway.wait(3) == -number
        assert future.exception(10) is not None


def test_tandem_up_drains_and_leaves_no_child_behind():
    with Up(TRAINED) as up, concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        expected = answer(up.http, LONG)
        pids = children(up.process.pid)
        assert set(pids) == {"tandem-verifier", "tandem-gateway"}
        futures = held_requests(pool, up.http, up.gateway_metrics, pids["tandem-verifier"], STREAMS)
        up.process.signal(signal.SIGINT)
        wait_for_drain(up.http)
        os.kill(pids["tandem-verifier"], signal.SIGCONT)
        assert [future.result(60) for future in futures] == [expected] * STREAMS
        assert up.process.wait(50) == 0
        assert not [name for name, pid in pids.items() if is_running(pid)]


@pytest.mark.parametrize("flags", [(), ("--one-process",)], ids=["processes", "one process"])
def test_tandem_up_serves_reflection(flags):
    list_services = b"\x3a\x00"  # ServerReflectionRequest{list_services: ""}
    with Up(TRAINED, *flags) as up, rpc.channel(up.grpc) as channel:
        ask = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        assert b"tandem.v1.Generation" in next(iter(ask(iter([list_services]), timeout=10)))


def test_a_second_ctrl_c_on_the_terminal_ends_tandem_up_at_once():
    with Up(TRAINED) as up, concurrent.futures.ThreadPoolExecutor(1) as pool:
        pids = children(up.process.pid)
        future = held_request(pool, up.http, up.gateway_metrics, pids["tandem-verifier"])
        os.killpg(up.process.pid, signal.SIGINT)
        wait_for_drain(up.http)
        os.killpg(up.process.pid, signal.SIGINT)
        up.process.wait(5)
        os.kill(pids["tandem-verifier"], signal.SIGCONT)
        wait_until(lambda: not any(is_running(pid) for pid in pids.values()), "children gone")
        future.exception(10)


def test_no_child_outlives_a_killed_tandem_up():
    with Up(TRAINED) as up:
        pids = children(up.process.pid)
        assert len(pids) == 2
        up.process.signal(signal.SIGKILL)
        up.process.wait(5)
        wait_until(lambda: not any(is_running(pid) for pid in pids.values()), "children gone")


def test_two_run_side_by_side_with_ports_of_their_own():
    with Up(TRAINED) as one, Up(TRAINED) as two:
        ports = [one.http, one.grpc, one.gateway_metrics.address, one.verifier_metrics.address,
                 two.http, two.grpc, two.gateway_metrics.address, two.verifier_metrics.address]
        assert len(set(ports)) == len(ports)
        assert greedy_text(one.http) == greedy_text(two.http) == EXAMPLE["greedy_text"]
        assert one.process.terminate() == 0
        assert greedy_text(two.http) == EXAMPLE["greedy_text"]


def test_a_killed_gateway_is_restarted_at_its_address():
    with Up(TRAINED) as up:
        victim = up.child("gateway")
        os.kill(victim, signal.SIGKILL)

        def serves():
            try:
                return up.child("gateway") not in (None, victim) and http.get(up.http, "/ready").status == 200
            except OSError:
                return False

        wait_until(serves, "gateway restarted")
        assert greedy_text(up.http) == EXAMPLE["greedy_text"]


def test_a_gateway_without_verifier_is_alive_but_not_ready():
    with Process([binary("tandem-gateway"), "--verifier", "127.0.0.1:1", "--model", TRAINED, "--http", ANY, "--grpc",
                  ANY, "--metrics", ANY]) as gateway:
        address = gateway.addresses()["http"]
        assert http.get(address, "/health").status == 200
        assert http.get(address, "/ready").status == 503
        begin = time.monotonic()
        refused = http.chat(address, "Hi.")
        assert refused.status == 503 and refused.error()["code"] == "unavailable"
        assert time.monotonic() - begin < 6


def run(*command, timeout=20, environment=None):
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout,
                          env={**os.environ, **(environment or {})})
    done.seconds = time.monotonic() - begin
    return done


def required(program):
    return ["--model", TRAINED] + (["--verifier", "127.0.0.1:1"] if program == "tandem-gateway" else [])


@pytest.mark.parametrize("program", PROGRAMS + ["tandem"])
def test_version_and_help_exit_0(program):
    version = run(binary(program), "--version")
    assert version.returncode == 0 and version.stdout.startswith(program + " ") and version.stderr == ""
    usage = run(binary(program), "--help")
    assert usage.returncode == 0 and len(usage.stdout) > 200


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_names_every_flag_of_the_contract(program):
    flags = {"tandem-verifier": "model listen metrics threads dtype activations kv-dtype kv-bytes prefix-cache "
                                "prefill-chunk max-step-tokens device drain-delay config check-config version",
             "tandem-gateway": "verifier model http grpc metrics drain-delay config check-config version"}[program]
    text = run(binary(program), "--help").stdout
    assert [flag for flag in flags.split() if f"--{flag}" not in text] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_check_config_reads_the_files_and_exits_0(program):
    done = run(binary(program), *required(program), "--check-config")
    assert done.returncode == 0, done.stderr
    assert "listening" not in done.stdout


@pytest.mark.parametrize("program, flags", [
    ("tandem-verifier", ["--no-such-flag"]), ("tandem-verifier", ["--threads", "-1"]),
    ("tandem-verifier", ["--threads", "many"]), ("tandem-verifier", ["--dtype", "f8"]),
    ("tandem-verifier", ["--listen", "nowhere"]), ("tandem-verifier", ["--kv-bytes", "99999999999999999999"]),
    ("tandem-verifier", ["--prefix-cache", "maybe"]), ("tandem-verifier", ["stray"]),
    ("tandem-gateway", ["--no-such-flag"]), ("tandem-gateway", ["--http", "127.0.0.1:70000"]),
    ("tandem-gateway", ["--drain-delay", "soon"]),
])
def test_bad_usage_exits_2_with_one_line(program, flags):
    done = run(binary(program), *required(program), *flags)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == ""


def test_bad_usage_of_the_environment_and_the_file_names_the_place(tmp_path):
    done = run(binary("tandem-verifier"), *required("tandem-verifier"), environment={"TANDEM_THREADS": "x"})
    assert done.returncode == 2 and "TANDEM_THREADS" in done.stderr
    config = tmp_path / "verifier.toml"
    config.write_text('threads = "x"\n')
    done = run(binary("tandem-verifier"), *required("tandem-verifier"), "--config", str(config))
    assert done.returncode == 2 and "threads" in done.stderr


def test_flags_win_over_environment_and_file(tmp_path):
    config = tmp_path / "verifier.toml"
    config.write_text("threads = 99999999\n")
    done = run(binary("tandem-verifier"), *required("tandem-verifier"), "--config", str(config), "--threads", "1",
               "--check-config", environment={"TANDEM_DTYPE": "nonsense"})
    assert done.returncode == 2 and "TANDEM_DTYPE" in done.stderr
    done = run(binary("tandem-verifier"), *required("tandem-verifier"), "--dtype", "f32", "--check-config",
               environment={"TANDEM_THREADS": "1"})
    assert done.returncode == 0, done.stderr


def bad_models():
    expected = golden_json("gguf_bad/expected.json")
    directory = GOLDEN / "gguf_bad"
    names = [path.name for path in sorted(directory.glob("*.gguf")) if "ok" not in path.stem]
    assert expected and names
    return ["no/such/model", "empty directory", *names[::8]]


@pytest.mark.parametrize("name", bad_models())
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_bad_model_exits_1_with_one_line_in_2_s(program, name, tmp_path):
    path = tmp_path if name == "empty directory" else GOLDEN / "gguf_bad" / name
    flags = ["--verifier", "127.0.0.1:1"] if program == "tandem-gateway" else []
    done = run(binary(program), "--model", str(path), *flags)
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.seconds < 2


def test_an_address_in_use_exits_1_with_one_line():
    with Stack(TRAINED) as stack:
        for command in ([binary("tandem-verifier"), "--listen", stack.verifier_address, "--metrics", ANY],
                        [binary("tandem-gateway"), "--http", stack.http, "--grpc", ANY, "--metrics", ANY],
                        [binary("tandem-gateway"), "--http", ANY, "--grpc", stack.grpc, "--metrics", ANY]):
            done = run(*command, *required(os.path.basename(command[0])))
            assert done.returncode == 1, (command, done.returncode, done.stderr)
            assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_gateway_of_another_model_never_becomes_ready(tmp_path):
    # The same tokenizer, other weights in name only: EOS ids differ.
    other = tmp_path / "other"
    other.mkdir()
    for file in os.listdir(TRAINED):
        (other / file).write_bytes(open(os.path.join(TRAINED, file), "rb").read())
    for file in ("config.json", "generation_config.json"):
        settings = json.loads((other / file).read_text())
        settings["eos_token_id"] = 7
        (other / file).write_text(json.dumps(settings))
    with Process([binary("tandem-verifier"), "--model", TRAINED, "--listen", ANY, "--metrics", ANY]) as verifier:
        address = verifier.addresses()["grpc"]
        with Process([binary("tandem-gateway"), "--verifier", address, "--model", str(other), "--http", ANY, "--grpc",
                      ANY, "--metrics", ANY]) as gateway:
            listening = gateway.addresses()
            wait_until(lambda: Metrics(listening["metrics"]).read().sum("tandem_handshake_failures_total") > 0,
                       "the mismatch is counted")
            assert http.get(listening["http"], "/ready").status == 503
