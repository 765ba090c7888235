"""Writes twins of a GGUF model: the same numbers, dequantised, as f32, bf16 and Q8_0.

Two engines that read the same twin have the same work to do at each weight width, whatever the source was quantised to.
Norms stay f32 and all keys of the file are kept. Values are those of the `gguf` package, llama.cpp's own; bf16 and Q8_0
are rounded from the dequantised f32.

  tests/bench/twins.py MODEL.gguf PREFIX      writes PREFIX-{f32,bf16,q8_0}.gguf; files that are there are kept
"""

import os
import pathlib
import sys

import gguf

WIDTHS = {"f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
          "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
          "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0)}
# The writer makes these itself.
OWN_KEYS = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture")


def copy_keys(reader, writer, file_type):
    for name, field in reader.fields.items():
        if name in OWN_KEYS:
            continue
        value = int(file_type) if name == "general.file_type" else field.contents()
        item_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], sub_type=item_type)


def write_twin(reader, path, quantization, file_type):
    """Under another name until it is whole."""
    unfinished = path.with_suffix(f".unfinished.{os.getpid()}")
    writer = gguf.GGUFWriter(unfinished, reader.fields["general.architecture"].contents())
    copy_keys(reader, writer, file_type)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim > 1:
            values = gguf.quants.quantize(values, quantization)
            writer.add_tensor(tensor.name, values, raw_dtype=quantization)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(path)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: twins.py MODEL.gguf PREFIX")
    prefix = pathlib.Path(sys.argv[2])
    prefix.parent.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(sys.argv[1])
    for width, (quantization, file_type) in WIDTHS.items():
        path = prefix.with_name(f"{prefix.name}-{width}.gguf")
        if not path.exists():
            write_twin(reader, path, quantization, file_type)
        print(path)


if __name__ == "__main__":
    main()
