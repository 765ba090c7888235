"""Texts to train on, as token ids with a loss mask, on disk.

samples.bin is a sequence of records: u32 magic, u32 CRC-32 of what follows, u32 batch, u32 n, int32 ids[n], u8 mask[n],
little-endian. A record with n = 0 says that its batch is complete. What lies behind the last of those, or is torn, is
cut off when the file is opened for writing, so that a killed run goes on with the batch it was at. manifest.json says
what the texts are of.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import struct
import zlib

import numpy

from tandem_trainer.errors import UserError
from tandem_trainer.formats.checkpoint import read_json
from tandem_trainer.formats.tensors import write_atomically

MAGIC = 0x54534D50
HEADER = struct.Struct("<IIII")
MAX_TOKENS = 1 << 24


@dataclasses.dataclass
class Sample:
    ids: numpy.ndarray  # int32 [n]
    mask: numpy.ndarray  # uint8 [n]: 1 where the token is the target's own

    def __len__(self) -> int:
        return len(self.ids)


def _encode(batch: int, ids: numpy.ndarray, mask: numpy.ndarray) -> bytes:
    body = struct.pack("<II", batch, len(ids)) + ids.astype("<i4").tobytes() + mask.astype("u1").tobytes()
    return struct.pack("<II", MAGIC, zlib.crc32(body)) + body


class SampleStore:
    """One writer. `manifest` must be equal to that of an earlier run in the same directory."""

    def __init__(self, directory: pathlib.Path, manifest: dict, max_bytes: int = 0):
        self.directory, self.max_bytes = pathlib.Path(directory), max_bytes
        self.path = self.directory / "samples.bin"
        self.directory.mkdir(parents=True, exist_ok=True)
        told = self.directory / "manifest.json"
        if told.exists():
            before = read_json(told)
            for key in sorted({*before, *manifest}):
                if before.get(key) != manifest.get(key):
                    raise UserError(
                        f"{told}: made with {key} = {before.get(key)!r}, this run has "
                        f"{manifest.get(key)!r}; take another directory or delete this one"
                    )
        else:
            write_atomically(told, lambda path: path.write_text(json.dumps(manifest, indent=1) + "\n"))
        self.next_batch, self.samples, end = _scan(self.path)
        self._file = open(self.path, "r+b" if self.path.exists() else "w+b")  # noqa: SIM115
        self._file.truncate(end)
        self._file.seek(end)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self._file.close()

    @property
    def bytes(self) -> int:
        return self._file.tell()

    def is_full(self) -> bool:
        return 0 < self.max_bytes <= self.bytes

    def append_batch(self, samples: list[Sample]) -> None:
        """All of a batch or, if the process dies, nothing of it."""
        data = b"".join(_encode(self.next_batch, s.ids, s.mask) for s in samples)
        data += _encode(self.next_batch, numpy.zeros(0), numpy.zeros(0))
        try:
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()  # or what it still holds would be written later, and fail without a name
            raise UserError(
                f"cannot write {self.path}: {error.strerror}; the {len(self.samples)} samples before are "
                "kept, and the same command goes on from there"
            ) from error
        self.samples += samples
        self.next_batch += 1


def _scan(path: pathlib.Path) -> tuple[int, list[Sample], int]:
    """The batch to go on with, the samples of complete ones, and where the next record goes."""
    if not path.exists():
        return 0, [], 0
    data, at, end, complete = path.read_bytes(), 0, 0, 0
    samples: list[Sample] = []
    pending: list[Sample] = []
    while at + HEADER.size <= len(data):
        magic, checksum, batch, count = HEADER.unpack_from(data, at)
        size = HEADER.size + 5 * count
        if magic != MAGIC or count > MAX_TOKENS or at + size > len(data):
            break
        if zlib.crc32(data[at + 8 : at + size]) != checksum:
            break
        if count == 0:
            samples, pending, complete, end = samples + pending, [], batch + 1, at + size
        else:
            ids = numpy.frombuffer(data, "<i4", count, at + HEADER.size)
            pending.append(Sample(ids, numpy.frombuffer(data, "u1", count, at + HEADER.size + 4 * count)))
        at += size
    return complete, samples, end


def load_samples(directory: pathlib.Path) -> tuple[dict, list[Sample]]:
    """Manifest and samples of complete batches."""
    directory = pathlib.Path(directory)
    manifest = read_json(directory / "manifest.json")
    samples = _scan(directory / "samples.bin")[1]
    if not samples:
        raise UserError(f"{directory}: no samples")
    return manifest, samples
