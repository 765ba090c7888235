"""A verifier's side of the Speculate stream: feeds rows that PyTorch projected, gets drafts."""

import queue

import grpc

from tandem_trainer import protos


class SpeculateClient:
    """One stream to a drafter; rows travel inline as f32."""

    def __init__(self, address, target, acceptance="COUPLED"):
        self.m = protos.load().speculate
        self._channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self._requests = queue.SimpleQueue()
        stub = protos.load().speculate_grpc.DrafterStub(self._channel)
        self._call = stub.Speculate(iter(self._requests.get, None), timeout=60)
        self._send(
            hello=self.m.SpeculateHello(
                protocol=protos.load().run.ProtocolVersion(major=1),
                incarnation="0123456789abcdef",
                sampling_version=1,
                acceptance=getattr(self.m, f"ACCEPTANCE_MODE_{acceptance}"),
                top_m=0,
                vocab_size=target["vocab_size"],
                hidden_size=target["hidden_size"],
                num_layers=target["num_hidden_layers"],
                max_model_len=target["max_position_embeddings"],
                row_type=self.m.ROW_TYPE_F32,
            )
        )
        self.hello = next(self._call).hello
        self.projection = b""
        while len(self.projection) < self.hello.projection_bytes:
            self.projection += next(self._call).projection.data
        self._feeds = self._rows = self._sequences = 0

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self._requests.put(None)
        self._call.cancel()
        self._channel.close()

    def _send(self, **message):
        self._requests.put(self.m.SpeculateRequest(**message))

    def draft(self, ids, rows, temperature=0.0, seed=0):
        """ids: the text with its anchor; rows [len(ids) - 1, H] f32 of what lies before. Returns the SequenceDraft."""
        assert rows.shape == (len(ids) - 1, self.hello.row_width)
        self._feeds += 1
        self._sequences += 1
        entry = self.m.SequenceFeed(
            id=self._sequences,
            epoch=1,
            num_rows=len(rows),
            first_row_number=self._rows,
            token_ids=ids,
            draft=True,
            round=1,
            **{"from": 0},
        )
        entry.sampling.CopyFrom(self.m.DraftSampling(seed=seed, temperature=temperature, top_p=1))
        self._rows += len(rows)
        self._send(feed=self.m.Feed(number=self._feeds, sequences=[entry], rows=rows.numpy().tobytes()))
        while True:
            batch = next(self._call).drafts
            assert not batch.out_of_sync
            if batch.drafts:
                return batch.drafts[0]
