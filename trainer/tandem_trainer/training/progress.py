"""What a run tells: a line on the terminal, metrics.jsonl, TensorBoard files."""

from __future__ import annotations

import json
import pathlib
import sys
import time

from tandem_trainer.errors import UserError

SMOOTHING = 0.98


def duration(seconds: float) -> str:
    seconds = max(int(seconds), 0)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


class Progress:
    """metrics.jsonl holds one object a logged step; what lies behind `step`, where the run resumes, is cut off."""

    def __init__(self, directory: pathlib.Path, step: int, log_every: int, quiet: bool = False, terminal=None):
        self.path, self.log_every, self.quiet = directory / "metrics.jsonl", log_every, quiet
        self.terminal = terminal or sys.stderr
        self._tensorboard = None
        self._begun, self._tokens, self._first_step = time.monotonic(), 0, step
        kept = []
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    break  # torn by a kill
                if entry["step"] > step:
                    break
                kept.append(line)
        try:
            self.path.write_text("".join(line + "\n" for line in kept))
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(directory / "tensorboard"), purge_step=step)
        except ImportError:
            print("tensorboard is not installed: no TensorBoard logs", file=self.terminal)

    def step(self, step: int, tokens: int, seconds_left: float | None, steps_left: int | None, entry: dict) -> None:
        """After each step. entry: loss, tau, acceptance, parts, learning_rate."""
        self._tokens += tokens
        elapsed = time.monotonic() - self._begun
        if step % self.log_every and steps_left != 0:
            return
        speed = self._tokens / max(elapsed, 1e-9)
        if steps_left is not None:
            seconds_left = steps_left * elapsed / max(step - self._first_step, 1)
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps({"step": step, "tokens_per_second": round(speed, 1), **entry}) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error
        if self._tensorboard is not None:
            for name, value in {
                **entry["parts"],
                "loss": entry["loss"],
                "tau": entry["tau"],
                "learning_rate": entry["learning_rate"],
            }.items():
                self._tensorboard.add_scalar(name, value, step)
            for k, value in enumerate(entry["acceptance"], 1):
                self._tensorboard.add_scalar(f"acceptance/{k}", value, step)
        if self.quiet:
            return
        line = (
            f"step {step}  loss {entry['loss']:.4f}  tau ~{entry['tau']:.2f}  {speed:.0f} tokens/s  "
            f"{duration(seconds_left or 0)} left"
        )
        end = "\r" if self.terminal.isatty() and steps_left != 0 else "\n"
        print(line, end=end, file=self.terminal, flush=True)

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()


def read_metrics(directory: pathlib.Path) -> list[dict]:
    path = directory / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
