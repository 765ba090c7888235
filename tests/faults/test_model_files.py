"""Bad model files, by the rows of docs/hostile-input.md: each program ends with 1 within 2 s, with one line that names
the file and the reason, and never takes memory by a number that only the file claims. A file that goes bad later hurts
nobody who has read it.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import pytest

from harness import http
from harness.paths import GOLDEN, TRAINED, binary, golden_json
from harness.processes import ANY, Process, Stack, Up
from harness.safetensors import safetensors_header
from harness.waiting import wait_until

EXAMPLE = golden_json("drafters/trained_pair/greedy_examples.json")[0]
DRAFTER = str(GOLDEN / "drafters/trained_pair/drafter")
BAD = GOLDEN / "gguf_bad"
PROGRAMS = ["tandem-verifier", "tandem-gateway"]  # both read the model of --model
SECONDS = 2.0
MORE_BYTES = 64 << 20  # than the program takes before it has read anything; the largest bad file has 8 MB


# A process counts what its parent held when it was started to its own peak, and pytest grows: something small starts it.
LAUNCHER = """
import os, sys
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
os.write(int(sys.argv[1]), b"%d %d" % (os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024))
"""


class Ended:
    """A program that was run to its end."""

    def __init__(self, command, timeout=20):
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb") as result, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            begin = time.monotonic()
            launcher = subprocess.Popen([sys.executable, "-I", "-S", "-c", LAUNCHER, str(write_end), *command],
                                        stdin=subprocess.DEVNULL, stdout=out, stderr=err, pass_fds=[write_end],
                                        start_new_session=True)
            os.close(write_end)
            try:
                launcher.wait(timeout)
            finally:
                if launcher.poll() is None:
                    os.killpg(launcher.pid, signal.SIGKILL)
                    launcher.wait()
            self.seconds = time.monotonic() - begin
            self.code, self.peak_bytes = (int(word) for word in result.read().split())
            self.stdout, self.stderr = (_whole(file) for file in (out, err))


def _whole(file):
    file.seek(0)
    return file.read().decode("utf-8")


def command(program, model, *flags):
    addresses = {"tandem-verifier": ["--listen", ANY, "--metrics", ANY],
                 "tandem-drafter": ["--listen", ANY, "--metrics", ANY],
                 "tandem-gateway": ["--verifier", "127.0.0.1:1", "--http", ANY, "--grpc", ANY, "--metrics", ANY]}
    return [binary(program), "--model", str(model), *addresses[program], *flags]


@pytest.fixture(scope="module")
def usual_bytes():
    """{program: its peak memory where it has nothing to read}."""
    return {program: Ended(command(program, "/no/such/model")).peak_bytes for program in PROGRAMS + ["tandem-drafter"]}


def assert_refused(done, program, names, reason, usual_bytes):
    assert done.code == 1, (done.code, done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(program + ": "), done.stderr
    assert str(names) in done.stderr, done.stderr
    assert re.search(reason, done.stderr), (reason, done.stderr)
    assert done.seconds < SECONDS, done.seconds
    assert done.peak_bytes < usual_bytes[program] + MORE_BYTES, (done.peak_bytes, usual_bytes[program])


# --- M1 to M8: what the containers claim. Golden files, each with what is wrong with it; the model loader must refuse
# them at the latest, and both programs load the model.

def bad_containers():
    expected = golden_json("gguf_bad/expected.json")
    names = [name for name, case in expected.items() if case["refused_by"] in ("container", "model")]
    # A safetensors file is opened as its directory's model, below.
    return sorted(name for name in names if name.endswith(".gguf"))


@pytest.mark.parametrize("name", bad_containers())
def test_m1_to_m8_gguf_files_that_lie(name, usual_bytes):
    for program in PROGRAMS:
        assert_refused(Ended(command(program, BAD / name)), program, BAD / name, "", usual_bytes)


def small_config():
    return {"model_type": "qwen3", "vocab_size": 300, "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8,
            "rms_norm_eps": 1e-6, "max_position_embeddings": 64, "tie_word_embeddings": True, "eos_token_id": 0}


def shapes_of(config):
    """{tensor: shape} of a one-layer Qwen3."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer = {"input_layernorm": [hidden], "post_attention_layernorm": [hidden], "self_attn.q_proj": [queries, hidden],
             "self_attn.k_proj": [keys, hidden], "self_attn.v_proj": [keys, hidden],
             "self_attn.o_proj": [hidden, queries], "self_attn.q_norm": [head], "self_attn.k_norm": [head],
             "mlp.gate_proj": [inner, hidden], "mlp.up_proj": [inner, hidden], "mlp.down_proj": [hidden, inner]}
    shapes = {f"model.layers.0.{name}.weight": shape for name, shape in layer.items()}
    return {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden], **shapes}


def byte_alphabet():
    """The character of each byte in byte-level vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def small_tokenizer():
    vocab = {text: byte for byte, text in enumerate(byte_alphabet())}
    vocab["th"] = 256
    return {"model": {"type": "BPE", "vocab": vocab, "merges": [["t", "h"]]},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
            "added_tokens": [{"id": 257, "content": "<|im_end|>", "special": True, "normalized": False}]}


class Directory:
    """A Hugging Face directory, healthy until a test changes it."""

    def __init__(self, path, tokenizer=None):
        self.path = pathlib.Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.write("config.json", small_config())
        self.write("tokenizer.json", small_tokenizer() if tokenizer is None else tokenizer)
        header, size = safetensors_header(shapes_of(small_config()))
        (self.path / "model.safetensors").write_bytes(header + bytes(size))

    def write(self, name, value):
        (self.path / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def refused_by_all(directory, names, reason, usual_bytes):
    for program in PROGRAMS:
        assert_refused(Ended(command(program, directory)), program, names, reason, usual_bytes)


def test_the_healthy_directory_is_taken(tmp_path):
    # Or the tests below would be refused for something else.
    directory = Directory(tmp_path / "model")
    for program in PROGRAMS:
        done = Ended([*command(program, directory.path), "--check-config"])
        assert done.code == 0, done.stderr


def bad_safetensors():
    return sorted(path.name for path in BAD.glob("*.safetensors") if path.stem != "ok")


@pytest.mark.parametrize("name", bad_safetensors())
def test_m1_to_m8_safetensors_files_that_lie(name, tmp_path, usual_bytes):
    directory = Directory(tmp_path / "model")
    shutil.copyfile(BAD / name, directory.path / "model.safetensors")
    refused_by_all(directory.path, directory.path, "", usual_bytes)


def bad_indexes():
    return sorted(path.parent.name for path in BAD.glob("index_*/model.safetensors.index.json")
                  if path.parent.name != "index_ok")


@pytest.mark.parametrize("name", bad_indexes())
def test_m1_to_m8_indexes_that_lie(name, tmp_path, usual_bytes):
    directory = Directory(tmp_path / "model")
    (directory.path / "model.safetensors").unlink()
    shutil.copytree(BAD / name, directory.path, dirs_exist_ok=True)
    refused_by_all(directory.path, directory.path, "", usual_bytes)


def test_m2_a_header_above_the_limit(tmp_path, usual_bytes):
    # It is all there, so only the limit stands between it and the parser; the file is sparse.
    directory = Directory(tmp_path / "model")
    with open(directory.path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", 25_000_001) + b"{")
        file.truncate(8 + 25_000_001)
    refused_by_all(directory.path, directory.path / "model.safetensors",
                   "header length 25000001, the limit is 25000000", usual_bytes)


def test_m5_100_000_tensors(tmp_path, usual_bytes):
    # In both containers.
    directory = Directory(tmp_path / "model")
    header, size = safetensors_header({f"t{i}": [1] for i in range(100_000)})
    assert len(header) < 25_000_000
    (directory.path / "model.safetensors").write_bytes(header + bytes(size))
    refused_by_all(directory.path, directory.path / "model.safetensors", "100000 tensors, the limit is 65536|values",
                   {program: usual + 256 * 2**20 for program, usual in usual_bytes.items()})
    gguf = tmp_path / "many.gguf"
    infos = b"".join(struct.pack("<Q6sIQIQ", 6, b"%06d" % i, 1, 8, 0, 32 * i) for i in range(100_000))
    gguf.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 100_000, 0) + infos + bytes(32 * 100_000 + 32))
    refused_by_all(gguf, gguf, "100000 tensors, the limit is 65536", usual_bytes)


def test_m6_a_tensor_described_twice(usual_bytes):
    # By name: the golden files of that kind are refused for that reason and no other.
    for name, reason in (("duplicate_tensor.gguf", "twice"), ("duplicate_key.gguf", "twice")):
        refused_by_all(BAD / name, BAD / name, reason, usual_bytes)


def test_m7_truncated(tmp_path, usual_bytes):
    # At some places of the data; the unit tests cut at every byte.
    whole = (BAD / "ok.gguf").read_bytes()
    for size in (0, 3, 20, 900, len(whole) // 2, len(whole) - 1):
        path = tmp_path / f"cut{size}.gguf"
        path.write_bytes(whole[:size])
        refused_by_all(path, path, "", usual_bytes)
    directory = Directory(tmp_path / "model")
    weights = directory.path / "model.safetensors"
    whole = weights.read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        weights.write_bytes(whole[:size])
        refused_by_all(directory.path, weights, "", usual_bytes)


def with_model(**changes):
    tokenizer = small_tokenizer()
    tokenizer["model"].update(changes)
    return tokenizer


def with_added(**changes):
    tokenizer = small_tokenizer()
    tokenizer["added_tokens"][0].update(changes)
    return tokenizer


def split(regex):
    return {**small_tokenizer(), "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}}


# M9: name -> (tokenizer.json, what the line must say)
TOKENIZERS = {
    "merge of an unknown token": (with_model(merges=[["t", "zz"]]), "merge 0 names unknown token `zz`"),
    "merge to an unknown token": (with_model(merges=[["t", "t"]]), "merge 0 names unknown token `tt`"),
    "merge of a control token": (with_model(merges=[["<|im_end|>", "h"]]), "merge 0 "),
    "merge of three": (with_model(merges=[["t", "h", "e"]]), r"merges\[0\]"),
    "merge without a blank": (with_model(merges=["th"]), "merge"),
    "merges are a number": (with_model(merges=7), "merges is no array"),
    "id -1": (with_model(vocab={"a": -1}), "id -1 is not in"),
    "id 2^31": (with_model(vocab={"a": 2**31}), "id 2147483648 is not in"),
    "id 10^9": (with_added(id=10**9), "id 1000000000 is not in"),
    "id 2^64": (with_model(vocab={"a": 2**64}), "is not in"),
    "id 0.5": (with_model(vocab={"a": 0.5}), "id 0.5 is not in"),
    "one id twice": (with_model(vocab={"a": 1, "b": 1}), "both have id 1"),
    "more ids than the model": (with_model(vocab={**small_tokenizer()["model"]["vocab"], "zq": 300}),
                                "has 301 ids, the model only 300"),
    "regex that backtracks": (split("(a+)+$"), "pattern .* is not supported"),
    "regex that is none": (split("("), "pattern .* is not supported"),
    "regex of 1 MB": (split("a" * 10**6), "pattern .* is not supported"),
    "other model": (with_model(type="Unigram"), "`Unigram` is not supported"),
    "no object": ([], "tokenizer.json"),
    "no JSON": ("{", "not valid JSON"),
    "200,000 deep": ("[" * 200_000, "nested more than"),
}


@pytest.mark.parametrize("tokenizer, reason", TOKENIZERS.values(), ids=TOKENIZERS.keys())
def test_m9_tokenizers(tokenizer, reason, tmp_path, usual_bytes):
    directory = Directory(tmp_path / "model", tokenizer=tokenizer)
    refused_by_all(directory.path, directory.path, reason, usual_bytes)


# M10: name -> (field, value as JSON, what the line must say)
CONFIGS = {
    "no heads": ("num_attention_heads", "0", "num_attention_heads is 0"),
    "no KV heads": ("num_key_value_heads", "0", "num_key_value_heads is 0"),
    "heads -1": ("num_attention_heads", "-1", "num_attention_heads is -1"),
    "heads that do not divide": ("num_key_value_heads", "3", "no multiple of num_key_value_heads"),
    "10^9 layers": ("num_hidden_layers", "1000000000", "num_hidden_layers is 1000000000"),
    "2^63 layers": ("num_hidden_layers", "9223372036854775808", "num_hidden_layers is 9223372036854775808"),
    "half a layer": ("num_hidden_layers", "0.5", "num_hidden_layers is no integer"),
    "vocabulary 10^12": ("vocab_size", "1000000000000", "vocab_size is 1000000000000"),
    "context 10^15": ("max_position_embeddings", "1000000000000000", "max_position_embeddings is"),
    "epsilon NaN": ("rms_norm_eps", "NaN", "config.json: not valid JSON"),
    "epsilon infinite": ("rms_norm_eps", "1e999", "config.json: not valid JSON"),
    "epsilon -1": ("rms_norm_eps", "-1", "rms_norm_eps is -1"),
    "theta 0": ("rope_theta", "0", "rope_theta is 0"),
    "width of text": ("hidden_size", '"wide"', "hidden_size is no integer"),
    "another vocabulary": ("vocab_size", "299", "`model.embed_tokens.weight` has shape"),
    "EOS outside": ("eos_token_id", "300", "eos_token_id is 300"),
    "unknown family": ("model_type", '"mystery"', "`mystery` is not supported"),
}


@pytest.mark.parametrize("field, value, reason", CONFIGS.values(), ids=CONFIGS.keys())
def test_m10_configurations(field, value, reason, tmp_path, usual_bytes):
    directory = Directory(tmp_path / "model")
    text = json.dumps({**small_config(), field: "HERE"}).replace('"HERE"', value)
    directory.write("config.json", text)
    refused_by_all(directory.path, directory.path, reason, usual_bytes)


def test_m11_pickles(tmp_path, usual_bytes):
    # The pickle would write a file if anything ran it.
    proof = tmp_path / "ran"
    pickle = b"cos\nsystem\n(S'touch " + str(proof).encode() + b"'\ntR."
    directory = Directory(tmp_path / "model")
    (directory.path / "model.safetensors").unlink()
    (directory.path / "pytorch_model.bin").write_bytes(pickle)
    refused_by_all(directory.path, "`pytorch_model.bin`", "pickle.*convert it to safetensors", usual_bytes)
    refused_by_all(directory.path / "pytorch_model.bin", "pytorch_model.bin", "pickle", usual_bytes)
    for beginning in (b"PK\x03\x04" + bytes(60), b"\x80\x02" + pickle):
        (directory.path / "model.safetensors").write_bytes(beginning)
        refused_by_all(directory.path, directory.path / "model.safetensors", "pickle", usual_bytes)
    assert not proof.exists()


def test_m12_links_out_of_the_directory(tmp_path, usual_bytes):
    # Inside it, and within the layout of the Hugging Face cache, they are followed.
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        directory = Directory(tmp_path / name)
        outside = tmp_path / f"outside-{name}"
        (directory.path / name).rename(outside)
        (directory.path / name).symlink_to(outside)
        refused_by_all(directory.path, f"`{name}`", "outside the directory", usual_bytes)
        (directory.path / name).unlink()
        outside.rename(directory.path / "other")
        (directory.path / name).symlink_to("other")
        for program in PROGRAMS:
            assert Ended([*command(program, directory.path), "--check-config"]).code == 0


@pytest.mark.parametrize("target", ["drafters/targets/llama", "drafters/targets/qwen3_tied"])
def test_m13_a_drafter_made_for_another_target(target, usual_bytes):
    flags = ["--target", str(GOLDEN / target)]
    done = Ended(command("tandem-drafter", DRAFTER, *flags))
    assert_refused(done, "tandem-drafter", DRAFTER, "made for another target .*vocab_size is 260, the target has 300",
                   usual_bytes)
    assert str(GOLDEN / target) in done.stderr


@pytest.mark.parametrize("name", ["truncated_data.safetensors", "header_length_2_63.safetensors",
                                  "overlap.safetensors"])
def test_a_drafter_checks_its_files_as_well(name, tmp_path, usual_bytes):
    shutil.copytree(DRAFTER, tmp_path / "drafter")
    shutil.copyfile(BAD / name, tmp_path / "drafter/model.safetensors")
    done = Ended(command("tandem-drafter", tmp_path / "drafter", "--target", TRAINED))
    assert_refused(done, "tandem-drafter", tmp_path / "drafter/model.safetensors", "", usual_bytes)


# --- --model-sha256

def sha256sum(model):
    """As README.md says."""
    inside = "sha256sum -- * | sha256sum" if os.path.isdir(model) else f"sha256sum '{model}'"
    where = model if os.path.isdir(model) else "/"
    return subprocess.run(["bash", "-c", inside], cwd=where, env={**os.environ, "LC_ALL": "C"}, capture_output=True,
                          text=True, check=True).stdout.split()[0]


@pytest.mark.parametrize("model", [TRAINED, str(GOLDEN / "gguf/llama.gguf")], ids=["directory", "file"])
def test_a_pinned_model_is_the_only_one_taken(model, usual_bytes):
    digest, other = sha256sum(model), "0" * 64
    # gguf/llama.gguf has no tokenizer, which only the gateway needs.
    for program in PROGRAMS if os.path.isdir(model) else PROGRAMS[:1]:
        done = Ended([*command(program, model, "--model-sha256", digest), "--check-config"])
        assert done.code == 0, done.stderr
        done = Ended(command(program, model, "--model-sha256", other))
        assert_refused(done, program, model, f"SHA-256 is {digest}, --model-sha256 asks for {other}", usual_bytes)
        done = Ended(command(program, model, "--model-sha256", "short"))
        assert done.code == 2 and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_pinned_drafter_is_the_only_one_taken(usual_bytes):
    flags = ["--target", TRAINED]
    done = Ended([*command("tandem-drafter", DRAFTER, "--model-sha256", sha256sum(DRAFTER), *flags), "--check-config"])
    assert done.code == 0, done.stderr
    done = Ended(command("tandem-drafter", DRAFTER, "--model-sha256", "0" * 64, *flags))
    assert_refused(done, "tandem-drafter", DRAFTER, "SHA-256 is", usual_bytes)


# --- M14: a file that is truncated after it was opened

def greedy_text(address):
    answer = http.chat(address, EXAMPLE["user"], temperature=0)
    assert answer.status == 200, answer
    return answer.json()["choices"][0]["message"]["content"]


def cut_in_half(path):
    os.truncate(path, os.path.getsize(path) // 2)


def mapped_files(pid, directory):
    return [line for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines() if str(directory) in line]


def test_m14_truncated_while_serving(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(TRAINED, model)
    with Stack(str(model)) as stack:
        assert greedy_text(stack.http) == EXAMPLE["greedy_text"]
        # All of the files has been read and nothing of them is mapped, so nothing can happen.
        for process in (stack.verifier, stack.gateway):
            assert mapped_files(process.pid, model) == []
        for name in ("model.safetensors", "tokenizer.json", "config.json"):
            cut_in_half(model / name)
        assert greedy_text(stack.http) == EXAMPLE["greedy_text"]
        assert http.get(stack.http, "/ready").status == 200
        assert stack.gateway.terminate() == 0 and stack.verifier.terminate() == 0


def test_m14_truncated_and_started_again(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(TRAINED, model)
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    with Up(str(model)) as up:
        assert greedy_text(up.http) == EXAMPLE["greedy_text"]
        cut_in_half(weights)
        os.kill(up.child("verifier"), signal.SIGKILL)

        def starts():
            return up.process.stderr().count(f"tandem-verifier: {weights}: ")

        # Each start ends with its line, and they become rarer: 0.1, 0.2, 0.4 s, ... up to 5 s.
        begin = time.monotonic()
        wait_until(lambda: starts() >= 4, "started again and again", timeout=20, interval=0.01)
        assert time.monotonic() - begin > 0.1 + 0.2 + 0.4
        wait_until(lambda: http.get(up.http, "/ready").status == 503, "not ready")
        assert http.get(up.http, "/health").status == 200
        weights.write_bytes(whole)
        wait_until(lambda: http.get(up.http, "/ready").status == 200, "ready once the file is whole", timeout=30)
        assert greedy_text(up.http) == EXAMPLE["greedy_text"]


def test_m14_truncated_while_loading(tmp_path):
    # Wide enough that loading takes longer than a signal; sparse, so that it costs nothing. The line "listening" comes
    # between opening the files and reading them.
    config = {**small_config(), "vocab_size": 60_000, "hidden_size": 1024, "head_dim": 64}
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    header, size = safetensors_header(shapes_of(config))
    weights = model / "model.safetensors"
    with open(weights, "wb") as file:
        file.write(header)
        file.truncate(len(header) + size)
    with Process(command("tandem-verifier", model)) as verifier:
        verifier.addresses()
        verifier.signal(signal.SIGSTOP)
        assert mapped_files(verifier.pid, weights), "loading was faster than this test"
        os.truncate(weights, 4096)
        verifier.signal(signal.SIGCONT)
        assert verifier.wait(10) == 1
        assert verifier.stderr() == (f"tandem-verifier: {weights}: became unreadable while it was read: "
                                     "truncated by another process, or the disk fails\n")
