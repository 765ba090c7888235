"""gRPC clients of our services, with modules generated from proto/ at test time."""

import importlib
import sys

import grpc
from grpc_tools import protoc

from .paths import SOURCE


class Protos:
    """`generation`, `run`, `speculate`: messages; `generation_grpc`, `speculate_grpc`: stubs."""

    def __init__(self, directory):
        root = SOURCE / "proto"
        code = protoc.main(["protoc", f"-I{root}", f"--python_out={directory}", f"--grpc_python_out={directory}",
                            *(str(root / f"tandem/v1/{name}.proto") for name in ("generation", "run", "speculate"))])
        assert code == 0, f"protoc exited with {code}"
        sys.path.insert(0, str(directory))
        self.generation = importlib.import_module("tandem.v1.generation_pb2")
        self.generation_grpc = importlib.import_module("tandem.v1.generation_pb2_grpc")
        self.run = importlib.import_module("tandem.v1.run_pb2")
        self.speculate = importlib.import_module("tandem.v1.speculate_pb2")
        self.speculate_grpc = importlib.import_module("tandem.v1.speculate_pb2_grpc")

    def chat(self, content, **fields):
        """A GenerateRequest with one user message."""
        m = self.generation
        return m.GenerateRequest(
            model="default", conversation=m.Conversation(messages=[m.Message(role="user", content=content)]),
            **fields)


def channel(address, *options):
    # Every test its own connection, as separate clients have.
    return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), *options])


def collect(call):
    """All events of a Generate call, by kind; checks the order that generation.proto promises."""
    started, tokens, text, logprobs, finished = None, {}, {}, {}, {}
    for response in call:
        kind = response.WhichOneof("event")
        if kind == "started":
            assert started is None, "second `started`"
            started = response.started
            continue
        assert started is not None, f"{kind} before `started`"
        event = getattr(response, kind)
        choice = event.choice
        assert choice not in finished, f"{kind} after choice {choice} finished"
        if kind == "delta":
            ids = tokens.setdefault(choice, [])
            assert event.first_index == len(ids), f"gap or repeat: {event.first_index} after {len(ids)} tokens"
            ids.extend(event.token_ids)
            text[choice] = text.get(choice, "") + event.text
            logprobs.setdefault(choice, []).extend(event.logprobs)
        else:
            finished[choice] = event
    return started, tokens, text, logprobs, finished
