"""The command train: runs a training recipe."""

import argparse
import dataclasses
import typing
from pathlib import Path

from tagger import data, models
from tagger import training as work
from tagger.cli.arguments import (
    OptionGroup,
    at_least_one,
    check_types,
    model_name,
    not_below_zero,
    not_negative,
    setting,
)
from tagger.cli.process import supervise
from tagger.models import registry
from tagger.storage import load_tensorflow
from tagger.text import TaggerError, printable
from tagger.training import recipes, run_table
from tagger.training.recipes import RECIPES, TrainingRecipe
from tagger.training.runs import read_description

DEFAULT, DATA_DIR = "sample_cnn", "./dataset"


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of runs."""
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="folder of a run (--train-dir); others are skipped",
    )


def runs(args: argparse.Namespace) -> None:
    """Prints a table of runs."""
    folders = [
        run
        for folder in args.folders
        for run in (folder, *sorted(folder.glob("round*")))
        if (run / "run.json").exists()
    ]
    print(printable(run_table.table(folders or args.folders), keep="\n"))


def add_train(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of train. Options of models and recipes have no defaults."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument("-h", "--help", action=_Help, nargs=0,
                        help="show this help message and exit")  # fmt: skip
    original = parser.add_argument_group(
        "options of the original train.py (Kim, Lee and Nam 2018)",
        "defaults: those of --model and its recipe; without --model, those of"
        f" {DEFAULT}",
    )
    add, count = original.add_argument, at_least_one
    groups = {name: parser.add_argument_group(name) for name in ("model", "recipe")}
    model, recipe = (OptionGroup(group) for group in groups.values())
    add(
        "--data-dir",
        metavar="PATH",
        help=f"folder with the shards, or its parent (default: {DATA_DIR})",
    )
    add(
        "--train-dir",
        metavar="PATH",
        default="./log",
        help="folder of the run (default: %(default)s)",
    )
    model.add(
        "--block",
        original,
        choices=["se", "rese", "res", "basic"],
        help="block of the network",
    )
    model.add(
        "--no-multi",
        original,
        dest="multi",
        action="store_false",
        help="disable multi-level feature aggregation (default: aggregate the last"
        " three blocks)",
    )
    model.add(
        "--alpha",
        original,
        metavar="A",
        type=float,
        help="amplifying ratio of SE blocks",
    )
    recipe.add(
        "--batch-size", original, metavar="N", type=count, help="segments per batch"
    )
    recipe.add(
        "--momentum", original, metavar="M", type=float, help="Nesterov momentum of SGD"
    )
    recipe.add(
        "--lr",
        original,
        metavar="LR",
        dest="learning_rate",
        type=float,
        help="learning rate of stage 0",
    )
    recipe.add(
        "--lr-decay",
        original,
        metavar="DC",
        type=float,
        help="factor of the learning rate from stage to stage",
    )
    model.add(
        "--dropout",
        original,
        metavar="DO",
        dest="dropout_rate",
        type=float,
        help="dropout rate",
    )
    model.add(
        "--weight-decay",
        original,
        metavar="WD",
        type=float,
        help="L2 penalty on the kernels",
    )
    add(
        "--initial-stage",
        metavar="N",
        type=int,
        default=0,
        help="stage to start with (default: %(default)s)",
    )
    recipe.add(
        "--patience",
        original,
        metavar="N",
        type=count,
        help="early-stopping patience in epochs",
    )
    recipe.add(
        "--num-lr-decays",
        original,
        metavar="N",
        dest="num_stages",
        type=count,
        help="number of stages",
    )
    for flag in ("--num-audios-per-shard", "--num-segments-per-audio"):
        add(
            flag,
            type=count,
            metavar="N",
            default=None,
            help="must equal the value of the build (default: that value)",
        )
    add(
        "--num-read-threads",
        metavar="N",
        type=count,
        default=None,
        help="threads that read batches ahead (default: one per core, at most 8)",
    )
    _add_model(groups["model"], model)
    _add_recipe(groups["recipe"], recipe)
    common = OptionGroup(parser.add_argument_group("every recipe"))
    _add_common(common)
    parser.set_defaults(
        model_options=model, recipe_options=recipe, common_options=common
    )
    add = parser.add_argument_group("run").add_argument
    add(
        "--seed",
        metavar="N",
        type=not_below_zero,
        help="random seed of the initial weights, dropout, augmentation and the order"
        " of the examples (default: 0)",
    )
    add(
        "--checkpoint-minutes",
        type=not_negative,
        default=10.0,
        metavar="X",
        help="minutes between saves within an epoch; a killed run loses no more"
        " training time than this (default: %(default)g)",
    )
    add("--verify", action="store_true", default=False, help="check all shards first")
    add(
        "--config",
        metavar="FILE",
        default=None,
        help="run.json of a run to repeat, in another --train-dir; other options change"
        " it",
    )
    _add_transfer(parser)
    _add_student(parser)
    _add_devices(parser)


class _Help(argparse.Action):
    """-h: notes the parser, so that `train` knows the whole command when it helps."""

    def __call__(self, parser, args, values, option_string=None):
        args.parser = parser


# What the default None means.
_UNSET = {"patience": "no early stopping", "num_filters": "16; front end lee: 64"}


def _help(args: argparse.Namespace) -> None:
    """Prints the help with the defaults of the model and the recipe at hand."""
    held = _take_config(args)
    name, options, recipe = _chosen(args, held)
    known = {} if hasattr(args, "base") else models.default_options(name) | options
    for group, values in (
        (args.model_options, known),
        (args.recipe_options, recipes.settings(recipe)),
    ):
        group.state_defaults(
            {
                name: _UNSET.get(name)
                if value is None
                else round(value, 6)
                if isinstance(value, float)
                else value
                for name, value in values.items()
            }
        )
    args.parser.print_help()


def _architecture(args: argparse.Namespace) -> tuple[str, dict, str]:
    """Returns the architecture, the options that its name implies, and its recipe."""
    name, options = getattr(args, "model", DEFAULT), {}
    if name in registry.ARCHITECTURES:
        (name, options), recipe = registry.ARCHITECTURES[name], "won2019"
    else:
        recipe = models.entry(name).recipe
    if hasattr(args, "base"):
        recipe = "transfer"
    elif hasattr(args, "teacher") and not hasattr(args, "unlabelled"):
        recipe = "distillation"
    return name, options, recipe


def _add_transfer(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "fine-tuning", "start from a trained model, with a new head for other tags"
    ).add_argument
    add(
        "--from",
        dest="base",
        type=model_name,
        metavar="MODEL",
        help="model file or pretrained model to start from, in the place of --model",
    )
    add(
        "--freeze",
        metavar="WHAT",
        help="weights that stay: none, frontend, backbone (all but the last layer), or"
        " the name of a layer (that one and all before it)",
    )
    add(
        "--backbone-learning-rate",
        dest="backbone_rate",
        type=not_negative,
        metavar="X",
        help="factor of the learning rate for all layers but the last",
    )


def _add_student(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "learning from a teacher",
        "with --unlabelled: noisy student, which also learns the labels of --data-dir;"
        " without: distillation, whose student learns nothing but the teacher's scores"
        " of --data-dir",
    )
    add = group.add_argument
    add(
        "--teacher",
        type=model_name,
        metavar="MODEL",
        help="model file or pretrained model that scores the music",
    )
    add("--unlabelled", metavar="DIR", help="shards with a student split")
    options = OptionGroup(group)
    options.add(
        "--student",
        choices=["expansion", "distillation"],
        help="noisy student: expansion keeps the size of the network, distillation"
        " shrinks it",
    )
    options.add(
        "--labelled-loss",
        choices=["bce", "skeptical"],
        help="noisy student: loss of labelled clips (default: bce)",
    )
    options.add(
        "--labelled-share",
        type=float,
        metavar="X",
        help="noisy student: labelled share of every batch (default: 0.5)",
    )
    options.add(
        "--rounds",
        type=at_least_one,
        help="noisy student: number of students, each of which teaches the next"
        " (default: 1)",
    )
    options.add(
        "--temperature",
        type=float,
        metavar="X",
        help="distillation: divide the logits by this in the loss (default: 1)",
    )
    options.add(
        "--embedding-weight",
        type=float,
        metavar="X",
        help="distillation: weight of the loss that makes the student's embeddings as"
        " similar to each other as the teacher's (default: 0)",
    )
    options.add(
        "--scores-dir",
        metavar="DIR",
        help="distillation: folder for the teacher's scores, which several runs can"
        " share (default: that of the run)",
    )
    parser.set_defaults(student_options=options)


def _add_devices(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("devices").add_argument
    add(
        "--strategy",
        choices=typing.get_args(recipes.Strategy),
        help="how to use several devices (default: none, only the first device)",
    )
    add(
        "--hosts",
        metavar="A:P,B:P",
        help="multiworker: address:port of every process",
    )
    add(
        "--process-id",
        type=int,
        metavar="N",
        help="multiworker: position of this process in --hosts, from 0",
    )


def _add_model(group: argparse._ArgumentGroup, options: OptionGroup) -> None:
    add, count = options.add, at_least_one
    group.add_argument(
        "--model",
        "--architecture",
        metavar="NAME",
        help="model to train, see tagger models, or package.module:factory for one of"
        f" your own, or {', '.join(registry.ARCHITECTURES)} of Won, Chun and Serra 2019"
        f" (default: {DEFAULT})",
    )
    add("--num-filters", metavar="N", type=count, help="number of filters")
    add("--front-end", choices=["pons", "lee"], help="front end")
    add("--back-end", choices=["attention", "cnn"], help="back end")
    add("--size", choices=["teacher", "student"], help="size of the Transformer")
    add("--channels", metavar="N", type=count, help="number of channels of the encoder")
    add("--num-layers", metavar="N", type=count, help="number of layers of the encoder")
    add("--num-heads", metavar="N", type=count, help="number of attention heads")
    add(
        "--dense-units",
        metavar="N",
        type=count,
        help="units of the second-to-last layer",
    )
    group.add_argument(
        "--set",
        dest="settings",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option of the model, which tagger models NAME lists, e.g. --set"
        " vertical_filters=64",
    )


def _add_recipe(group: argparse._ArgumentGroup, options: OptionGroup) -> None:
    group.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        help="recipe to use (default: the model's; transfer with --from)",
    )
    add, count = options.add, at_least_one
    add(
        "--crops-per-clip",
        metavar="N",
        type=int,
        help="random crops of a clip per epoch; 0: every whole segment",
    )
    add(
        "--max-epochs",
        metavar="N",
        type=count,
        help="maximum number of epochs of stage 0; those of the others keep their"
        " proportion to it",
    )


def _add_common(options: OptionGroup) -> None:
    add, count = options.add, at_least_one
    add(
        "--monitor",
        choices=typing.get_args(recipes.Monitor),
        help="value that decides which epoch is the best (default: as published)",
    )
    add("--augment", action="store_true", help="augment the segments")
    add(
        "--transforms",
        type=_names,
        metavar="NAME,NAME",
        help="transforms of --augment: polarity, noise, gain, filter, delay, pitch and"
        " reverb (default: all; pitch and reverb take most of the time)",
    )
    add(
        "--precision",
        choices=typing.get_args(recipes.Precision),
        help="precision of the arithmetic (default: float32)",
    )
    add("--xla", action="store_true", help="compile with XLA; JAX always does")
    add("--clip-norm", type=float, metavar="X", help="maximum norm of the gradient")
    add(
        "--accumulation-steps",
        type=count,
        metavar="N",
        help="accumulate the gradients of N batches for one step",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def recipe_of(args: argparse.Namespace, recipe: TrainingRecipe) -> TrainingRecipe:
    """Returns a recipe with the options that were given."""
    known = [name for name in recipes.settings(recipe) if name not in FINE_TUNING]
    changes = args.recipe_options.values(known, args, "this recipe")
    changes |= args.common_options.values(known, args, "this recipe")
    changes |= {
        name: getattr(args, name) for name in FINE_TUNING if hasattr(args, name)
    }
    return recipes.override(recipe, **changes)


FINE_TUNING = {"freeze": "freeze", "backbone_rate": "backbone-learning-rate"}  # flags


def _check_base(args: argparse.Namespace) -> None:
    """Checks the options of fine-tuning against each other."""
    if hasattr(args, "base"):
        for flag in ("model", "teacher"):
            if hasattr(args, flag):
                raise TaggerError(f"Give --from or --{flag}, not both.")
        return
    if getattr(args, "recipe", None) == "transfer":
        raise TaggerError(
            "--recipe transfer needs --from with the model to start from."
        )
    for name, flag in FINE_TUNING.items():
        if hasattr(args, name):
            raise TaggerError(f"--{flag} needs --from with the model to start from.")


def _take_config(args: argparse.Namespace) -> dict:
    """Returns the run to repeat, and lets it give the arguments that are missing.

    Raises:
        ValueError: the file is no record of a run, or does not name a model that the
            run needs.
    """
    if not args.config:
        return {}
    held = read_description(Path(args.config), "Give the run.json of a run.")
    noted = held.get("arguments") or {"model": held["model"]["name"]}
    given = vars(args)
    unwanted = {"recipe"}  # a name; the recipe itself is in the file
    if "base" in given:
        unwanted |= {"model", "options", "teacher", "unlabelled", "student"}
    elif given.get("model", noted.get("model")) != noted.get("model"):
        unwanted |= {"base", "options"}
    for name, value in noted.items():
        if name not in unwanted and name not in given:
            setattr(args, name, value)
    for flag, name in {"from": "base", "teacher": "teacher",
                       "unlabelled": "unlabelled"}.items():  # fmt: skip
        if flag in held and name not in unwanted and not hasattr(args, name):
            raise TaggerError(f"{args.config} does not say which. Give --{flag}.")
    taught = {}
    if hasattr(args, "teacher"):
        taught = held.get("distillation", {}) | held.get("noisy_student", {})
    gone = sorted(taught.keys() - args.student_options.flags.keys())
    if gone:
        raise TaggerError(f"{args.config} uses {gone[0]}, an option that is gone.")
    for name, value in (taught | {"seed": held["seed"]}).items():
        if not hasattr(args, name):
            setattr(args, name, value)
    return held


def _chosen(args: argparse.Namespace, held: dict) -> tuple[str, dict, TrainingRecipe]:
    """Returns the architecture, its options and the recipe, but for other options."""
    name, options, usual = _architecture(args)
    options |= getattr(args, "options", {})
    if held and "options" not in held.get("arguments", {}):  # a run of before
        usual_options = {} if hasattr(args, "base") else models.default_options(name)
        if held["model"]["name"] == name:
            options |= {
                key: held["model"][key]
                for key, value in usual_options.items()
                if held["model"].get(key, value) != value
            }
    if held and not hasattr(args, "recipe"):
        args.recipe = held.get("arguments", {}).get("recipe", usual)
        stages = tuple(recipes.Stage(**stage) for stage in held["recipe"]["stages"])
        return name, options, TrainingRecipe(**held["recipe"] | {"stages": stages})
    args.recipe = getattr(args, "recipe", usual)
    return name, options, RECIPES[args.recipe]


def _model_of(args: argparse.Namespace, name: str, options: dict):
    """Returns what to train; notes the options that were given."""
    if hasattr(args, "base"):
        args.model_options.values([], args, "training with --from", dict(args.settings))
        return work.fine_tuning.Base(args.base)
    args.model = getattr(args, "model", DEFAULT)
    defaults, settings = models.default_options(name), dict(args.settings)
    check_types(settings, defaults)
    options |= args.model_options.values(
        list(defaults), args, f"model {name}", settings
    )
    args.options = options
    if getattr(args, "student", None) == "distillation":
        options = registry.smaller(name, options)
    return registry.Architecture(name, options)


# What run.json notes of the command for people, and for --config.
NOTED = ("model", "options", "base", "teacher", "unlabelled", "student", "recipe")


def train(args: argparse.Namespace) -> None:
    """Trains a model, or a student of one; or prints the help."""
    if hasattr(args, "parser"):
        _help(args)
        return
    is_distilled = getattr(args, "recipe", None) == "distillation"
    held = _take_config(args)
    if is_distilled and not hasattr(args, "teacher"):
        raise TaggerError("--recipe distillation needs --teacher.")
    if hasattr(args, "unlabelled") and not hasattr(args, "teacher"):
        raise TaggerError("--unlabelled needs --teacher with the model that scores it.")
    if not hasattr(args, "teacher"):
        args.student_options.values([], args, "training without --teacher")
    _check_base(args)
    name, options, recipe = _chosen(args, held)
    recipe = recipe_of(args, recipe)
    if getattr(args, "strategy", "none") == "multiworker":
        supervise()
    load_tensorflow()
    args.data_dir = getattr(args, "data_dir", DATA_DIR)
    model = _model_of(args, name, options)
    choices = ("strategy", "hosts", "process_id")
    given = {name: getattr(args, name) for name in choices if hasattr(args, name)}
    noted = {n: getattr(args, n) for n in (*NOTED, "data_dir") if hasattr(args, n)}
    run = work.trainer.RunOptions(
        seed=getattr(args, "seed", 0),
        initial_stage=args.initial_stage,
        num_read_threads=args.num_read_threads,
        checkpoint_minutes=args.checkpoint_minutes,
        devices=work.devices.choose(**given),
        arguments=noted,
    )
    shards = data.clips.open_shards(args.data_dir, args.verify)
    if shards.manifest.features and not hasattr(args, "crops_per_clip"):
        # A spectrogram cannot be cut anew.
        recipe = dataclasses.replace(recipe, crops_per_clip=0)
    _check_counts(args, shards.manifest)
    num_rounds, owner = 1, "distillation (without --unlabelled)"
    if not hasattr(args, "teacher"):
        task = work.tasks.Labels(shards)
    elif hasattr(args, "unlabelled"):
        num_rounds, owner = getattr(args, "rounds", 1), "the noisy student"
        unlabelled = data.clips.open_shards(args.unlabelled, args.verify)
        known = ("labelled_loss", "labelled_share", "student", "rounds")
        options = args.student_options.values(known, args, owner)
        for name in ("student", "rounds"):
            options.pop(name, None)
        task = work.tasks.NoisyStudent(shards, unlabelled, args.teacher, **options)
    else:
        known = ("temperature", "embedding_weight", "scores_dir")
        options = args.student_options.values(known, args, owner)
        task = work.tasks.Distillation(shards, args.teacher, **options)
    for number in range(1, num_rounds + 1):
        folder = Path(args.train_dir, f"round{number}" * (num_rounds > 1))
        best = work.trainer.train(task, model, recipe, folder, run)
        # Each student teaches the next.
        noted = noted | {"teacher": str(best)}
        run = dataclasses.replace(run, initial_stage=0, arguments=noted)
        if number < num_rounds:
            task = dataclasses.replace(task, teacher=best)
    if run.devices.is_chief:
        print(f"Best model: {best}")


def _check_counts(args: argparse.Namespace, manifest) -> None:
    """Checks the two counts that the original's command repeats from its build."""
    clips, segments = manifest.num_clips("train"), manifest.num_segments("train")
    for option, given, built in (
        (
            "--num-audios-per-shard",
            args.num_audios_per_shard,
            manifest.num_audios_per_shard,
        ),
        (
            "--num-segments-per-audio",
            args.num_segments_per_audio,
            segments / max(clips, 1),
        ),
    ):
        # The original's shards do not say how they were built.
        if manifest.num_audios_per_shard and given not in (None, built):
            raise TaggerError(
                f"{option} {given} does not agree with {args.data_dir}, built with"
                f" {built:g}. Leave it out, or build again."
            )
