"""Writes safetensors files."""

import json
import struct


def safetensors_header(shapes):
    """The header with its length, and the size of the data: BF16 tensors {name: shape}, in the order given."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text, offset
