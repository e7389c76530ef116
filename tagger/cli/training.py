"""The commands train and runs."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tagger import data
from tagger import training as work
from tagger.cli.kinds import Count, Folder, Model
from tagger.cli.planning import DEFAULT, FLAGS, NOTED, TEACHING, Plan, plan_of
from tagger.models import registry
from tagger.options import Option, OptionsOf
from tagger.storage import load_tensorflow
from tagger.text import TaggerError, printable
from tagger.training import recipes, run_table

DATA_DIR = "./dataset"


def runs(folders: Annotated[list[str], Option(metavar="DIR")]) -> None:
    """Lists runs of train: scores, and what differs.

    Args:
        folders: Folders of runs (--train-dir); others are skipped.
    """
    found = [
        run
        for folder in map(Path, folders)
        for run in (folder, *sorted(folder.glob("round*")))
        if (run / "run.json").exists()
    ]
    print(printable(run_table.table(found or list(map(Path, folders))), keep="\n"))


# --- train ----------------------------------------------------------------------------


def train(
    *,
    data_dir: Folder | None = None,
    train_dir: Folder = "./log",
    architecture: Annotated[
        str | None,
        Option(metavar="NAME", check="tagger.cli.planning:architecture"),
    ] = None,
    model: Annotated[
        dict,
        OptionsOf(
            "tagger.cli.planning:options_of_model",
            chosen=True,
            flags=FLAGS,
            owner="tagger.cli.planning:owner_of",
        ),
    ],
    recipe: Annotated[
        str | None, Option(metavar="NAME", check="tagger.cli.planning:recipe")
    ] = None,
    settings: Annotated[
        dict,
        OptionsOf("tagger.cli.planning:options_of_recipe", chosen=True, flags=FLAGS),
    ],
    from_: Model | None = None,
    teacher: Model | None = None,
    unlabelled: Folder | None = None,
    student: Literal["expansion", "distillation"] | None = None,
    rounds: Count | None = None,
    teaching: Annotated[
        dict, OptionsOf("tagger.cli.planning:options_of_teacher", chosen=True)
    ],
    num_audios_per_shard: Count | None = None,
    num_segments_per_audio: Count | None = None,
    verify: bool = False,
    config: Annotated[str | None, Option(metavar="FILE")] = None,
    run: Annotated[dict, OptionsOf("tagger.training.trainer:RunOptions", title="run")],
    devices: Annotated[
        dict, OptionsOf("tagger.training.devices:choose", title="devices")
    ],
) -> None:
    """Trains a model; the same command resumes an interrupted run.

    The options of the model and of its recipe follow --architecture, --from, --teacher
    and --recipe: add --help to a command to see those that it takes.

    Args:
        data_dir: Folder with the shards, or its parent; None: ./dataset.
        train_dir: Folder of the run.
        architecture: Model to train, see tagger models list; or package.module:factory
            for one of your own; or pons_won, pons_pons, lee_won or lee_lee of Won, Chun
            and Serra 2019; None: sample_cnn.
        recipe: Recipe to use; None: the model's own, transfer with --from, distillation
            with --teacher alone.
        from_: Model file or pretrained model to start from, with a new head for other
            tags, in the place of --architecture.
        teacher: Model file or pretrained model that scores the music. With
            --unlabelled: noisy student, which also learns the labels of --data-dir.
            Without: distillation, whose student learns only the teacher's scores.
        unlabelled: Shards with a student split.
        student: Noisy student: expansion keeps the size of the network, distillation
            shrinks it; None: expansion.
        rounds: Noisy student: number of students, each of which teaches the next;
            None: 1.
        num_audios_per_shard: Must equal the value of the build; None: that value.
        num_segments_per_audio: Must equal the value of the build; None: that value.
        verify: Check all shards first.
        config: The run.json of a run to repeat, in another --train-dir; other options
            change it.
    """
    given = {
        "data_dir": data_dir, "architecture": architecture, "recipe": recipe,
        "from_": from_, "teacher": teacher, "unlabelled": unlabelled,
        "student": student, "config": config,
    }  # fmt: skip
    plan = plan_of({name: value for name, value in given.items() if value is not None})
    given = {"data_dir": DATA_DIR, "architecture": DEFAULT} | plan.given
    _check_together(given | {"rounds": rounds}, plan.recipe_name)
    for name, other in (
        ("architecture", architecture), ("teacher", plan.given.get("teacher"))
    ):  # fmt: skip
        if "from_" in plan.given and other:
            raise TaggerError(f"Give --from or --{name}, not both.")
    changed = recipes.override(plan.recipe, **settings)
    if devices.get("strategy") == "multiworker":
        work.supervision.supervise()
    load_tensorflow()
    if "from_" in given:
        model, chosen = work.fine_tuning.Base(given["from_"]), None
        given.pop("architecture")
    else:
        chosen = plan.options | model
        narrow = given.get("student") == "distillation"
        model = registry.Architecture(
            plan.model, registry.smaller(plan.model, chosen) if narrow else chosen
        )
    noted = {name: given[it] for name, it in NOTED.items() if it in given}
    noted |= {"recipe": plan.recipe_name}
    noted |= {} if chosen is None else {"options": chosen}
    if "teacher" in given:
        teaching = _taught(plan) | teaching
    run = {"seed": plan.held.get("seed", 0)} | run
    run = work.trainer.RunOptions(
        **run, devices=work.devices.choose(**devices), arguments=noted
    )
    shards = data.clips.open_shards(given["data_dir"], verify)
    if shards.manifest.features and "crops_per_clip" not in settings:
        # A spectrogram cannot be cut anew.
        changed = dataclasses.replace(changed, crops_per_clip=0)
    _check_counts(shards, num_audios_per_shard, num_segments_per_audio)
    if "teacher" not in given:
        task = work.tasks.Labels(shards)
    elif "unlabelled" in given:
        music = data.clips.open_shards(given["unlabelled"], verify)
        task = work.tasks.NoisyStudent(shards, music, given["teacher"], **teaching)
    else:
        task = work.tasks.Distillation(shards, given["teacher"], **teaching)
    for number in range(1, (rounds or 1) + 1):
        folder = Path(train_dir, f"round{number}" if (rounds or 1) > 1 else "")
        best = work.trainer.train(task, model, changed, folder, run)
        # Each student teaches the next.
        noted = noted | {"teacher": str(best)}
        run = dataclasses.replace(run, initial_stage=0, arguments=noted)
        if number < (rounds or 1):
            task = dataclasses.replace(task, teacher=best)
    if run.devices.is_chief:
        print(f"Best model: {best}")


def _taught(plan: Plan) -> dict:
    """Returns how a run to repeat learned from its teacher."""
    found = plan.held.get("distillation", {}) | plan.held.get("noisy_student", {})
    known = {name for names in TEACHING.values() for name in names}
    if gone := sorted(found.keys() - known):
        raise TaggerError(
            f"{plan.given['config']} uses {gone[0]}, an option that is gone."
        )
    return found


def _check_together(given: dict, recipe: str) -> None:
    """Checks options that need or exclude each other."""
    for needed, name in (("teacher", "distillation"), ("from_", "transfer")):
        if recipe == name and needed not in given:
            raise TaggerError(f"--recipe {name} needs --{needed.rstrip('_')}.")
    if "unlabelled" in given and "teacher" not in given:
        raise TaggerError("--unlabelled needs --teacher with the model that scores it.")
    for name in ("student", "rounds"):
        if given.get(name) is not None and "unlabelled" not in given:
            raise TaggerError(f"--{name} needs --teacher and --unlabelled.")


def _check_counts(shards, clips_per_shard: int | None, per_clip: int | None) -> None:
    """Checks the two counts that the original's command repeats from its build."""
    manifest = shards.manifest
    clips, segments = manifest.num_clips("train"), manifest.num_segments("train")
    for option, given, built in (
        ("--num-audios-per-shard", clips_per_shard, manifest.num_audios_per_shard),
        ("--num-segments-per-audio", per_clip, segments / max(clips, 1)),
    ):
        # The original's shards do not say how they were built.
        if manifest.num_audios_per_shard and given not in (None, built):
            raise TaggerError(
                f"{option} {given} does not agree with {shards.directory}, built with"
                f" {built:g}. Leave it out, or build again."
            )
