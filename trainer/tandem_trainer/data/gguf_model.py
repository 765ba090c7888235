"""A transformers model with the weights of a GGUF file, as target_files.py reads them.

transformers has a reader of its own, which takes head sizes for granted and drops the factors of rope_freqs.weight.
"""

from __future__ import annotations

import torch

from tandem_trainer.errors import UserError
from tandem_trainer.formats.target_files import TargetFiles


def load_gguf_model(files: TargetFiles, dtype: torch.dtype):
    from transformers import AutoConfig, AutoModelForCausalLM

    raw = dict(files.config)
    family = raw.pop("model_type")
    embedding, head = files.vocabulary()
    config = AutoConfig.for_model(family, **raw, tie_word_embeddings=head is embedding)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    weights = {"model.embed_tokens.weight": embedding, "lm_head.weight": head, "model.norm.weight": files.final_norm()}
    for i in range(config.num_hidden_layers):
        weights.update({f"model.layers.{i}.{name}": value for name, value in files.layer(i).items()})
    try:
        found = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UserError(f"{files.path}: {' '.join(str(error).split())}") from error
    if found.missing_keys or found.unexpected_keys:
        what, names = ("no", found.missing_keys) if found.missing_keys else ("an unknown", found.unexpected_keys)
        raise UserError(f"{files.path}: {what} tensor {names[0]}")
    factors = files.rope_factors()
    if factors is not None:
        frequencies = model.model.rotary_emb.inv_freq
        if factors.shape != frequencies.shape:
            raise UserError(
                f"{files.path}: rope_freqs.weight has shape {list(factors.shape)}, expected {list(frequencies.shape)}"
            )
        frequencies /= factors.to(frequencies)
    return model
