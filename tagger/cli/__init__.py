"""Command lines: the arguments of `python -m tagger` and what all our scripts share.

Only arguments and printing live here; heavy modules are imported after parsing, so that
`--help` and a wrong argument cost no TensorFlow.
"""

import argparse

from tagger.cli import datasets, explaining, models, tagging
from tagger.cli.arguments import (
    OptionGroup,
    arguments_of,
    at_least_one,
    figure_file,
    keras_file,
    output_file,
)
from tagger.cli.datasets import build
from tagger.cli.process import load_tensorflow, run, supervise

__all__ = [
    "OptionGroup",
    "arguments_of",
    "at_least_one",
    "build",
    "figure_file",
    "keras_file",
    "load_tensorflow",
    "main",
    "output_file",
    "run",
    "supervise",
]


def main() -> int:
    """`python -m tagger COMMAND`."""
    parser = argparse.ArgumentParser(
        prog="python -m tagger", description="Music auto-tagging."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (tagging, explaining, models, datasets):
        module.add_commands(commands)
    args = parser.parse_args()
    return args.call(args)
