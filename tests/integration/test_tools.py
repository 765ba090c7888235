"""The user's tools of speculation, each as a user would call it, on the small trained pair."""

import concurrent.futures
import json
import re
import subprocess
import xml.etree.ElementTree

import pytest
from harness import http, rpc
from harness.paths import GOLDEN, TRAINED, binary
from harness.processes import ANY, Process, Up, children
from harness.waiting import wait_until

DRAFTER = str(GOLDEN / "drafters/trained_pair/drafter")
PAIR = ["--model", TRAINED, "--drafter", DRAFTER]
QUESTIONS = ["Tell me about Ben.", "Tell me about Anna.", "Who lives in Oslo?"]
GREEN = re.compile("\x1b\\[32m(.*?)\x1b\\[0m", re.S)


def tandem(*arguments, code=0, text=""):
    """Runs the command; its stdout. AssertionError with both outputs if the exit code is another."""
    done = subprocess.run([binary("tandem"), *arguments], input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "questions.jsonl"
    path.write_text("".join(json.dumps({"turns": [question]}) + "\n" for question in QUESTIONS))
    return str(path)


@pytest.fixture(scope="module")
def drafted():
    with Up(TRAINED, "--drafter", DRAFTER, "--set", "verifier.policy=fixed:4",
            "--set", "gateway.per-request-spec-decode-metrics=summary") as up:
        yield up


def test_answers_carry_metrics_of_speculation_as_vllm_names_them(drafted):
    body = http.chat(drafted.http, QUESTIONS[0], temperature=0, max_tokens=64, ignore_eos=True).json()
    metrics = body["metrics"]["speculative_decoding"]
    steps = sum(metrics["acceptance_histogram"])
    accepted = sum(j * count for j, count in enumerate(metrics["acceptance_histogram"]))
    assert steps == metrics["num_spec_steps"] > 0
    assert accepted == metrics["num_accepted_draft_tokens"] > 0
    assert accepted < metrics["num_draft_tokens"] <= metrics["num_proposed_tokens"]
    assert metrics["mean_acceptance_length"] == pytest.approx(1 + accepted / steps)
    assert metrics["draft_acceptance_rate"] == pytest.approx(accepted / metrics["num_draft_tokens"])
    # Every token but the prefill's comes from a step, drafted or not.
    assert steps + accepted <= body["usage"]["completion_tokens"]


def test_drafted_spans_lie_in_the_text_and_change_nothing(drafted):
    fields = {"model": "default", "temperature": 0, "max_tokens": 64, "ignore_eos": True,
              "messages": [{"role": "user", "content": QUESTIONS[0]}]}
    whole = http.post(drafted.http, "/v1/chat/completions", fields).json()["choices"][0]["message"]["content"]
    text, spans, metrics = "", 0, None
    options = {"stream_options": {"include_usage": True, "include_drafts": True}}
    with http.EventStream(drafted.http, "/v1/chat/completions", {**fields, **options}) as events:
        for event in events:
            metrics = event.get("metrics", metrics)
            for choice in event["choices"]:
                content = choice["delta"].get("content", "")
                text += content
                for begin, end in choice.get("drafted_spans", []):
                    assert 0 <= begin < end <= len(content.encode())
                    content.encode()[begin:end].decode()
                    spans += 1
    assert text == whole
    assert spans > 0 and metrics["speculative_decoding"]["num_accepted_draft_tokens"] >= spans


def test_grpc_marks_drafted_tokens(drafted, protos):
    marks, finished = [], None
    with rpc.channel(drafted.grpc) as channel:
        stub = protos.generation_grpc.GenerationStub(channel)
        sampling = protos.generation.Sampling(temperature=0)
        for response in stub.Generate(protos.chat(QUESTIONS[0], sampling=sampling, max_tokens=64, ignore_eos=True),
                                      timeout=60):
            if response.WhichOneof("event") == "delta":
                delta = response.delta
                assert len(delta.drafted) in (0, len(delta.token_ids))
                marks += list(delta.drafted) or [False] * len(delta.token_ids)
            elif response.WhichOneof("event") == "finished":
                finished = response.finished
    assert len(marks) == finished.output_tokens == 64
    assert sum(marks) == finished.accepted_tokens == sum(j * n for j, n in enumerate(finished.steps_by_accepted)) > 0


def test_chat_colours_drafts_and_says_how_many_stood(drafted):
    command = [binary("tandem"), "chat", "--http", drafted.http, "--temperature", "0", "--max-tokens", "40"]
    plain = subprocess.run(command, input=QUESTIONS[0] + "\n", capture_output=True, text=True, timeout=60, check=True)
    shown = subprocess.run([*command, "--show-drafts"], input=QUESTIONS[0] + "\n", capture_output=True, text=True,
                           timeout=60, check=True)
    assert "\x1b" not in plain.stdout
    assert GREEN.search(shown.stdout)
    assert GREEN.sub(r"\1", shown.stdout) == plain.stdout
    assert re.search(r"tokens/s, first after \d+ ms, \d+ % of \d+ drafts accepted, \d\.\d tokens a step\]", plain.stderr)


def test_one_process_says_the_same_while_clients_come_and_go(drafted):
    def ask(address, seed):
        return http.chat(address, QUESTIONS[seed % 3], temperature=0.8, seed=seed, max_tokens=64, ignore_eos=True).json()

    with Up(TRAINED, "--drafter", DRAFTER, "--one-process", "--set", "verifier.policy=fixed:4",
            "--set", "gateway.per-request-spec-decode-metrics=summary") as up, \
            concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert not children(up.process.pid), "all in one process"
        expected = [ask(drafted.http, seed)["choices"][0]["message"] for seed in range(16)]
        answers = pool.map(lambda seed: ask(up.http, seed), range(16))
        leaving = {"model": "default", "messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 200,
                   "ignore_eos": True}
        for _ in range(4):
            with http.EventStream(up.http, "/v1/chat/completions", leaving) as events:
                next(events)
        answers = list(answers)
        assert [answer["choices"][0]["message"] for answer in answers] == expected
        assert sum(answer["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"] for answer in answers) > 0
        assert up.process.terminate() == 0


def test_bench_compares_policies(prompts, tmp_path):
    figures, plot = tmp_path / "figures.json", tmp_path / "figures.svg"
    out = tandem("bench", *PAIR, "--compare", "off,fixed:4", "--prompts", prompts, "--rounds", "2", "--max-tokens", "64",
                 "--json", str(figures), "--plot", str(plot))
    assert "6 of 6 texts are the same under all policies" in out
    off, fixed = json.loads(figures.read_text())["policies"]
    assert (off["policy"], fixed["policy"]) == ("off", "fixed:4")
    assert off["runs"] == fixed["runs"] == 6
    assert off["speed_up"]["p50"] == 1 and off["mean_window"] == off["acceptance"] == 0
    assert fixed["mean_accepted_length"] > 1 and 0 < fixed["mean_window"] <= 4 and 0 < fixed["acceptance"] < 1
    assert off["verify_ratio"] == 1 and fixed["verify_ratio"] > 0
    assert all(0 <= policy["hand_over_share"] < 1 for policy in (off, fixed))
    texts = [node.text for node in xml.etree.ElementTree.parse(plot).iter("{http://www.w3.org/2000/svg}text")]
    assert {"off", "fixed:4"} <= set(texts)


def test_bench_profiles_a_round(tmp_path):
    # Answers take 1 to 2 ms each: of so many, one that waits for a core does not weigh.
    prompts, figures = tmp_path / "questions.jsonl", tmp_path / "profile.json"
    prompts.write_text("".join(json.dumps({"turns": [question]}) + "\n" for question in QUESTIONS) * 20)
    out = tandem("bench", *PAIR, "--profile", "--prompts", str(prompts), "--sample", str(20 * len(QUESTIONS)),
                 "--max-tokens", "64", "--set", "verifier.policy=fixed:4", "--json", str(figures))
    assert "limits here:" in out and "gate_up" in out, out
    profile = json.loads(figures.read_text(encoding="utf-8"))
    seconds = {stage["stage"]: stage["seconds"] for stage in profile["stages"]}
    assert 0 < profile["rounds"] < profile["tokens"], "drafts stood"
    for stage in ("planning", "qkv", "attention", "head", "small", "sampling", "delivering", "drafting"):
        assert seconds[stage] > 0, stage
    assert sum(seconds.values()) == pytest.approx(profile["seconds"], rel=0.2)
    assert profile["read_bytes_per_second"] > 1e8 and profile["f32_operations_per_second"] > 1e8


def test_a_scripted_model_says_its_table_whatever_is_asked():
    with Process([binary("tandem-verifier"), "--model", f"scripted:{TRAINED}", "--listen", ANY, "--metrics", ANY]) as verifier:
        address = verifier.addresses()["grpc"]
        with Process([binary("tandem-gateway"), "--model", TRAINED, "--verifier", address, "--http", ANY, "--grpc", ANY,
                      "--metrics", ANY]) as gateway:
            door = gateway.addresses()["http"]
            wait_until(lambda: http.get(door, "/ready").status == 200, "gateway ready", 60)
            answers = [http.chat(door, question, temperature=temperature, max_tokens=400, ignore_eos=True).json()
                       for question, temperature in ((QUESTIONS[0], 0), (QUESTIONS[0], 1), (QUESTIONS[1], 0))]
        assert "the model is scripted" in verifier.stderr()
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert texts[0] == texts[1] and len(texts[0]) > 200
    assert "lowest way" in texts[0] and "lowest way" in texts[2], texts


def test_bench_names_a_bad_policy(prompts):
    done = subprocess.run([binary("tandem"), "bench", "--compare", "off,sometimes"], capture_output=True, text=True,
                          timeout=30)
    assert done.returncode == 2 and "--compare" in done.stderr and "sometimes" in done.stderr


def test_lossless_is_shown_with_faults(prompts):
    out = tandem("verify-lossless", *PAIR, "--prompts", prompts, "--policy", "fixed:3", "--policy", "prefix")
    assert out.splitlines()[-2].startswith("Shown: ")
    assert re.search(r"^fixed:3 +6/6 +6/6 +(\d+)/\1 ", out, re.M)


def test_lossless_is_not_shown_where_nothing_was_drafted(prompts):
    out = tandem("verify-lossless", *PAIR, "--prompts", prompts, "--policy", "off", code=1)
    assert "NOT SHOWN: no draft was accepted" in out and "DIFFERENT" not in out


def test_a_changed_text_is_found(prompts):
    """Made-up acceptance takes drafts that the model did not choose."""
    out = tandem("verify-lossless", *PAIR, "--prompts", prompts, "--policy", "fixed:3",
                 "--set", "verifier.synthetic-acceptance=0.7,0.7", code=1)
    assert "DIFFERENT under fixed:3: alone, request 0" in out and "Shown:" not in out.replace("NOT SHOWN:", "")


def test_rejection_keeps_the_law(prompts):
    out = tandem("verify-lossless", *PAIR, "--prompts", prompts, "--acceptance", "rejection", "--samples", "600")
    assert "Shown: no difference found" in out
    assert "trusts the drafter's probabilities" in out


def test_replay_gives_the_recorded_policy_its_recorded_speed(tmp_path):
    """Two steps worked by hand: windows of 2, of which 2 and 0 stood, in 10 ms each: 4 tokens in 20 ms."""
    table = [0.004 + 0.0005 * i for i in range(14)]
    header = {"tandem_trace": 1, "policy": "fixed:2", "acceptance": "coupled", "block_size": 4, "numerics_id": "n",
              "step_time": {"table_seconds": table, "num_known_points": 5, "kappa_seconds": 0.0, "pi_seconds": 0.0,
                            "offset_seconds": 0.0}}
    def step(accepted):
        return {"anchors": 1, "kv_positions": 10, "prefill_tokens": 0, "max_draft_rows": 8, "draft_seconds": 0.001,
                "utilization": 0.1, "predicted_seconds": 0.005, "real_seconds": 0.01,
                "sequences": [{"order": 0, "drafted": True, "probe": False, "survivals": [0.8, 0.6, 0.4],
                               "confidences": [0.8, 0.75, 0.7], "window": 2, "accepted": accepted}]}
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps(line) + "\n" for line in (header, step(2), step(0))))
    out = tandem("replay", str(trace), "--policy", "fixed:2", "--policy", "off", "--policy", "fixed:3")
    rows = {re.split(r"  +", line)[0]: line.split() for line in out.splitlines() if "x " in line}
    assert rows["recorded fixed:2"][2:] == ["200.0", "1.00x", "2.00", "2.00"]
    assert rows["fixed:2"][1:] == ["200.0", "1.00x", "2.00", "2.00"]
    assert rows["off"][3:] == ["0.00", "1.00"]
    assert float(rows["fixed:3"][3]) == 3 and float(rows["fixed:3"][4]) == pytest.approx(2 + 0.4 / 0.6 / 2, abs=0.01)
    trace.write_text(trace.read_text() + "{}\n")
    failed = subprocess.run([binary("tandem"), "replay", str(trace)], capture_output=True, text=True, timeout=30)
    assert failed.returncode == 1 and "trace.jsonl:4" in failed.stderr


def test_replay_reads_what_a_verifier_records(tmp_path):
    trace = tmp_path / "trace.jsonl"
    with Up(TRAINED, "--drafter", DRAFTER, "--set", "verifier.policy=fixed:3", "--set", f"verifier.trace={trace}") as up:
        http.chat(up.http, QUESTIONS[0], temperature=0, max_tokens=48, ignore_eos=True)
        assert up.process.terminate() == 0
    out = tandem("replay", str(trace), "--policy", "off", "--policy", "fixed:3")
    rows = {re.split(r"  +", line)[0]: line.split() for line in out.splitlines() if "x " in line}
    assert rows["fixed:3"][1:] == rows["recorded fixed:3"][2:]
    assert rows["off"][3:] == ["0.00", "1.00"] and float(rows["fixed:3"][4]) > 1
