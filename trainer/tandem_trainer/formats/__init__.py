"""Files in and out: safetensors, GGUF, draft checkpoints."""
