"""The command-line interface: only arguments and printing, never the work itself.

`main(argv)` runs `tagger COMMAND …`, and `main_of(name)(argv)` runs one command as a
script. The modules that do the work are imported after the arguments have been parsed
and checked, so that `--help` and a wrong argument do not load TensorFlow.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence

import tagger
from tagger.cli import (
    datasets,
    evaluating,
    explaining,
    library,
    models,
    tagging,
    training,
    transferring,
)
from tagger.cli.process import Interrupted, run
from tagger.storage import load_tensorflow

__all__ = ["COMMANDS", "load_tensorflow", "main", "main_of", "run"]


@dataclasses.dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        help: Description in one line.
        add_arguments: Function that adds the arguments of the command to a parser.
        call: Function that runs the command and returns the exit code, None for 0.
        if_interrupted: Function of the parsed arguments that returns the message for
            the user after Ctrl-C.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    call: Callable[[argparse.Namespace], int | None]
    if_interrupted: Callable[[argparse.Namespace], str] = lambda args: ""


def _same_command(args: argparse.Namespace) -> str:
    return "Run the same command again to resume."


def _again(args: argparse.Namespace) -> str:
    return "Nothing was lost; run the same command again."


COMMANDS = {
    "tag": Command(
        "tag audio files", tagging.add_tag, tagging.tag, tagging.if_tag_interrupted
    ),
    "embed": Command(
        "compute embeddings of audio files",
        tagging.add_embed,
        tagging.embed,
        _same_command,
    ),
    "scan": Command(
        "analyse a collection once; afterwards, only new and changed files",
        library.add_scan,
        library.scan,
        library.if_scan_interrupted,
    ),
    "find": Command(
        "find songs of the library by their tags", library.add_find, library.find
    ),
    "similar": Command(
        "find songs of the library that sound similar to others",
        library.add_similar,
        library.similar,
    ),
    "write": Command(
        "write scores into the metadata of the files of the library, or undo that",
        library.add_write,
        library.write,
        library.if_write_interrupted,
    ),
    "explain": Command(
        "explain why a file gets its tags: pictures, sounds and one page",
        explaining.add_explain,
        explaining.explain,
        _again,
    ),
    "serve": Command(
        "open a web page that tags, plays and explains songs",
        explaining.add_serve,
        explaining.serve,
    ),
    "augment": Command(
        "write audio files that show what --augment does to a file",
        explaining.add_augment,
        explaining.augment,
        _again,
    ),
    "fit": Command(
        "learn your own tags on a model that already knows music",
        transferring.add_fit,
        transferring.fit,
        _same_command,
    ),
    "thresholds": Command(
        "derive a model's thresholds from your own music, which needs no labels",
        transferring.add_thresholds,
        transferring.thresholds,
        _again,
    ),
    "pretrained": Command(
        "list trained models, or download one",
        models.add_pretrained,
        models.get_pretrained,
        _same_command,
    ),
    "models": Command(
        "list the models, or describe one", models.add_models, models.list_models
    ),
    "convert": Command(
        "convert weights of an original project",
        models.add_convert,
        models.convert_weights,
        _again,
    ),
    "average": Command(
        "average the scores of several models in one, such as a teacher",
        models.add_average,
        models.average,
        _again,
    ),
    "card": Command(
        "write a model card: what a model is, for whom, and its tags",
        models.add_card,
        models.write_card,
    ),
    "share": Command(
        "upload a model with its card to Hugging Face's hub",
        models.add_share,
        models.share,
        _again,
    ),
    "export": Command(
        "export a model as SavedModel, LiteRT or ONNX",
        models.add_export,
        models.export_model,
        _again,
    ),
    "build": Command(
        "build shards from audio and annotations",
        datasets.add_build,
        datasets.build,
        _same_command,
    ),
    "verify": Command(
        "check every checksum and record in a folder of shards",
        datasets.add_verify,
        datasets.verify,
        _again,
    ),
    "demo": Command(
        "synthesise a small dataset in MagnaTagATune's layout",
        datasets.add_demo,
        datasets.demo,
        _same_command,
    ),
    "train": Command(
        "train a model; the same command resumes an interrupted run",
        training.add_train,
        training.train,
        _same_command,
    ),
    "runs": Command(
        "list runs of train: scores, and what differs", training.add_runs, training.runs
    ),
    "eval": Command(
        "evaluate a model on a split: ROC-AUC and PR-AUC, macro and per tag",
        evaluating.add_eval,
        evaluating.evaluate,
        _again,
    ),
    "excitations": Command(
        "extract the excitations of a model's SE blocks for every clip of a split",
        evaluating.add_excitations,
        evaluating.excitations,
        _again,
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `tagger COMMAND …`.

    Args:
        argv: Arguments without the program's name; None: those of the process.

    Raises:
        SystemExit: the arguments are wrong, or a failure has already been reported.
        ValueError, OSError, ImportError: the command failed; the message is one
            sentence for the user.
    """
    parser = argparse.ArgumentParser(prog="tagger", description="Music auto-tagging.")
    version = f"%(prog)s {tagger.__version__}"
    parser.add_argument("--version", action="version", version=version)
    names = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for name, command in COMMANDS.items():
        # "resolve", so that a command can replace -h.
        one = names.add_parser(name, help=command.help, conflict_handler="resolve")
        command.add_arguments(one)
    args = parser.parse_args(argv)
    _call(COMMANDS[args.command], args)


def main_of(name: str, *arguments: str) -> Callable[[Sequence[str] | None], None]:
    """Returns the main function of one command, for a script at the top level.

    Args:
        name: Key of COMMANDS.
        *arguments: Leading arguments, which the script implies.
    """

    def main(argv: Sequence[str] | None = None) -> None:
        command = COMMANDS[name]
        description = f"{command.help[0].upper()}{command.help[1:]}."
        parser = argparse.ArgumentParser(
            description=description, conflict_handler="resolve"
        )
        if arguments:
            datasets.add_build_of(parser, *arguments)
        else:
            command.add_arguments(parser)
        _call(command, parser.parse_args(argv))

    return main


def _call(command: Command, args: argparse.Namespace) -> None:
    try:
        code = command.call(args)
    except KeyboardInterrupt as error:
        raise Interrupted(command.if_interrupted(args)) from error
    if code:
        sys.exit(code)
