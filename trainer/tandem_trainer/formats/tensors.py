"""Named tensors of a model on disk: safetensors (one file or shards) and GGUF, read as they are asked for."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import pathlib
import struct
from typing import Any, NamedTuple

import numpy
import safetensors
import torch

from tandem_trainer.errors import UserError

MAX_HEADER_BYTES = 25 << 20
SAFETENSORS_TYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "F64": torch.float64,
    "BOOL": torch.bool,
}


class StoredTensor(NamedTuple):
    name: str
    dtype: str  # as the file names it: BF16, Q4_1, ...
    shape: tuple[int, ...]  # rows first
    data: memoryview


class SafetensorsFiles:
    """model.safetensors, or the shards that model.safetensors.index.json lists, memory-mapped."""

    def __init__(self, directory: pathlib.Path, name: str = "model"):
        self.path = directory
        single, index = directory / f"{name}.safetensors", directory / f"{name}.safetensors.index.json"
        if single.exists():
            files = [single]
        elif index.exists():
            try:
                shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise UserError(f"{index}: no weight_map of shards") from error
            if any(pathlib.PurePath(shard).name != shard for shard in shards):
                raise UserError(f"{index}: a shard lies outside of the directory")
            files = [directory / shard for shard in shards]
        else:
            raise UserError(f"{directory}: no {name}.safetensors")
        self.tensors: dict[str, StoredTensor] = {}
        for file in files:
            self._read(file)

    def _read(self, file: pathlib.Path) -> None:
        try:
            with open(file, "rb") as stream:
                data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read: {error}") from error
        size = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
        if not 0 < size <= min(MAX_HEADER_BYTES, len(data) - 8):
            raise UserError(f"{file}: no safetensors file (header of {size} bytes in {len(data)})")
        try:
            header = json.loads(bytes(data[8 : 8 + size]))
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                begin, end = entry["data_offsets"]
                body = data[8 + size :]
                if not 0 <= begin <= end <= len(body):
                    raise UserError(f"{file}: tensor {name} lies outside of the file")
                self.tensors[name] = StoredTensor(name, entry["dtype"], tuple(entry["shape"]), body[begin:end])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: a damaged safetensors header: {error}") from error

    def get(self, name: str) -> torch.Tensor:
        """A copy in the stored type."""
        stored = self.tensors.get(name)
        if stored is None:
            raise UserError(f"{self.path}: no tensor {name}")
        if stored.dtype not in SAFETENSORS_TYPES:
            raise UserError(f"{self.path}: tensor {name} has the unsupported type {stored.dtype}")
        dtype = SAFETENSORS_TYPES[stored.dtype]
        count = int(numpy.prod(stored.shape, dtype=numpy.int64))
        if count * dtype.itemsize != len(stored.data):
            raise UserError(
                f"{self.path}: tensor {name} has {len(stored.data)} bytes, its shape "
                f"{list(stored.shape)} needs {count * dtype.itemsize}"
            )
        if count == 0:
            return torch.empty(stored.shape, dtype=dtype)
        return torch.frombuffer(bytearray(stored.data), dtype=dtype).reshape(stored.shape)


class GgufFile:
    """A GGUF file through the package `gguf`; matrices come dequantised to f32."""

    def __init__(self, path: pathlib.Path):
        try:
            import gguf
        except ImportError as error:
            raise UserError(
                f"{path}: reading GGUF files needs the Python package gguf (pip install 'tandem-trainer[gguf]')"
            ) from error
        self.path, self._gguf = path, gguf
        try:
            self.reader = gguf.GGUFReader(path)
        except (ValueError, OSError, KeyError, IndexError) as error:
            raise UserError(f"{path}: no readable GGUF file: {error}") from error
        self._tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        self.tensors = {
            tensor.name: StoredTensor(
                tensor.name,
                tensor.tensor_type.name,
                tuple(int(n) for n in reversed(tensor.shape)),
                memoryview(tensor.data).cast("B"),
            )
            for tensor in self.reader.tensors
        }

    def get(self, name: str) -> torch.Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise UserError(f"{self.path}: no tensor {name}")
        values = self._gguf.dequantize(tensor.data, tensor.tensor_type)
        return torch.from_numpy(numpy.array(values)).float().reshape(self.tensors[name].shape)

    def field(self, name: str) -> Any:
        field = self.reader.get_field(name)
        return None if field is None else field.contents()


def fingerprint(files: SafetensorsFiles | GgufFile) -> str:
    """SHA-256 over the lines `name dtype shape sha256-of-its-bytes`, sorted by name; GGUF shapes innermost first, as
    stored. The verifier's model_fingerprint."""
    innermost_first = isinstance(files, GgufFile)
    total = hashlib.sha256()
    for name in sorted(files.tensors, key=lambda name: name.encode()):
        tensor = files.tensors[name]
        shape = tensor.shape[::-1] if innermost_first else tensor.shape
        digest = hashlib.sha256(tensor.data).hexdigest()
        total.update(f"{name} {tensor.dtype} [{','.join(map(str, shape))}] {digest}\n".encode())
    return total.hexdigest()


def write_atomically(path: pathlib.Path, write) -> None:
    """write(temporary path), then in one step to `path`: a killed process leaves the old file or the new one.

    Its mode is that of any new file: safetensors would keep a drafter from the account that serves it.
    """
    mask = os.umask(0)
    os.umask(mask)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        try:
            write(temporary)
        except safetensors.SafetensorError as error:  # of a disk that is full, too
            raise OSError(str(error).splitlines()[0]) from error
        os.chmod(temporary, 0o666 & ~mask)
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
