"""A target in this process, through the transformers library."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect

import torch

from tandem_trainer.data.gguf_model import load_gguf_model
from tandem_trainer.errors import UserError
from tandem_trainer.formats.target_files import TargetFiles
from tandem_trainer.sampling import COUPLED, GREEDY_TEMPERATURE, choose_coupled, gumbel


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How one answer is drawn. `seed` and absolute index decide everything: the same noise as the verifier's."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclasses.dataclass
class HiddenStates:
    """Of B texts of T positions, padded at the end."""

    features: torch.Tensor  # [B, T, taps * H]: outputs of the tapped blocks, side by side
    last: torch.Tensor  # [B, T, H]: what the head reads


class TransformersTarget:
    """Generates texts and computes hidden states. One model, one device; not thread-safe."""

    def __init__(self, files: TargetFiles, device: torch.device | str = "cpu", dtype: torch.dtype | None = None):
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.files, self.device = files, torch.device(device)
        if dtype is None:
            dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        try:
            if files.is_gguf:
                self.model = load_gguf_model(files, dtype)
            else:
                self.model = AutoModelForCausalLM.from_pretrained(files.path, dtype=dtype)
        except UserError:
            raise
        except Exception as error:  # whatever a damaged model file makes the library raise
            raise UserError(f"{files.path}: transformers cannot load it: {str(error).splitlines()[0]}") from error
        self.model.to(self.device).eval().requires_grad_(False)
        self.decoder = self.model.get_decoder()
        self.end_tokens = set(files.end_tokens)
        # transformers 5 renames it.
        arguments = inspect.signature(self.model.forward).parameters
        self.cache_argument = "cache" if "cache" in arguments else "past_key_values"

    def _new_cache(self):
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    @contextlib.contextmanager
    def _tapped(self, taps: tuple[int, ...]):
        """{layer: its output} of the next pass; -1 is what enters the first block, None what the head reads."""
        seen: dict[int | None, torch.Tensor] = {}

        def keep(name, first_input=False):
            def hook(module, args, kwargs, output):
                value = (args[0] if args else kwargs["hidden_states"]) if first_input else output
                seen[name] = value[0] if isinstance(value, tuple) else value

            return hook

        layers = self.decoder.layers
        handles = [layers[tap].register_forward_hook(keep(tap), with_kwargs=True) for tap in taps if tap >= 0]
        if -1 in taps:
            handles.append(layers[0].register_forward_hook(keep(-1, True), with_kwargs=True))
        handles.append(self.decoder.norm.register_forward_hook(keep(None), with_kwargs=True))
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def hidden_states(
        self, ids: torch.Tensor, taps: tuple[int, ...], lengths: torch.Tensor | None = None
    ) -> HiddenStates:
        """ids [B, T], padded at the end: causal attention keeps padding from reaching what comes before."""
        with self._tapped(taps) as seen:
            self.decoder(input_ids=ids.to(self.device), use_cache=False)
        return HiddenStates(torch.cat([seen[tap] for tap in taps], -1), seen[None])

    @torch.no_grad()
    def generate(self, prompts: list[list[int]], decodings: list[Decoding], stop: bool = True) -> list[list[int]]:
        """Answers, each up to its first end token (which belongs to it) or to max_tokens. The result depends on the
        whole list: rows are padded to a common length."""
        rows = list(range(len(prompts)))
        answers: list[list[int]] = [[] for _ in prompts]
        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, width - len(prompt) :] = 1
        ids, mask, cache = ids.to(self.device), mask.to(self.device), self._new_cache()
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        while rows:
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
                **{self.cache_argument: cache},
            )
            chosen = self._choose(output.logits[:, -1], [decodings[r] for r in rows], positions[:, -1] + 1)
            for r, token in zip(rows, chosen, strict=True):
                answers[r].append(token)
            going = [
                i
                for i, r in enumerate(rows)
                if len(answers[r]) < decodings[r].max_tokens and not (stop and answers[r][-1] in self.end_tokens)
            ]
            if len(going) < len(rows):
                if not going:
                    break
                keep = torch.tensor(going, device=self.device)
                cache.batch_select_indices(keep)
                mask, positions = mask[keep], positions[keep]
                rows = [rows[i] for i in going]
            ids = torch.tensor([[answers[r][-1]] for r in rows], device=self.device)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            positions = positions[:, -1:] + 1
        return answers

    def _choose(self, logits: torch.Tensor, decodings: list[Decoding], indices: torch.Tensor) -> list[int]:
        result = logits.float().argmax(-1)
        warm = [i for i, d in enumerate(decodings) if d.temperature >= GREEDY_TEMPERATURE]
        if warm:
            picked = torch.tensor(warm, device=logits.device)
            noise = gumbel([decodings[i].seed for i in warm], indices[picked], COUPLED, logits.shape[-1])
            for row, i in enumerate(warm):
                d = decodings[i]
                filtered = filter_logits(logits[i].float(), d.temperature, d.top_k, d.top_p)
                result[i] = choose_coupled(filtered[None], noise[row][None], d.temperature)[0]
        return result.tolist()


def filter_logits(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """[V] with -inf for what top-k and then top-p leave out."""
    if 0 < top_k < len(logits):
        keep = logits.topk(top_k).indices
        logits = torch.full_like(logits, float("-inf")).index_copy(0, keep, logits[keep])
    if top_p < 1:
        values, order = logits.sort(descending=True, stable=True)
        law = torch.softmax(values / temperature, -1)
        cut = order[law.cumsum(-1) - law >= top_p]
        logits = logits.index_fill(0, cut, float("-inf"))
    return logits
