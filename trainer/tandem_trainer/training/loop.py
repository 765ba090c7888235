"""The training loop: one device, or one process per device under torchrun."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import os
import pathlib
import time

import torch
import torch.distributed

from tandem_trainer.errors import UserError
from tandem_trainer.models.draft_model import DraftModel
from tandem_trainer.recipe import TrainingOptions
from tandem_trainer.training.batches import Batches
from tandem_trainer.training.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from tandem_trainer.training.objective import Objective
from tandem_trainer.training.progress import SMOOTHING, Progress
from tandem_trainer.training.schedule import learning_rate_factor, step_factor


@dataclasses.dataclass
class Ranks:
    """The processes that train together."""

    rank: int = 0
    count: int = 1

    @staticmethod
    def of_environment() -> Ranks:
        """Under torchrun, all of it; joins the process group."""
        if not torch.distributed.is_available() or not torch.distributed.is_torchelastic_launched():
            return Ranks()
        if not torch.distributed.is_initialized():
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            # One process makes the texts while the others wait.
            torch.distributed.init_process_group(
                "nccl" if torch.cuda.is_available() else "gloo", timeout=datetime.timedelta(days=1)
            )
        return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        if self.count > 1:
            value = value.detach().clone()
            torch.distributed.all_reduce(value)
        return value

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """One reduction of all of them."""
        if self.count == 1:
            return
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        at = 0
        for p in parameters:
            p.grad = flat[at : at + p.numel()].view_as(p).clone()
            at += p.numel()


class Trainer:
    """Trains `model` in place. run: digest of all that the numbers depend on."""

    def __init__(
        self,
        model: DraftModel,
        batches: Batches,
        objective: Objective,
        options: TrainingOptions,
        directory: pathlib.Path,
        run: str,
        device: torch.device,
        ranks: Ranks | None = None,
        quiet: bool = False,
    ):
        self.model, self.batches, self.objective, self.options = model, batches, objective, options
        self.directory, self.run, self.device, self.ranks, self.quiet = directory, run, device, ranks or Ranks(), quiet
        tables = [p for name, p in model.trained().items() if name.startswith("markov_head.markov_w")]
        others = [p for name, p in model.trained().items() if not name.startswith("markov_head.markov_w")]
        groups = [{"params": others, "factor": 1.0}]
        if tables:
            groups.append({"params": tables, "factor": options.markov_learning_rate_factor})
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=options.learning_rate,
            betas=(options.beta1, options.beta2),
            eps=1e-8,
            weight_decay=options.weight_decay,
            foreach=False,
        )
        self.step, self.used_seconds, self.averages = 0, 0.0, {}
        bf16 = options.dtype == "bf16" or (options.dtype == "auto" and device.type == "cuda")
        self.autocast = (lambda: torch.autocast(device.type, torch.bfloat16)) if bf16 else contextlib.nullcontext

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.directory / "checkpoints"

    def resume(self) -> bool:
        """From the latest checkpoint, if there is one."""
        found = list_checkpoints(self.checkpoints)
        if not found:
            return False
        state = load_checkpoint(found[-1], self.model, self.optimizer, self.run)
        self.step, self.used_seconds, self.averages = state["step"], state["used_seconds"], state["averages"]
        return True

    def _share_done(self, begun: float) -> float:
        if self.options.steps:
            return self.step / self.options.steps
        used = self.ranks.sum(torch.tensor(self.used_seconds + time.monotonic() - begun, device=self.device))
        return used.item() / self.ranks.count / (60 * self.options.minutes)

    def train(self) -> None:
        options, begun, saved = self.options, time.monotonic(), self.step
        progress = Progress(self.directory, self.step, options.log_every, self.quiet) if self.ranks.rank == 0 else None
        self.model.train()
        while (done := self._share_done(begun)) < 1:
            factor = (
                step_factor(self.step, options.steps, options.warmup)
                if options.steps
                else max(learning_rate_factor(done, options.warmup), 1e-3)
            )
            for group in self.optimizer.param_groups:
                group["lr"] = options.learning_rate * factor * group["factor"]
            entry, tokens = self._step()
            entry["learning_rate"] = options.learning_rate * factor
            self.step += 1
            if progress is not None:
                steps_left = options.steps - self.step if options.steps else None
                used = self.used_seconds + time.monotonic() - begun
                progress.step(self.step, tokens, 60 * options.minutes - used, steps_left, entry)
            if self.step - saved >= options.checkpoint_every:
                self._save(begun)
                saved = self.step
        if self.step != saved or not list_checkpoints(self.checkpoints):
            self._save(begun)
        self.used_seconds += time.monotonic() - begun
        if progress is not None:
            progress.close()

    def _save(self, begun: float) -> None:
        if self.ranks.rank == 0:
            used = self.used_seconds + time.monotonic() - begun
            save_checkpoint(self.checkpoints, self.model, self.optimizer, self.step, used, self.run, self.averages)

    def _step(self) -> tuple[dict, int]:
        """One update; returns what is logged and how many tokens the ranks' texts had."""
        options, parameters = self.options, list(self.model.trained().values())
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        acceptance = [0.0] * self.model.config.block_size
        tau = loss_sum = 0.0
        tokens = 0
        for micro in range(options.accumulate):
            number = (self.step * options.accumulate + micro) * self.ranks.count + self.ranks.rank
            batch = self.batches(number)
            with self.autocast():
                result = self.objective(batch, self.batches.generator(number), self.ranks.sum)
            # Gradients are averaged over ranks and micro-batches, the loss is already divided by the ranks' weights.
            loss = self.ranks.sum(result.loss)
            if not math.isfinite(loss.item()):
                self._stop_for(f"loss is {loss.item()}", batch)
            scale = self.ranks.count if self.model.config.algorithm != "eagle3" else 1
            (result.loss * scale / options.accumulate).backward()
            loss_sum += (
                loss.item() / options.accumulate / (1 if scale > 1 or self.ranks.count == 1 else self.ranks.count)
            )
            for name, value in result.parts.items():
                sums[name] = sums.get(name, 0.0) + value / options.accumulate
            acceptance = [a + b / options.accumulate for a, b in zip(acceptance, result.acceptance, strict=True)]
            tau += result.tau / options.accumulate
            tokens += batch.num_tokens * self.ranks.count
        self.ranks.average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip, foreach=False)
        if not torch.isfinite(norm):
            self._stop_for(f"the gradient's norm is {norm.item()}", batch)
        self.optimizer.step()
        self.averages["tau"] = (
            tau if "tau" not in self.averages else (SMOOTHING * self.averages["tau"] + (1 - SMOOTHING) * tau)
        )
        return {
            "loss": loss_sum,
            "tau": self.averages["tau"],
            "acceptance": acceptance,
            "parts": sums,
            "gradient_norm": norm.item(),
        }, tokens

    def _stop_for(self, what: str, batch) -> None:
        good = list_checkpoints(self.checkpoints)
        kept = f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint yet"
        raise UserError(
            f"step {self.step}: {what} in micro-batch {batch.number} (samples "
            f"{', '.join(map(str, batch.samples))}); training stops, {kept}"
        )

    @torch.no_grad()
    def held_out(self, batches: Batches, limit: int = 16) -> dict:
        """Loss, tau estimate and acceptance by position over groups of held-out samples."""
        self.model.eval()
        count = min(len(batches.groups), limit)
        loss = tau = 0.0
        acceptance = torch.zeros(self.model.config.block_size)
        for group in range(count):
            with self.autocast():
                result = self.objective(batches.of_group(group, group), batches.generator(group))
            loss += result.loss.item() / count
            tau += result.tau / count
            acceptance += torch.tensor(result.acceptance) / count
        return {"loss": loss, "tau": tau, "acceptance": acceptance.tolist(), "texts": count * len(batches.groups[0])}
