"""A drafter's side of the Speculate stream, as a verifier that speaks speculate.proto sees it."""

import os
import pathlib
import queue
import signal
import subprocess

import grpc
import pytest

from harness import rpc
from harness.processes import Drafter
from harness.waiting import wait_until

VOCABULARY, BLOCK = 1000, 5
SHARED_MEMORY = pathlib.Path("/dev/shm")
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def drafter():
    with Drafter("ngram", "--block-size", str(BLOCK), "--max-sequences", "8", "--log-level", "warning") as process:
        yield process


class Verifier:
    """One stream; ends with the `with`."""

    def __init__(self, protos, address):
        self.m, self._channel = protos.speculate, rpc.channel(address, ("grpc.max_send_message_length", -1))
        self._requests = queue.SimpleQueue()
        stub = protos.speculate_grpc.DrafterStub(self._channel)
        self.call = stub.Speculate(iter(self._requests.get, None), timeout=30)
        self.feeds = 0
        self.hello = protos.speculate.SpeculateHello(
            protocol=protos.run.ProtocolVersion(major=1), incarnation="0123456789abcdef", sampling_version=1,
            acceptance=self.m.ACCEPTANCE_MODE_COUPLED, vocab_size=VOCABULARY, hidden_size=8, num_layers=2,
            max_model_len=4096, row_type=self.m.ROW_TYPE_BF16)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self._requests.put(None)
        self.call.cancel()
        self._channel.close()

    def send(self, **message):
        self._requests.put(self.m.SpeculateRequest(**message))

    def open(self):
        self.send(hello=self.hello)
        return next(self.call).hello

    def entry(self, id, tokens, start=0, round=1, **fields):
        """Everything known of a sequence from `start` on."""
        entry = self.m.SequenceFeed(id=id, epoch=1, num_rows=len(tokens) - start - 1, token_ids=tokens[start:],
                                    draft=round > 0, round=round, **{"from": start})
        if start == 0:
            entry.sampling.CopyFrom(self.m.DraftSampling(seed=1, top_p=1))
        entry.MergeFrom(self.m.SequenceFeed(**fields))
        return entry

    def feed(self, *entries, forgotten=(), **fields):
        self.feeds += 1
        self.send(feed=self.m.Feed(**{"number": self.feeds, "sequences": entries, "forgotten": forgotten, **fields}))

    def batch(self):
        """The next batch that has something to say."""
        while True:
            batch = next(self.call).drafts
            if batch.drafts or batch.out_of_sync:
                return batch

    def status(self):
        """How the stream ended."""
        try:
            for _ in self.call:
                pass
        except grpc.RpcError as error:
            assert len((error.details() or "").encode()) <= 1024
            return error.code(), error.details()
        return Code.OK, ""


@pytest.fixture
def verifier(protos, drafter):
    with Verifier(protos, drafter.grpc) as stream:
        yield stream


def is_forgotten(drafter):
    return wait_until(lambda: drafter.metrics.read().sum("tandem_drafter_sequences") == 0, "all sequences freed")


def test_hello_feed_drafts(drafter, verifier):
    hello = verifier.open()
    assert (hello.algorithm, hello.block_size, hello.row_width, hello.vocab_size) == ("ngram", BLOCK, 0, VOCABULARY)
    assert hello.max_sequences == 8 and not hello.has_confidence and hello.incarnation
    text = [7, 1, 2, 3, 4, 5, 6, 7]
    verifier.feed(verifier.entry(1, text))
    draft, = verifier.batch().drafts
    assert (draft.id, draft.epoch, draft.length, draft.anchor, draft.round) == (1, 1, 8, 7, 1)
    assert list(draft.token_ids) == [1, 2, 3, 4, 5]
    # It goes on from what it knows; several sequences are one batch.
    text += [1, 2, 9]
    verifier.feed(verifier.entry(1, text, start=7, round=2), verifier.entry(2, [4, 4]))
    first, second = verifier.batch().drafts
    assert (first.length, first.round, list(first.token_ids)) == (11, 2, [9])
    assert list(second.token_ids) == [4] * BLOCK


def test_behind_ahead_and_forgotten(drafter, verifier):
    verifier.open()
    text = [5, 6, 7, 5, 6, 8, 5, 6]
    verifier.feed(verifier.entry(1, text))
    assert list(verifier.batch().drafts[0].token_ids) == [8, 5, 6, 8, 5]
    verifier.feed(verifier.entry(1, text[:5], start=3, round=2))  # ahead: it truncates
    assert list(verifier.batch().drafts[0].token_ids) == [7, 5, 6, 7, 5]
    verifier.feed(verifier.entry(1, text + text, start=12, round=3))  # behind: it says so
    lost, = verifier.batch().out_of_sync
    assert (lost.id, lost.epoch, lost.have) == (1, 1, 4)
    verifier.feed(verifier.entry(1, text + text, start=4, round=4))
    assert verifier.batch().drafts[0].length == 16
    verifier.feed(forgotten=[verifier.m.SequenceName(id=1, epoch=1)])
    is_forgotten(drafter)
    verifier.feed(verifier.entry(1, text, start=7, round=5))
    assert verifier.batch().out_of_sync[0].have == 0


def bad_hellos():
    yield "vocab_size 0", dict(vocab_size=0), Code.INVALID_ARGUMENT
    yield "vocab_size 2^32-1", dict(vocab_size=2**32 - 1), Code.INVALID_ARGUMENT
    yield "incarnation", dict(incarnation="me"), Code.INVALID_ARGUMENT
    yield "row_type", dict(row_type=0), Code.INVALID_ARGUMENT
    yield "acceptance", dict(acceptance=0), Code.INVALID_ARGUMENT
    yield "sampling_version", dict(sampling_version=99), Code.FAILED_PRECONDITION


@pytest.mark.parametrize("name, change, code", list(bad_hellos()), ids=lambda value: value if isinstance(value, str) else "")
def test_hellos_that_do_not_fit(verifier, name, change, code):
    for field, value in change.items():
        setattr(verifier.hello, field, value)
    verifier.send(hello=verifier.hello)
    found, details = verifier.status()
    assert found == code and f"hello.{name.split()[0]}" in details


def two_feeds(verifier):
    verifier.feed(verifier.entry(1, [1, 2]))
    verifier.feed(verifier.entry(1, [1, 2]), number=4)


BAD_FEEDS = {
    "id vocab_size": (lambda v: v.feed(v.entry(1, [1, VOCABULARY])), "sequences[0].token_ids[1]"),
    "id -1": (lambda v: v.feed(v.entry(1, [-1])), "sequences[0].token_ids[0]"),
    "a token too many": (lambda v: v.feed(v.entry(1, [1, 2], num_rows=7)), "token_ids' count"),
    "2^32-1 rows": (lambda v: v.feed(v.entry(1, [1, 2], num_rows=2**32 - 1)), "num_rows"),
    "no sampling": (lambda v: v.feed(v.m.SequenceFeed(id=1, token_ids=[1])), "sampling is missing"),
    "temperature nan": (lambda v: v.feed(v.entry(1, [1], sampling=v.m.DraftSampling(temperature=float("nan")))),
                        "sampling.temperature"),
    "rows to who needs none": (lambda v: v.feed(v.entry(1, [1, 2]), rows=b"12345678"), "feed.rows must have 0 bytes"),
    "gap of numbers": (two_feeds, "feed.number must be 2, got 4"),
    "too many sequences": (lambda v: v.feed(*(v.entry(id, [1, 2]) for id in range(9))), "one more than the 8"),
    "a ring unasked": (lambda v: v.send(ring=v.m.RingOffer(name="/tandem-1-0123456789abcdef", slots=1, row_bytes=1)),
                       "a ring was offered"),
    "a second hello": (lambda v: v.send(hello=v.hello), "a second hello"),
    "an empty message": (lambda v: v.send(), "holds none of"),
}


@pytest.mark.parametrize("act, message", BAD_FEEDS.values(), ids=BAD_FEEDS.keys())
def test_what_breaks_the_protocol_ends_its_stream_alone(protos, drafter, verifier, act, message):
    with Verifier(protos, drafter.grpc) as other:
        other.open()
        other.feed(other.entry(1, [3, 3]))
        other.batch()
        errors = drafter.metrics.read().sum("tandem_protocol_errors_total", peer="verifier")
        verifier.open()
        act(verifier)
        code, details = verifier.status()
        assert code == Code.INVALID_ARGUMENT and message in details
        assert drafter.metrics.read().sum("tandem_protocol_errors_total", peer="verifier") == errors + 1
        other.feed(other.entry(1, [3, 3, 3], start=1, round=2))
        assert list(other.batch().drafts[0].token_ids) == [3] * BLOCK
    is_forgotten(drafter)


def test_a_feed_before_the_hello(verifier):
    verifier.feed(verifier.entry(1, [1]))
    assert verifier.status() == (Code.INVALID_ARGUMENT, "a feed came before the hello")


def test_a_message_beyond_the_limit(drafter, verifier):
    verifier.open()
    verifier.feed(rows=bytes(5 << 20))
    assert verifier.status()[0] == Code.RESOURCE_EXHAUSTED
    assert drafter.process.running()


def test_a_verifier_that_vanishes_frees_its_sequences(protos, drafter):
    with Verifier(protos, drafter.grpc) as verifier:
        verifier.open()
        verifier.feed(verifier.entry(1, [1, 2]), verifier.entry(2, [1, 2]))
        verifier.batch()
        assert drafter.metrics.read().sum("tandem_drafter_sequences") == 2
    is_forgotten(drafter)


def test_sigterm_is_said_and_leaves_at_once(protos):
    with Drafter("ngram") as process, Verifier(protos, process.grpc) as verifier:
        verifier.open()
        process.process.signal(signal.SIGTERM)
        assert next(verifier.call).WhichOneof("message") == "draining"
        assert verifier.status()[0] == Code.UNAVAILABLE
        assert process.process.wait(5) == 0


def ring_file(pid):
    return SHARED_MEMORY / f"tandem-{pid}-0123456789abcdef"


def test_a_start_removes_rings_of_the_dead_and_no_others():
    child = subprocess.Popen(["sleep", "60"])
    dead = ring_file(child.pid)
    alive, foreign = ring_file(os.getpid()), SHARED_MEMORY / f"tandem-test-{os.getpid()}"
    try:
        for path in (dead, alive, foreign):
            path.write_bytes(b"x")
        child.kill()
        child.wait()
        with Drafter("ngram"):
            assert not dead.exists()
            assert alive.exists() and foreign.exists()
    finally:
        child.kill()
        for path in (dead, alive, foreign):
            path.unlink(missing_ok=True)
