"""Trains the stages of a recipe, each from the best checkpoint before it.

`runs` lists the files of a run. The same command resumes an interrupted run. A seeded
run on CPUs ends with the same weights whether or not it was interrupted: the order of
the examples, dropout and augmentation are functions of seed, stage, epoch and step.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tagger import models
from tagger.augmentations import Augmentation
from tagger.data.batches import Batches, ReadOptions, feed
from tagger.data.clips import Shards
from tagger.evaluation import alignment, metrics, scoring
from tagger.segmentation import Segmentation
from tagger.storage import writer_lock
from tagger.training import distribution, fine_tuning
from tagger.training.callbacks import KeepBest, Resume, ScoringModel, Validate
from tagger.training.recipes import Stage, TrainingRecipe
from tagger.training.runs import RunFolder, StageFolder, StageState


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """The batches that this process trains on.

    Attributes:
        segmentation: How clips are cut into segments.
        batch_size: Number of segments in a batch of this process.
        options: Options for reading the shards.
    """

    segmentation: Segmentation
    batch_size: int
    options: ReadOptions


@dataclasses.dataclass(frozen=True)
class SupervisedTask:
    """Learns the labels of clips with binary cross-entropy.

    Attributes:
        shards: Data with a train and a val split; a test split is scored after each
            stage.
    """

    METRICS = metrics.METRICS  # of validation, see `evaluate`

    shards: Shards

    def batches(self, plan: BatchPlan) -> Batches:
        """Returns the batches of this process, (segments, labels)."""
        clips = self.shards.clips("train")
        return Batches(clips, plan.segmentation, plan.batch_size, plan.options)

    def loss(self, labels, scores):
        """Returns the binary cross-entropy of each example, [batch]."""
        return keras.losses.binary_crossentropy(labels, scores)

    def training_model(self, model: keras.Model, recipe: TrainingRecipe) -> keras.Model:
        """Returns a model that takes a batch and shares the layers of `model`."""
        manifest = self.shards.manifest
        if recipe.transforms and not recipe.augment:
            raise ValueError("--transforms chooses what --augment does. Add --augment.")
        augmentation = None
        if recipe.augment:
            augmentation = augmentation_of(recipe, manifest.sample_rate, "augmentation")
        return models.with_record_inputs(
            model, self.shards.dtype, manifest.features, augmentation
        )

    def check(self, model: keras.Model) -> None:
        """Checks that the model matches the data.

        Raises:
            ValueError: it does not.
        """
        alignment.check_match(models.model_info(model), self.shards)

    def evaluate(
        self,
        predict: scoring.Predict,
        shards: Shards,
        info: models.ModelInfo,
        split: str,
    ) -> metrics.Evaluation:
        """Scores the clips of a split, see `scoring.evaluate`."""
        return scoring.evaluate(predict, shards, info, split)

    def describe(self) -> dict:
        """Returns the task's part of run.json, which must be the same to resume."""
        return {"data": self.shards.manifest.identity()}


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
            loses no more training time than this.
        devices: Devices from `distribution.choose`; None: the first device.
        base: Model to start from; None: random weights.
    """

    seed: int = 0
    initial_stage: int = 0
    num_read_threads: int | None = None
    checkpoint_minutes: float = 10.0
    devices: distribution.Devices | None = None
    base: fine_tuning.Base | None = None


def train(
    name: str,
    options: dict,
    recipe: TrainingRecipe,
    task: SupervisedTask,
    train_dir: str | os.PathLike,
    run: RunOptions = RunOptions(),
) -> Path:
    """Builds a model and trains it, or resumes the run that a folder holds.

    Args:
        name: Key of `models.MODELS`, or package.module:factory; ignored with a base.
        options: Options of the model's factory, without the tags.
        recipe: Recipe of the training.
        task: Task to learn.
        train_dir: Folder of the run, see `runs`.
        run: Options of the run.

    Returns:
        Path of the best model of all stages.

    Raises:
        ValueError: model and data do not match, the folder holds another run, or the
            loss is no longer finite.
        OSError: the folder cannot be written or is in use, the disk is full, or another
            process was lost.
    """
    devices = run.devices or distribution.choose()
    folder = RunFolder(train_dir)
    runner = _Runner(
        name, options, recipe, task, dataclasses.replace(run, devices=devices)
    )
    runner.check()
    # TensorFlow silently trains on the CPU if its CUDA libraries are broken.
    print(f"Training on {', '.join(devices.names)}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_naming_lost_processes(devices))
        if devices.is_chief:
            stack.enter_context(writer_lock(folder.path, "--train-dir"))
            folder.describe(runner.describe())
        runner.check_initial_stage(folder)
        for number in range(len(recipe.stages)):
            stage = folder.stage(number)
            is_finished = devices.broadcast_flag(stage.is_finished)
            if number >= run.initial_stage and not is_finished:
                runner.train_stage(folder, number)
            if devices.is_chief and stage.is_finished:
                stage.tidy()
        if devices.is_chief and not folder.model_path.exists():
            runner.save_best(folder)
        devices.broadcast_flag(True)  # wait: JAX kills a process whose partners exited
    return folder.model_path


def check(
    name: str,
    options: dict,
    recipe: TrainingRecipe,
    task: SupervisedTask,
    run: RunOptions = RunOptions(),
) -> None:
    """Checks what `train` checks first, before hours of preparing the task.

    Raises:
        ValueError: model and data do not match, or an option is out of range.
    """
    run = dataclasses.replace(run, devices=run.devices or distribution.choose())
    _Runner(name, options, recipe, task, run).check()


class _Runner:
    """Runs a recipe; holds what all its stages share."""

    def __init__(
        self,
        name: str,
        options: dict,
        recipe: TrainingRecipe,
        task: SupervisedTask,
        run: RunOptions,
    ):
        self._name, self._options = name, {}
        if not run.base:
            self._options = models.default_options(name) | options
        self._recipe, self._task, self._run = recipe, task, run
        self._devices = run.devices
        self._scoring_model = ScoringModel(
            self._build, task.shards, self._devices, task.evaluate
        )

    def _build(self) -> keras.Model:
        manifest = self._task.shards.manifest
        tags = manifest.tags if self._task.shards.names_tags else None
        if self._run.base:
            return self._run.base.build(tags, len(manifest.tags))
        return models.build_model(
            self._name, num_tags=len(manifest.tags), tags=tags, **self._options
        )

    def _plan(self, stage_number: int) -> BatchPlan:
        devices = self._devices
        return BatchPlan(
            models.model_info(self._scoring_model.model).segmentation,
            self._recipe.batch_size // devices.num_processes,
            ReadOptions(
                # No two stages use the same order.
                self._run.seed + 1000 * stage_number,
                self._recipe.crops_per_clip,
                devices.process_id,
                devices.num_processes,
            ),
        )

    def check(self) -> None:
        """Checks the arguments while they can be corrected: run.json fixes them."""
        shards, stages = self._task.shards, self._recipe.stages
        self._task.check(self._scoring_model.model)
        if not 0 <= self._run.initial_stage < len(stages):
            raise ValueError(
                f"--initial-stage must be 0 to {len(stages) - 1}, not"
                f" {self._run.initial_stage}: the recipe has {len(stages)} stages."
            )
        for stage in stages:
            fine_tuning.frozen_layers(self._scoring_model.model, stage.freeze)
        splits = [split for split in shards.manifest.splits if split != "student"]
        for split in ("train", "val", *splits):
            shards.paths(split)  # reports missing shards before hours of work
        self._devices.check_batch(self._recipe.batch_size)
        if not self._run.checkpoint_minutes >= 0:
            raise ValueError(
                "--checkpoint-minutes must be at least 0 (every step), not"
                f" {self._run.checkpoint_minutes:g}."
            )
        monitors = ["val_loss", *(f"val_{name}" for name in self._task.METRICS)]
        if self._recipe.monitor not in monitors:
            raise ValueError(
                f"{self._recipe.monitor} is not measured in this training. Choose one"
                f" with --monitor: {', '.join(monitors)}."
            )
        with self._devices.one_local_device():
            self._task.training_model(self._scoring_model.model, self._recipe)
        if not len(self._task.batches(self._plan(0))):
            raise ValueError(
                f"{shards.directory} holds fewer train segments than one batch of"
                f" {self._recipe.batch_size}. Choose a smaller --batch-size, or more"
                " --crops-per-clip."
            )

    def check_initial_stage(self, folder: RunFolder) -> None:
        """Checks that a skipped stage left a checkpoint to start from."""
        first = self._run.initial_stage
        if first and not self._has_checkpoint(folder, first):
            raise ValueError(
                f"--initial-stage {first} starts from the best checkpoint of an earlier"
                f" stage, but {folder.path} holds none. Start with stage 0."
            )

    def _has_checkpoint(self, folder: RunFolder, end: int, first: int = 0) -> bool:
        best = folder.best_checkpoint(end, first)
        return self._devices.broadcast_flag(best is not None)

    def train_stage(self, folder: RunFolder, number: int) -> None:
        """Trains and scores one stage, from its start or where it was interrupted."""
        stage_folder, stage = folder.stage(number), self._recipe.stages[number]
        if self._devices.is_chief:
            stage_folder.path.mkdir(exist_ok=True)
        # From here on, random numbers depend only on the stage, not on earlier stages,
        # which a resumed run skips.
        keras.utils.set_random_seed(self._plan(number).options.seed)
        model, fitted = self._compiled(stage)
        self._load_best(model, folder, number)
        self._fit(model, fitted, stage_folder, number)
        if not self._has_checkpoint(folder, number + 1, number):
            raise ValueError(
                f"Training diverged: no epoch of stage {number} had a finite validation"
                " loss. Choose a smaller --lr, and a --train-dir other than"
                f" {folder.path}."
            )
        if self._devices.is_chief:
            rate = f"learning rate {stage.learning_rate:g}"
            print(f"Stage {number} ({rate}): {self._score(folder, number)}")

    def _compiled(self, stage: Stage) -> tuple[keras.Model, keras.Model]:
        """Returns the model to train, and the compiled one that takes batches."""
        with self._devices.scope(), distribution.precision(self._recipe.precision):
            model = self._build()
            fine_tuning.freeze(model, stage.freeze)
            fitted = self._task.training_model(model, self._recipe)
            self._devices.share_statistics(model)
            fitted.compile(
                make_optimizer(stage, self._recipe, model.layers[-1]),
                loss=self._task.loss,
                jit_compile=self._recipe.xla or keras.backend.backend() == "jax",
            )
            fitted.optimizer.build(fitted.trainable_variables)
        return model, fitted

    def _load_best(self, model: keras.Model, folder: RunFolder, number: int) -> None:
        """Starts a stage from the best checkpoint of the stages before it."""
        if self._has_checkpoint(folder, number):
            weights = self._devices.broadcast(
                lambda: self._scoring_model.load(folder.best_checkpoint(number)),
                self._scoring_model.model.get_weights(),
            )
            model.set_weights(weights)

    def _fit(
        self,
        model: keras.Model,
        fitted: keras.Model,
        folder: StageFolder,
        number: int,
    ) -> None:
        stage, plan, state = (
            self._recipe.stages[number],
            self._plan(number),
            StageState(),
        )
        run, monitor, devices = self._run, self._recipe.monitor, self._devices
        scored = self._scoring_model
        resume = Resume(stage, folder, state, devices, run.checkpoint_minutes)
        callbacks = [
            Validate(model, scored, monitor, folder.path, devices),
            KeepBest(scored, monitor, folder, state, devices),
            resume,
        ]
        if devices.is_chief:
            callbacks.append(
                keras.callbacks.TensorBoard(folder.path, write_graph=False)
            )
        resume.restore(fitted)
        batches = self._task.batches(plan)
        state.check(len(batches), folder.state_path)
        is_jax = keras.backend.backend() == "jax"
        with devices.scope() if is_jax else contextlib.nullcontext():
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
                        verbose=_verbosity(devices),
                        callbacks=callbacks,
                    )

    def _score(self, folder: RunFolder, number: int) -> str:
        """Scores the best checkpoint of a stage and marks the stage as finished."""
        checkpoint = folder.best_checkpoint(number + 1, number)
        self._scoring_model.load(checkpoint)
        result, lines = {"checkpoint": checkpoint.name}, []
        for split in ("val", "test"):
            if self._scoring_model.can_score(split):
                scored = self._scoring_model.score(split)
                result[split] = json.loads(metrics.as_json(scored))  # null for NaN
                lines.append(metrics.macro_line(scored))
        folder.stage(number).write_result(result)
        return "; ".join(lines)

    def save_best(self, folder: RunFolder) -> None:
        """Writes the best checkpoint, with the thresholds that maximise F1 on val."""
        best = folder.best_checkpoint(len(self._recipe.stages))
        self._scoring_model.load(best)
        thresholds = metrics.best_thresholds(self._scoring_model.score("val"))
        models.set_thresholds(self._scoring_model.model, thresholds)
        self._scoring_model.save(folder.model_path)

    def describe(self) -> dict:
        """Returns the content of run.json."""
        backend = keras.backend.backend()
        model = self._scoring_model.model
        base = {"from": self._run.base.describe()} if self._run.base else {}
        return {
            "model": {
                "name": model.name,
                **self._options,
                "num_parameters": model.count_params(),
            },
            **base,
            "recipe": self._recipe.describe(),
            **self._task.describe(),
            "seed": self._run.seed,
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


def augmentation_of(
    recipe: TrainingRecipe, sample_rate: int, name: str
) -> Augmentation:
    """Returns the layer that augments segments as the recipe says.

    Raises:
        ValueError: the recipe names an unknown transform.
    """
    names = {} if recipe.transforms is None else {"names": recipe.transforms}
    return Augmentation(sample_rate, **names, name=name)


def _verbosity(devices: distribution.Devices) -> int:
    if not devices.is_chief:
        return 0
    return 1 if sys.stdout.isatty() else 2


def make_optimizer(
    stage: Stage, recipe: TrainingRecipe, head: keras.Layer | None = None
) -> keras.optimizers.Optimizer:
    """Returns the optimiser of a stage, with loss scaling if the precision needs it.

    Args:
        stage: Stage that sets the optimiser.
        recipe: Recipe of the stage.
        head: Layer whose weights are not the backbone's, see `Stage.backbone_rate`.
    """
    # The same as Keras 2's `decay`, which the original resemul used.
    rate = keras.optimizers.schedules.InverseTimeDecay(
        stage.learning_rate, decay_steps=1, decay_rate=stage.step_decay
    )
    num_accumulated = recipe.accumulation_steps or 1
    optimizer = decayed_optimizer(
        stage,
        rate,
        head.trainable_variables if head else (),
        global_clipnorm=recipe.clip_norm,
        # Keras accepts None, but not 1, for one batch per step.
        gradient_accumulation_steps=num_accumulated if num_accumulated > 1 else None,
    )
    if recipe.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def decayed_optimizer(
    stage: Stage, rate, of_head: Sequence[keras.Variable] = (), **options
) -> keras.optimizers.Optimizer:
    """Returns the optimiser of a stage, with PyTorch's weight decay.

    Args:
        stage: Stage that sets the optimiser, the weight decay and the factor of the
            backbone's learning rate.
        rate: Learning rate or schedule.
        of_head: Variables that do not belong to the backbone.
        **options: Other arguments of `keras.optimizers.Optimizer`.
    """
    kind = getattr(keras.optimizers, stage.optimizer)

    class Decayed(kind):
        def update_step(self, gradient, variable, learning_rate):
            if stage.weight_decay:
                decay = stage.weight_decay * ops.convert_to_tensor(variable)
                gradient = gradient + ops.cast(decay, gradient.dtype)
            # Keras' own key, as for `exclude_from_weight_decay`: the variable may be a
            # backend's.
            if self._var_key(variable) not in map(self._var_key, of_head):
                learning_rate = learning_rate * stage.backbone_rate
            return super().update_step(gradient, variable, learning_rate)

    kind = Decayed if stage.weight_decay or stage.backbone_rate != 1 else kind
    return kind(rate, **stage.options, **options)


@contextlib.contextmanager
def _naming_lost_processes(devices: distribution.Devices) -> Iterator[None]:
    """Replaces the errors of operations across processes by ProcessLostError."""
    try:
        yield
    except Exception as error:
        # JAX raises Gloo's errors as JaxRuntimeError or as ValueError.
        is_shared = type(error).__name__ == "JaxRuntimeError" or "Gloo" in str(error)
        is_own = "RESOURCE_EXHAUSTED" in str(error)  # such as memory
        if devices.num_processes == 1 or not is_shared or is_own:
            raise
        raise distribution.ProcessLostError(
            "Another process was lost. Start the same command again on every host; it"
            " resumes from the last checkpoint."
        ) from error


def _git_state() -> str | None:
    """Returns the commit, with -dirty if the code differs; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        folder = Path(__file__).parent
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
