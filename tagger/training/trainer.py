"""Trains the stages of a recipe, each from the best checkpoint before it.

    task, model, recipe ─▶ train ─▶ a folder of the run, see `runs` ─▶ model.keras

The same command resumes an interrupted run. A seeded run on CPUs ends with the same
weights whether or not it was interrupted: the order of the examples, dropout and
augmentation are functions of seed, stage, epoch and step.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from msgspec import Meta

from tagger import models
from tagger.data.batches import ReadOptions, feed
from tagger.evaluation import metrics
from tagger.storage import writer_lock
from tagger.text import TaggerError
from tagger.training import fine_tuning
from tagger.training.callbacks import Console, KeepBest, Resume, ScoringModel, Validate
from tagger.training.devices import Devices, choose
from tagger.training.optimizers import make_optimizer, precision
from tagger.training.recipes import NotNegative, Stage, TrainingRecipe, Whole
from tagger.training.runs import RunFolder, StageFolder, StageState, badness
from tagger.training.tasks import BatchPlan, Task
from tagger.validation import check_fields


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of a run that are not part of the recipe.

    Attributes:
        seed: Random seed of the initial weights, dropout, augmentation and the order of
            the examples.
        initial_stage: Index of the stage to start with; earlier ones are skipped.
        num_read_threads: Number of threads that read batches ahead; None: one per core,
            at most 8.
        checkpoint_minutes: Minutes between two saves within an epoch; a killed run
            loses no more training time than this. 0: after every step.
        devices: Devices from `devices.choose`; None: the first device.
        callbacks: Further callbacks of `fit`, such as those of an experiment tracker.
            One that stops training ends the stage.
        arguments: What run.json notes for people and for `train.py --config`, such as
            the folder of the data. It may differ when a run is resumed.

    Raises:
        ValueError: a number is out of range.
    """

    seed: Annotated[int, Meta(ge=0, le=(1 << 32) - 1)] = 0
    initial_stage: Annotated[int, Meta(ge=0)] = 0
    num_read_threads: Whole | None = None
    checkpoint_minutes: NotNegative = 10.0
    devices: Devices | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    arguments: dict | None = None

    def __post_init__(self):
        check_fields(self)


def train(
    task: Task,
    model: models.Architecture | fine_tuning.Base,
    recipe: TrainingRecipe,
    train_dir: str | os.PathLike,
    run: RunOptions = RunOptions(),
) -> Path:
    """Builds a model and trains it, or resumes the run that a folder holds.

    Args:
        task: What the model learns.
        model: What is built: an architecture with random weights, or another model's
            network with a new head.
        recipe: Recipe of the training.
        train_dir: Folder of the run, see `runs`.
        run: Options of the run.

    Returns:
        Path of the best model of all stages.

    Raises:
        ValueError: model, data and recipe do not fit, the folder holds another run, or
            the loss is no longer finite.
        OSError: the folder cannot be written or is in use, the disk is full, or another
            process was lost.
    """
    used = run.devices or choose()
    train_dir = Path(train_dir)
    runner = _Runner(task, model, recipe, dataclasses.replace(run, devices=used))
    runner.check()
    # TensorFlow silently trains on the CPU if its CUDA libraries are broken.
    print(f"Training on {', '.join(used.names)}")
    with used.folder(train_dir) as path, writer_lock(path, "`train_dir=`"):
        folder = RunFolder(path, train_dir)
        folder.describe(runner.describe())
        runner.check_initial_stage(folder)
        runner.prepare(train_dir)
        for number in range(len(recipe.stages)):
            stage = folder.stage(number)
            if number >= run.initial_stage and not stage.is_finished:
                folder.model_path.unlink(missing_ok=True)  # `save_best` writes it anew
                runner.train_stage(folder, number)
            if stage.is_finished:
                stage.tidy()
        if not folder.model_path.exists():
            runner.save_best(folder)
    return RunFolder(train_dir).model_path


class _Runner:
    """Runs a recipe; holds what all its stages share."""

    def __init__(self, task: Task, model, recipe: TrainingRecipe, run: RunOptions):
        self._task, self._model, self._recipe, self._run = task, model, recipe, run
        self._devices = run.devices
        self._scored = ScoringModel(self._build, task, run.devices)
        self._segmentation = models.model_info(self._scored.model).segmentation

    def _build(self) -> keras.Model:
        shards = self._task.shards
        tags = shards.manifest.tags
        return self._model.build(tags if shards.names_tags else None, len(tags))

    def _plan(self, stage_number: int) -> BatchPlan:
        used = self._devices
        return BatchPlan(
            self._segmentation,
            self._recipe.batch_size // used.num_processes,
            ReadOptions(
                # No two stages use the same order.
                self._run.seed + 1000 * stage_number,
                self._recipe.crops_per_clip,
                used.process_id,
                used.num_processes,
            ),
        )

    def check(self) -> None:
        """Checks everything before run.json is written and anything takes long."""
        task, recipe, model = self._task, self._recipe, self._scored.model
        task.check(model, recipe)
        if self._run.initial_stage >= len(recipe.stages):
            raise TaggerError(
                f"`initial_stage=` must be 0 to {len(recipe.stages) - 1}, not"
                f" {self._run.initial_stage}: the recipe has {len(recipe.stages)}"
                " stages."
            )
        for stage in recipe.stages:
            fine_tuning.frozen_layers(model, stage.freeze)
        splits = [s for s in task.shards.manifest.splits if s != "student"]
        for split in ("train", "val", *splits):
            task.shards.paths(split)  # reports missing shards
        self._devices.check_batch(recipe.batch_size)
        monitors = ["val_loss", *(f"val_{name}" for name in task.METRICS)]
        if recipe.monitor not in monitors:
            raise TaggerError(
                f"{recipe.monitor} is not measured in this training. Choose one with"
                f" `monitor=`: {', '.join(monitors)}."
            )
        with self._devices.one_local_device():
            task.training_model(model, recipe)
        task.loss(recipe, self._devices.gather)
        if not len(task.batches(self._plan(0))):
            raise TaggerError(
                f"{task.shards.directory} holds fewer train segments than one batch of"
                f" {recipe.batch_size}. Choose a smaller `batch_size=`, or more"
                " `crops_per_clip=`."
            )

    def check_initial_stage(self, folder: RunFolder) -> None:
        """Checks that a skipped stage left a checkpoint to start from."""
        first = self._run.initial_stage
        if first and not folder.best_checkpoint(first):
            raise TaggerError(
                f"`initial_stage={first}` starts from the best checkpoint of an earlier"
                f" stage, but {folder.shown} holds none. Start with stage 0."
            )

    def prepare(self, train_dir: Path) -> None:
        """Lets the task compute what takes long."""
        self._task = self._task.prepare(self._segmentation, train_dir)
        self._scored.task = self._task

    def train_stage(self, folder: RunFolder, number: int) -> None:
        """Trains and scores one stage, from its start or where it was interrupted."""
        stage, stage_folder = self._recipe.stages[number], folder.stage(number)
        stage_folder.path.mkdir(exist_ok=True)
        # From here on, random numbers depend only on the stage, not on earlier stages,
        # which a resumed run skips.
        keras.utils.set_random_seed(self._plan(number).options.seed)
        model, fitted = self._compiled(stage)
        before = folder.best_checkpoint(number)
        if before:
            model.set_weights(self._scored.load(before))
        self._say(
            f"Stage {number} of 0–{len(self._recipe.stages) - 1}: {stage.optimizer},"
            f" learning rate {stage.learning_rate:g}"
        )
        self._fit(model, fitted, stage_folder, number)
        if not stage_folder.checkpoints():
            raise TaggerError(
                f"Training diverged: no epoch of stage {number} had a finite validation"
                " loss. Choose a smaller `lr=`, and a `train_dir=` other than"
                f" {folder.shown}."
            )
        self._score(stage_folder)

    def _compiled(self, stage: Stage) -> tuple[keras.Model, keras.Model]:
        """Returns the model to train, and the compiled one that takes batches."""
        recipe = self._recipe
        with self._devices.scope(), precision(recipe.precision):
            model = self._devices.sharing(self._build())
            fine_tuning.freeze(model, stage.freeze)
            fitted = self._task.training_model(model, recipe)
            fitted.compile(
                make_optimizer(stage, recipe, model.layers[-1].trainable_variables),
                loss=self._task.loss(recipe, self._devices.gather),
                jit_compile=recipe.xla or keras.backend.backend() == "jax",
            )
            fitted.optimizer.build(fitted.trainable_variables)
        return model, fitted

    def _fit(
        self,
        model: keras.Model,
        fitted: keras.Model,
        folder: StageFolder,
        number: int,
    ) -> None:
        stage, state = self._recipe.stages[number], StageState()
        run, monitor, scored = self._run, self._recipe.monitor, self._scored
        resume = Resume(stage, folder, state, run.checkpoint_minutes)
        callbacks = [
            Validate(model, scored, monitor, self._devices.share, folder.path),
            KeepBest(scored, monitor, folder, state),
            resume,
        ]
        if self._devices.is_chief:
            callbacks += [
                Console(state, stage.max_epochs),
                keras.callbacks.TensorBoard(folder.path, write_graph=False),
                *run.callbacks,
            ]
        resume.restore(fitted)
        batches = self._task.batches(self._plan(number))
        state.check(len(batches), folder.state_path)
        with self._devices.fitting():
            while not resume.is_over():
                first = state.epoch * len(batches) + state.step
                with feed(batches.batch, first, run.num_read_threads) as fed:
                    fitted.fit(
                        fed,
                        steps_per_epoch=len(batches) - state.step,
                        shuffle=False,  # batches are already shuffled
                        initial_epoch=state.epoch,
                        # The rest of an interrupted epoch needs its own call of `fit`.
                        epochs=state.epoch + 1 if state.step else stage.max_epochs,
                        verbose=0,
                        callbacks=callbacks,
                    )
                if fitted.stop_training:  # by `Resume`, or by a callback of the user
                    break

    def _score(self, folder: StageFolder) -> None:
        """Scores the best checkpoint of a stage and marks the stage as finished."""
        checkpoint = min(folder.checkpoints(), key=badness)
        self._scored.load(checkpoint)
        result = {"checkpoint": checkpoint.name}
        for split in ("val", "test"):
            if self._task.shards.manifest.num_clips(split):
                scored = self._scored.score(split)
                result[split] = json.loads(metrics.as_json(scored))  # null for NaN
                self._say(metrics.macro_line(scored))
        folder.write_result(result)

    def save_best(self, folder: RunFolder) -> None:
        """Writes the best checkpoint, with the thresholds that maximise F1 on val."""
        self._scored.load(folder.best_checkpoint(len(self._recipe.stages)))
        thresholds = metrics.best_thresholds(self._scored.score("val"))
        models.set_thresholds(self._scored.model, thresholds)
        self._scored.save(folder.model_path)

    def describe(self) -> dict:
        """Returns the content of run.json."""
        backend = keras.backend.backend()
        model = self._scored.model
        about = self._model.describe()
        about["model"] = {
            "name": model.name,
            **about.get("model", {}),
            "num_parameters": model.count_params(),
        }
        return {
            **about,
            "recipe": dataclasses.asdict(self._recipe),
            **self._task.describe(),
            "seed": self._run.seed,
            "arguments": self._run.arguments or {},
            "versions": {
                "python": sys.version.split()[0],
                "keras": keras.__version__,
                "backend": backend,
                "numpy": np.__version__,
                "tensorflow": tf.__version__,
                backend: sys.modules[backend].__version__,
            },
            "git": _git_state(),
        }

    def _say(self, line: str) -> None:
        if self._devices.is_chief:
            print(line, flush=True)


def _git_state() -> str | None:
    """Returns the commit of this code, with -dirty if it differs.

    It is None outside a checkout, and for a package that is installed inside another
    repository, whose git does not track this file.
    """
    folder = Path(__file__).parent
    tracked = ["git", "ls-files", "--error-unmatch", Path(__file__).name]
    try:
        for command in (tracked, ["git", "describe", "--always", "--dirty"]):
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=10
            )
            if done.returncode:
                return None
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
