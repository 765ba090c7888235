"""tandem-train: the command."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

from tandem_trainer import __version__
from tandem_trainer.errors import UserError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tandem-train", description="Trains, calibrates and evaluates drafters.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    for name, text in (
        ("run", "all of a recipe: data, training, calibration, export, evaluation, report"),
        ("data", "only a recipe's texts"),
        ("train", "only its training, on texts that are there"),
        ("finish", "what comes behind training, with the latest checkpoint"),
    ):
        sub = command(name, text)
        sub.add_argument("recipe", type=pathlib.Path, help="a TOML file; trainer/recipes has some")
        _common(sub)
    _common(sub := command("demo", "from nothing to a calibrated drafter of a tiny target, in minutes on a CPU"))
    sub.add_argument("--target", help="another target than the tiny one")

    sub = command("evaluate", "accepted length of a drafter, here and, with --live, of a running server")
    _drafter(sub)
    sub.add_argument("--settings", default="greedy,coup:1.0,rej:1.0,match:1.0", help="greedy, coup:T, rej:T, match:T")
    sub.add_argument("--live", metavar="URL", help="the server's HTTP address, e.g. http://127.0.0.1:8000")
    sub.add_argument("--report", type=pathlib.Path, help="write the tables there, as Markdown")
    sub = command("calibrate", "fits calibration.json of a drafter anew, on prompts of yours")
    _drafter(sub)
    sub.add_argument("--settings", default="greedy,coup:0.7,coup:1.0,rej:0.7,rej:1.0", help="greedy, coup:T, rej:T")
    sub = command("export", "writes a drafter in the compact form or, with --full, in the released layout")
    sub.add_argument("--drafter", type=pathlib.Path, required=True)
    sub.add_argument("--target", type=pathlib.Path, required=True)
    sub.add_argument("--out", type=pathlib.Path, required=True)
    sub.add_argument("--full", action="store_true", help="with embedding and head, for other engines")
    sub.add_argument("--int8", action="store_true", help="matrices in 8 bits (compact form)")
    return parser


def _common(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", type=pathlib.Path, required=True, help="directory of the run; the same goes on with it")
    sub.add_argument("--set", action="append", default=[], metavar="TABLE.FIELD=VALUE", help="changes the recipe")
    sub.add_argument("--quiet", action="store_true")


def _drafter(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--drafter", type=pathlib.Path, required=True, help="its directory")
    sub.add_argument("--target", type=pathlib.Path, required=True, help="Hugging Face directory or GGUF file")
    sub.add_argument("--prompts", nargs="+", required=True, help="JSONL files, one category each")
    sub.add_argument("--num-prompts", type=int, default=12, help="of each file")
    sub.add_argument("--max-tokens", type=int, default=96)
    sub.add_argument("--seed", type=int, default=980406)
    sub.add_argument("--device", default="auto")


def _loaded(arguments):
    """Drafter, target, head and prompts of evaluate and calibrate."""
    from tandem_trainer.data.transformers_target import TransformersTarget
    from tandem_trainer.evaluation.rounds import Setting
    from tandem_trainer.evaluation.texts import read_prompts
    from tandem_trainer.formats.checkpoint import load_drafter
    from tandem_trainer.formats.target_files import TargetFiles
    from tandem_trainer.run import pick_device

    files, device = TargetFiles(arguments.target), pick_device(arguments.device)
    embedding, head = files.vocabulary()
    model = load_drafter(arguments.drafter, embedding, head).to(device).eval()
    if model.config.target_fingerprint not in ("", files.fingerprint):
        print(f"warning: {arguments.drafter} was trained for another target than {files.path}", file=sys.stderr)
    prompts = read_prompts(files.tokenizer, arguments.prompts, arguments.num_prompts, arguments.seed)
    settings = [Setting.parse(text) for text in arguments.settings.split(",")]
    return model, TransformersTarget(files, device), head.to(device), prompts, settings


def _evaluate(arguments) -> None:
    from tandem_trainer.evaluation.live import evaluate_live, live_table
    from tandem_trainer.formats.tensors import write_atomically
    from tandem_trainer.report import position_table, tau_table
    from tandem_trainer.run import evaluate_drafter

    model, target, head, prompts, settings = _loaded(arguments)
    found = evaluate_drafter(model, target, head, prompts, settings, arguments.max_tokens)
    text = tau_table(found) + "\n" + position_table(found)
    if arguments.live:
        text += "\n" + live_table(evaluate_live(arguments.live, prompts, settings, arguments.max_tokens), found)
    print(text)
    if arguments.report:
        write_atomically(arguments.report, lambda p: p.write_text(text))


def _calibrate(arguments) -> None:
    from tandem_trainer.calibration import write_calibration
    from tandem_trainer.report import calibration_table
    from tandem_trainer.run import fit_calibration

    model, target, head, prompts, settings = _loaded(arguments)
    if not model.config.has_confidence:
        raise UserError(f"{arguments.drafter}: the drafter has no confidence head, there is nothing to calibrate")
    fits = fit_calibration(model, target, head, prompts, settings, arguments.max_tokens)
    write_calibration(
        arguments.drafter / "calibration.json",
        fits,
        arguments.target.name,
        model.config.block_size,
        f"fitted on {len(prompts)} prompts, at most {arguments.max_tokens} tokens each",
    )
    print(calibration_table(fits))


def _export(arguments) -> None:
    import shutil

    from tandem_trainer.formats.checkpoint import load_drafter, save_drafter
    from tandem_trainer.formats.target_files import TargetFiles

    files = TargetFiles(arguments.target)
    model = load_drafter(arguments.drafter, *files.vocabulary())
    save_drafter(
        model,
        arguments.out,
        full=arguments.full,
        int8=arguments.int8,
        target_fingerprint=model.config.target_fingerprint,
    )
    for name in ("calibration.json", "README.md", "draft_vocab.safetensors"):
        if (arguments.drafter / name).exists() and arguments.drafter.resolve() != arguments.out.resolve():
            shutil.copyfile(arguments.drafter / name, arguments.out / name)


def _run(arguments) -> None:
    from tandem_trainer.demo import demo_recipe
    from tandem_trainer.recipe import read_recipe
    from tandem_trainer.run import Run

    if arguments.command == "demo":
        recipe = demo_recipe(arguments.target, arguments.set)
    else:
        recipe = read_recipe(arguments.recipe, arguments.set)
    run = Run(recipe, arguments.out, arguments.quiet)
    try:
        if arguments.command == "data":
            run.make_data()
        elif arguments.command == "train":
            run.train()
        elif arguments.command == "finish":
            run.finish()
        else:
            found = run.everything()
            if arguments.command == "demo" and found is not None:
                best = found.total["greedy"]
                print(f"tau {best.tau:.2f} greedy over {best.rounds} rounds")
    finally:
        run.close()


def main(argv: list[str] | None = None) -> int:
    # Before torch starts its threads: they collapse when they spin on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    arguments = _parser().parse_args(argv)
    commands = {"evaluate": _evaluate, "calibrate": _calibrate, "export": _export}
    try:
        commands.get(arguments.command, _run)(arguments)
    except UserError as error:
        print(f"tandem-train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tandem-train: interrupted; the same command goes on", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"tandem-train: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0
