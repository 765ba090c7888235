"""A recipe's run in a directory: data, training, calibration, export, evaluation, report.

  recipe.json   what it is       samples/      texts             checkpoints/  where training stands
  metrics.jsonl, tensorboard/    training      drafter/          the result    report.md, plots/

Each part is done once; the same command after a kill goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
import time

import torch

from tandem_trainer import calibration
from tandem_trainer.data.generate import DataMaker
from tandem_trainer.data.samples import Sample, SampleStore, load_samples
from tandem_trainer.data.transformers_target import TransformersTarget
from tandem_trainer.errors import UserError
from tandem_trainer.evaluation.metrics import Acceptance, acceptance
from tandem_trainer.evaluation.rounds import Rounds, Setting, play_rounds
from tandem_trainer.evaluation.texts import Prompt, answer_prompts, prompt_seed, read_prompts, with_hidden_states
from tandem_trainer.formats.checkpoint import read_json, save_drafter
from tandem_trainer.formats.target_files import TargetFiles
from tandem_trainer.formats.tensors import write_atomically
from tandem_trainer.models import DraftConfig, build_model, new_config
from tandem_trainer.models.draft_model import DraftModel
from tandem_trainer.models.initial_weights import set_initial_weights
from tandem_trainer.recipe import Recipe, as_dict
from tandem_trainer.training.batches import Batches, make_groups, split_held_out, token_frequencies
from tandem_trainer.training.checkpoints import digest, list_checkpoints, load_checkpoint
from tandem_trainer.training.loop import Ranks, Trainer
from tandem_trainer.training.objective import Objective


def pick_device(name: str) -> torch.device:
    if name == "auto":
        return (
            torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            if torch.cuda.is_available()
            else torch.device("cpu")
        )
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"target.device is {name!r}: {str(error).splitlines()[0]}") from error


def play_setting(
    model: DraftModel,
    target,
    head: torch.Tensor,
    prompts: list[Prompt],
    setting: Setting,
    max_tokens: int,
    texts_of: dict,
) -> Rounds:
    """texts_of: texts by temperature, for settings that share one."""
    if setting.temperature not in texts_of:
        texts = answer_prompts(target, prompts, setting.temperature, max_tokens)
        texts_of[setting.temperature] = list(with_hidden_states(target, texts, model.config.taps))
    parts, first = [], 0
    for number, batch in enumerate(texts_of[setting.temperature]):
        parts.append(play_rounds(model, batch, setting, head, first, number))
        first += len(batch.texts)
    return Rounds.join(parts)


@dataclasses.dataclass
class Evaluation:
    """By setting: over everything, and by category."""

    total: dict[str, Acceptance]
    categories: dict[str, dict[str, Acceptance]]


def evaluate_drafter(
    model: DraftModel, target, head: torch.Tensor, prompts: list[Prompt], settings: list[Setting], max_tokens: int
) -> Evaluation:
    model.eval()
    result, texts_of = Evaluation({}, {}), {}
    block = model.config.block_size
    for setting in settings:
        rounds = play_setting(model, target, head, prompts, setting, max_tokens, texts_of)
        result.total[setting.name] = acceptance(rounds, block)
        for category in dict.fromkeys(p.category for p in prompts):
            result.categories.setdefault(category, {})[setting.name] = acceptance(rounds.of(category), block)
    return result


def fit_calibration(
    model: DraftModel, target, head: torch.Tensor, prompts: list[Prompt], settings: list[Setting], max_tokens: int
) -> dict[Setting, calibration.Fit]:
    model.eval()
    fits, texts_of = {}, {}
    for setting in settings:
        rounds = play_setting(model, target, head, prompts, setting, max_tokens, texts_of)
        if not len(rounds.accepted):
            raise UserError(f"calibration: no rounds at setting {setting.name}: the texts are shorter than a block")
        fits[setting] = calibration.fit(rounds)
    return fits


class Run:
    def __init__(self, recipe: Recipe, directory: pathlib.Path, quiet: bool = False):
        self.recipe, self.directory, self.quiet = recipe, pathlib.Path(directory), quiet
        self.ranks = Ranks.of_environment()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{directory}: {error.strerror}") from error
        if recipe.training.threads:
            torch.set_num_threads(recipe.training.threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        self.device = pick_device(recipe.target.device)
        self.files = TargetFiles(pathlib.Path(recipe.target.path).expanduser())
        self.config = self._config()
        self._source = None
        self.times: dict[str, float] = {}

    def say(self, text: str) -> None:
        if self.ranks.rank == 0 and not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def _config(self) -> DraftConfig:
        d = self.recipe.drafter
        dspark = d.algorithm == "dspark"
        return new_config(
            self.files.config,
            algorithm="eagle3" if d.algorithm == "eagle3" else "dspark",
            num_layers=1 if d.algorithm == "eagle3" else d.layers,
            block_size=d.block_size,
            taps=list(d.taps) or None,
            mask_token_id=None if d.mask_token_id < 0 else d.mask_token_id,
            markov_rank=d.markov_rank if dspark else 0,
            markov_type=d.markov_type,
            confidence=dspark and d.confidence,
            draft_vocab_size=d.draft_vocab_size,
            target_fingerprint=self.files.fingerprint,
            target_name=str(self.files.path),
        )

    @property
    def source(self):
        """The target, as the recipe wants it; opened when it is first needed."""
        if self._source is None:
            if self.recipe.target.source == "capture":
                from tandem_trainer.data.capture_target import CaptureTarget

                self._source = CaptureTarget(self.files, self.recipe.target.address, self.config.taps)
            else:
                self._source = TransformersTarget(self.files, self.device)
        return self._source

    def close(self) -> None:
        if hasattr(self._source, "close"):
            self._source.close()

    # Data.

    def make_data(self) -> None:
        if self.ranks.rank == 0:
            begun = time.monotonic()
            maker = DataMaker(self.source, self.recipe.data)
            with SampleStore(self.directory / "samples", maker.manifest(), self.recipe.data.max_bytes) as store:
                maker.fill(store, lambda done, total: self.say(f"data: {done} of {total} conversations"))
                tokens = sum(len(s) for s in store.samples)
                self.say(f"data: {len(store.samples)} samples, {tokens} tokens")
            self._note_time("data", time.monotonic() - begun)
        if self.ranks.count > 1:
            torch.distributed.barrier()

    def _note_time(self, part: str, seconds: float) -> None:
        """Seconds by part, summed over restarts."""
        path = self.directory / "times.json"
        times = read_json(path) if path.exists() else {}
        times[part] = round(times.get(part, 0.0) + seconds, 1)
        write_atomically(path, lambda p: p.write_text(json.dumps(times) + "\n"))

    def samples(self) -> tuple[list[Sample], list[int], list[int]]:
        manifest, samples = load_samples(self.directory / "samples")
        if manifest["target_fingerprint"] != self.files.fingerprint:
            raise UserError(f"{self.directory}/samples: texts of another target than {self.files.path}")
        if manifest["tokenizer"] != self.files.tokenizer_digest:
            raise UserError(f"{self.directory}/samples: made with another tokenizer than that of {self.files.path}")
        options = self.recipe.training
        return samples, *split_held_out(samples, options.held_out, options.seed)

    # Training.

    def new_model(self, samples: list[Sample]) -> tuple[DraftModel, torch.Tensor]:
        """With initial weights; and columns by falling frequency."""
        by_frequency = token_frequencies(samples, self.config.vocab_size)
        model = build_model(self.config)
        model.markov_top_k = self.recipe.drafter.markov_top_k
        if self.config.draft_vocab_size:
            model.set_draft_ids(by_frequency[: self.config.draft_vocab_size])
        set_initial_weights(
            model, self.files, from_target=self.recipe.drafter.start == "target", seed=self.recipe.training.seed
        )
        frequent = torch.arange(self.config.draft_vocab_size) if self.config.draft_vocab_size else by_frequency
        return model.to(self.device), frequent

    def run_digest(self) -> str:
        """Of everything that the weights depend on."""
        recipe = as_dict(self.recipe)
        training = {
            k: v
            for k, v in recipe["training"].items()
            if k not in ("checkpoint_every", "log_every", "hidden_cache_bytes", "threads")
        }
        return digest(
            {
                "training": training,
                "drafter": recipe["drafter"],
                "ranks": self.ranks.count,
                "source": recipe["target"]["source"],
                "target": self.files.fingerprint,
                "samples": (self.directory / "samples/samples.bin").stat().st_size,
            }
        )

    def train(self) -> DraftModel:
        samples, train_on, held_out = self.samples()
        options = self.recipe.training
        model, frequent = self.new_model(samples)
        head = self.files.vocabulary()[1].to(self.device)
        objective = Objective(model, head, frequent, options, self.device)
        groups = make_groups(samples, train_on, options.sequences, options.seed)
        batches = Batches(samples, groups, self.source, self.config.taps, options.seed, options.hidden_cache_bytes)
        trainer = Trainer(
            model, batches, objective, options, self.directory, self.run_digest(), self.device, self.ranks, self.quiet
        )
        if trainer.resume():
            self.say(f"training: goes on at step {trainer.step}")
        first, begun = trainer.step, time.monotonic()
        trainer.train()
        if self.ranks.rank == 0 and trainer.step > first:
            self._note_time("training", time.monotonic() - begun)
        if held_out and self.ranks.rank == 0:
            size = min(options.sequences, len(held_out))
            held = Batches(
                samples,
                make_groups(samples, held_out, size, options.seed),
                self.source,
                self.config.taps,
                options.seed,
                0,
            )
            found = trainer.held_out(held)
            write_atomically(self.directory / "held_out.json", lambda p: p.write_text(json.dumps(found) + "\n"))
            self.say(f"held out: loss {found['loss']:.4f}, teacher-forced tau {found['tau']:.2f}")
        return model

    def trained_model(self) -> DraftModel:
        """As the latest checkpoint has it."""
        samples, *_ = self.samples()
        model, _ = self.new_model(samples)
        found = list_checkpoints(self.directory / "checkpoints")
        if not found:
            raise UserError(f"{self.directory}/checkpoints: no checkpoint; train first")
        load_checkpoint(found[-1], model, None, self.run_digest())
        return model

    # What comes behind.

    def own_prompts(self, count: int, seed: int) -> list[Prompt]:
        """Beginnings of held-out samples, each as often as needed, with a seed each."""
        samples, _, held_out = self.samples()
        if not held_out:
            raise UserError("training.held_out is 0: calibration needs texts that were not trained on")
        prompts = []
        for i in range(count):
            sample = samples[held_out[i % len(held_out)]]
            first = int(sample.mask.argmax())
            prompts.append(Prompt("held-out", tuple(sample.ids[:first].tolist()), prompt_seed(seed, "held-out", i)))
        return prompts

    @property
    def drafter_directory(self) -> pathlib.Path:
        return self.directory / "drafter"

    def calibrate_and_export(self, model: DraftModel) -> dict[Setting, calibration.Fit]:
        options = self.recipe.calibration
        samples, *_ = self.samples()
        frequent = token_frequencies(samples, self.config.vocab_size)
        save_drafter(
            model,
            self.drafter_directory,
            int8=self.recipe.export.int8,
            target_fingerprint=self.files.fingerprint,
            frequent_ids=None if self.config.draft_vocab_size else frequent[: 1 << 14],
        )
        if not self.config.has_confidence:
            return {}
        settings = [Setting.parse(text) for text in options.settings]
        head = self.files.vocabulary()[1].to(self.device)
        fits = fit_calibration(
            model, self.source, head, self.own_prompts(options.num_texts, 1), settings, options.max_tokens
        )
        calibration.write_calibration(
            self.drafter_directory / "calibration.json",
            fits,
            self.files.path.name,
            self.config.block_size,
            f"fitted on {options.num_texts} held-out texts of at most {options.max_tokens} tokens",
        )
        self.say(
            "calibration: "
            + ", ".join(
                f"{s.name} ECE {100 * f.raw.ece[0]:.1f} % -> {100 * f.by_scale_bias.ece[0]:.1f} %"
                for s, f in fits.items()
            )
        )
        return fits

    def evaluate(self, model: DraftModel) -> Evaluation:
        options = self.recipe.evaluation
        settings = [Setting.parse(text) for text in options.settings]
        if options.prompts:
            prompts = read_prompts(self.files.tokenizer, list(options.prompts), options.num_prompts, options.seed)
        else:
            prompts = self.own_prompts(options.num_prompts, options.seed)
        head = self.files.vocabulary()[1].to(self.device)
        found = evaluate_drafter(model, self.source, head, prompts, settings, options.max_tokens)
        for name, a in found.total.items():
            self.say(f"evaluation: {name}: tau {a.tau:.2f} +- {a.tau_error:.2f} over {a.rounds} rounds")
        return found

    def finish(self) -> Evaluation:
        """Calibration, export, evaluation, report: from the latest checkpoint."""
        from tandem_trainer.report import write_model_card, write_report

        model = self.trained_model()
        fits = self.calibrate_and_export(model)
        found = self.evaluate(model)
        write_report(self, fits, found)
        write_model_card(self, found)
        self.say(f"report: {self.directory}/report.md, drafter: {self.drafter_directory}")
        return found

    def everything(self) -> Evaluation | None:
        self.make_data()
        self.train()
        # From the file, not from memory: what is told is told of what is kept.
        return self.finish() if self.ranks.rank == 0 else None
