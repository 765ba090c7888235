"""A target in a tandem-verifier started with --capture: what the drafter will meet in service, numerics included.

The same interface as TransformersTarget. Nothing is stored: hidden states are computed when they are asked for.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator

import numpy
import torch

from tandem_trainer import protos
from tandem_trainer.data.transformers_target import Decoding, HiddenStates
from tandem_trainer.errors import UserError
from tandem_trainer.formats.target_files import TargetFiles

PROTOCOL, SAMPLING_VERSION = 1, 1
PATIENCE_SECONDS = 24 * 3600.0


class CaptureTarget:
    """One Capture stream. `taps`: the layers that hidden_states() will be asked for."""

    def __init__(self, files: TargetFiles, address: str, taps: tuple[int, ...]):
        import grpc

        self.files, self.address, self.taps = files, address, tuple(taps)
        self.device = torch.device("cpu")
        self.end_tokens = set(files.end_tokens)
        self._error = grpc.RpcError
        self._messages = protos.load().capture
        self._channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self._requests: queue.SimpleQueue = queue.SimpleQueue()
        stub = protos.load().capture_grpc.CaptureStub(self._channel)
        self._call = stub.Capture(iter(self._requests.get, None), timeout=PATIENCE_SECONDS, wait_for_ready=False)
        self.last_layer = int(files.config["num_hidden_layers"]) - 1
        hello = self._messages.CaptureHello(
            protocol=protos.load().run.ProtocolVersion(major=PROTOCOL),
            sampling_version=SAMPLING_VERSION,
            layers=[*self.taps, self.last_layer],
            row_type=protos.load().speculate.ROW_TYPE_BF16,
        )
        self._requests.put(self._messages.CaptureRequest(hello=hello))
        self.welcome = self._next().hello
        if self.welcome.model_fingerprint != files.fingerprint:
            self.close()
            raise UserError(
                f"the verifier at {address} serves another target: its fingerprint is "
                f"{self.welcome.model_fingerprint[:12]}.., that of {files.path} {files.fingerprint[:12]}.."
            )
        self._norm = files.final_norm()
        self._eps = float(files.config.get("rms_norm_eps", 1e-6))
        self._next_id = 0

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._channel.close()

    def _next(self):
        try:
            return next(self._call)
        except StopIteration:
            raise UserError(f"the verifier at {self.address} ended the Capture stream") from None
        except self._error as error:
            raise UserError(f"the verifier at {self.address}: {error.code().name}: {error.details()}") from error

    def _run(self, texts: list) -> Iterator:
        """Sends texts as the verifier takes them and yields (number of the text, piece)."""
        waiting, numbers = list(enumerate(texts)), {}
        waiting.reverse()
        while waiting or numbers:
            while waiting and len(numbers) < self.welcome.max_texts:
                number, text = waiting.pop()
                if len(text.token_ids) + text.max_tokens > self.welcome.max_text_length:
                    raise UserError(
                        f"a text of {len(text.token_ids)} + {text.max_tokens} tokens, the verifier at "
                        f"{self.address} takes {self.welcome.max_text_length}"
                    )
                self._next_id += 1
                text.id = self._next_id
                numbers[text.id] = number
                self._requests.put(self._messages.CaptureRequest(text=text))
            piece = self._next().piece
            yield numbers[piece.id], piece
            if piece.done:
                del numbers[piece.id]

    def generate(self, prompts: list[list[int]], decodings: list[Decoding], stop: bool = True) -> list[list[int]]:
        """Answers, each up to its first end token or max_tokens; each depends on its own prompt and decoding alone."""
        stops = sorted(self.end_tokens) if stop else []
        texts = [
            self._messages.CaptureText(
                token_ids=prompt,
                max_tokens=d.max_tokens,
                stop_token_ids=stops,
                seed=d.seed,
                temperature=d.temperature,
                top_p=d.top_p,
                top_k=d.top_k,
            )
            for prompt, d in zip(prompts, decodings, strict=True)
        ]
        answers: list[list[int]] = [[] for _ in prompts]
        for number, piece in self._run(texts):
            answers[number] += list(piece.token_ids)
        return answers

    def hidden_states(
        self, ids: torch.Tensor, taps: tuple[int, ...], lengths: torch.Tensor | None = None
    ) -> HiddenStates:
        """ids [B, T] of which the first lengths [B] count; rows of padding are 0."""
        if tuple(taps) != self.taps:
            raise ValueError(f"the stream was opened for layers {self.taps}, not {taps}")
        batch, width = ids.shape
        hidden = self.welcome.hidden_size
        lengths = torch.full((batch,), width) if lengths is None else lengths
        rows = numpy.zeros((batch, width, (len(taps) + 1) * hidden), numpy.uint16)
        texts = [
            self._messages.CaptureText(token_ids=ids[i, : int(lengths[i])].tolist(), rows=True) for i in range(batch)
        ]
        for number, piece in self._run(texts):
            if piece.num_rows:
                part = numpy.frombuffer(piece.rows, "<u2").reshape(piece.num_rows, -1)
                rows[number, piece.first_position : piece.first_position + piece.num_rows] = part
        values = torch.from_numpy(rows.astype(numpy.int16)).view(torch.bfloat16).float()
        features, last = values[..., : len(taps) * hidden], values[..., len(taps) * hidden :]
        last = last * torch.rsqrt(last.square().mean(-1, keepdim=True) + self._eps)
        return HiddenStates(features.contiguous(), last * self._norm)
