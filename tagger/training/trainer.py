"""Staged training: a recipe's stages, each from the best checkpoint before it.

    log
    ├── run.json          recipe, model, data, versions, seed: what made these weights
    ├── 0 … 4             one folder per stage
    │   ├── ckpt-e007-val_loss=0.143210.keras   the stage's best epoch
    │   ├── resume.npz                  all that is needed to go on within an epoch
    │   ├── training.csv                losses and validation scores per epoch
    │   ├── train, validation           the same for TensorBoard, and ROC-AUC per tag
    │   └── result.json                 validation and test scores; it ends the stage
    └── model.keras       the best checkpoint of all stages, with thresholds per tag

Every file is written under another name first and then renamed: whenever a run is
killed, what it left is whole. The same command goes on where `resume.npz` was written,
and a seeded run on CPUs ends with the weights of one that nobody killed: the order of
the examples, dropout and augmentation are functions of seed, stage, epoch and step.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tagger import models
from tagger.augmentations import Augmentation
from tagger.data import pipeline
from tagger.data.records import Window
from tagger.evaluation import scoring
from tagger.storage import only_writer, write_text_atomically
from tagger.training.callbacks import (
    Keeper,
    Progress,
    best_checkpoint,
    stage_dirs,
    tidy,
)
from tagger.training.distribution import Devices, HostLostError, precision
from tagger.training.distribution import choose as choose_devices
from tagger.training.recipes import RECIPES, Stage, TrainingRecipe

__all__ = ["RECIPES", "Objective", "TrainingRecipe", "best_checkpoint", "train"]

MODEL_NAME = "model.keras"
RUN_NAME = "run.json"


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is learnt: the examples, and the model that takes them with its loss.

    This one is plain supervision: the tags of the train split, binary cross-entropy.

    Attributes:
        shards: Data with a train and a val split; a test split is scored after each
            stage.
    """

    shards: pipeline.Shards

    @property
    def sources(self) -> tuple[pipeline.Shards, ...]:
        """All data that is read."""
        return (self.shards,)

    def num_batches(self, window: Window, recipe: TrainingRecipe, num_hosts: int):
        """Batches of an epoch on each host."""
        return pipeline.batches_per_epoch(
            self.shards,
            "train",
            window,
            recipe.batch_size // num_hosts,
            recipe.crops_per_clip,
            num_hosts,
        )

    def batches(
        self,
        window: Window,
        batch_size: int,
        num_batches: int,
        epoch: int,
        step: int,
        **order,
    ) -> tf.data.Dataset:
        """Endless batches from a step of an epoch on.

        Args:
            window: How clips are cut.
            batch_size: Segments per batch of this host.
            num_batches: Of an epoch.
            epoch: To begin with.
            step: Batches of that epoch to leave out.
            **order: For `pipeline.training_segments`.
        """
        batches = pipeline.training_segments(
            self.shards, "train", window, batch_size, first_epoch=epoch, **order
        )
        return batches.skip(step)

    def loss(self, labels, scores):
        """Binary cross-entropy [batch]."""
        return keras.losses.binary_crossentropy(labels, scores)

    def trainable(self, model: keras.Model, recipe: TrainingRecipe) -> keras.Model:
        """The model that takes a batch, sharing the given one's layers."""
        manifest = self.shards.manifest
        augmentation = None
        if recipe.augment:
            augmentation = Augmentation(manifest.sample_rate, name="augmentation")
        return models.fed_with(
            model, self.shards.dtype, manifest.features, augmentation
        )

    def check(self, model: keras.Model) -> None:
        """Refuses a model that the data does not fit; raises ValueError."""
        scoring.check_match(models.model_info(model), self.shards)

    def describe(self) -> dict:
        """What run.json says of it; a restart must say the same."""
        return {"data": self.shards.manifest.identity()}


def train(
    name: str,
    options: dict,
    recipe: TrainingRecipe,
    objective: Objective | pipeline.Shards,
    train_dir: str | os.PathLike,
    initial_stage: int = 0,
    seed: int = 0,
    num_read_threads: int = 8,
    devices: Devices | None = None,
    checkpoint_minutes: float = 10.0,
) -> Path:
    """Builds a model and trains it; called again on the same folder, it goes on.

    Args:
        name: Key of `models.MODELS`.
        options: For the model's factory; number and names of the tags are the shards'.
        recipe: What to do.
        objective: What to learn; shards alone are plain supervision.
        train_dir: Folder of the run, see the module's docstring.
        initial_stage: Stages before it are passed over.
        seed: Of the first weights, dropout, augmentation and the order of the examples.
        num_read_threads: Shards read at once.
        devices: Where to train, from `distribution.choose`; None: the first device.
        checkpoint_minutes: A run that is killed loses no more training than these.

    Returns:
        Path of the best model of all stages.

    Raises:
        ValueError: model and shards disagree, the folder holds a run of another model,
            recipe, data or seed, or the loss is no longer finite.
        OSError: the folder cannot be written, is in use, the disk is full, or another
            host was lost.
    """
    if isinstance(objective, pipeline.Shards):
        objective = Objective(objective)
    devices = devices or choose_devices()
    shards = objective.shards
    options = models.default_options(name) | options

    def build() -> keras.Model:
        return models.build_model(
            name,
            num_tags=len(shards.manifest.tags),
            tags=shards.manifest.tags if shards.names_tags else None,
            **options,
        )

    keeper = Keeper(build, shards, devices)
    objective.check(keeper.model)
    if not 0 <= initial_stage < len(recipe.stages):
        raise ValueError(
            f"--initial-stage {initial_stage} is none of the {len(recipe.stages)}"
            f" stages, 0 to {len(recipe.stages) - 1}."
        )
    for split in ("train", "val", *shards.manifest.splits):
        shards.paths(split)  # what is missing shows before hours of work
    devices.check_batch(recipe.batch_size)
    window = models.model_info(keeper.model).window
    if not checkpoint_minutes >= 0:
        raise ValueError(
            f"--checkpoint-minutes cannot be {checkpoint_minutes:g}; 0 is every step."
        )
    with _naming_corrupt_records(objective):
        num_batches = objective.num_batches(window, recipe, devices.num_hosts)
    if not num_batches:
        raise ValueError(
            f"{shards.directory} holds fewer train segments than one batch of"
            f" {recipe.batch_size}. Choose a smaller --batch-size, or more"
            " --crops-per-clip."
        )
    # What does not fit shows before run.json is written, which would refuse a mended
    # command.
    order = {"seed": seed, "num_read_threads": num_read_threads}
    order |= {"crops_per_clip": recipe.crops_per_clip}
    with devices.alone():
        objective.trainable(keeper.model, recipe)
    objective.batches(window, recipe.batch_size, num_batches, 0, 0, **order)
    # A broken CUDA install trains on the CPU without a word of TensorFlow's.
    print(f"Training on {', '.join(devices.names)}")
    train_dir = Path(train_dir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_naming_lost_hosts(devices))
        if devices.is_chief:
            stack.enter_context(only_writer(train_dir, "--train-dir"))
            _enter(
                train_dir, _describe_run(keeper.model, options, recipe, objective, seed)
            )
        if initial_stage and not _best(train_dir, initial_stage, devices):
            raise ValueError(
                f"--initial-stage {initial_stage} starts from an earlier stage's best"
                f" checkpoint, and {train_dir} holds none. Start with stage 0."
            )
        for number, stage in enumerate(recipe.stages):
            stage_dir = train_dir / str(number)
            finished = devices.agree((stage_dir / "result.json").exists())
            if finished and devices.is_chief:
                tidy(stage_dir)
            if number < initial_stage or finished:
                continue
            # An epoch adds to its seed; stages do not repeat each other's order.
            order["seed"] = seed + 1000 * number
            run = _StageRun(keeper, build, stage, recipe, objective, devices)
            run(stage_dir, num_batches, checkpoint_minutes, **order)
            if not _best(train_dir, number + 1, devices, first=number):
                raise ValueError(
                    f"Training diverged: no epoch of stage {number} had a finite"
                    " validation loss. Choose a smaller --lr and another --train-dir"
                    f" than {train_dir}."
                )
            if devices.is_chief:
                result = _score_stage(keeper, stage_dir)
                rate = f"learning rate {stage.learning_rate:g}"
                print(f"Stage {number} ({rate}): {result}")
                tidy(stage_dir)
        if devices.is_chief and not (train_dir / MODEL_NAME).exists():
            _finish(keeper, train_dir, len(recipe.stages))
        devices.agree(True)  # the others wait: JAX ends a host whose partners left
    return train_dir / MODEL_NAME


def _finish(keeper: Keeper, train_dir: Path, num_stages: int) -> None:
    """Writes the best checkpoint of all with the thresholds that suit validation."""
    keeper.load(best_checkpoint(*stage_dirs(train_dir, num_stages)))
    thresholds = scoring.best_thresholds(keeper.score("val"))
    models.set_thresholds(keeper.model, thresholds)
    keeper.save(train_dir / MODEL_NAME)


def _best(train_dir: Path, end: int, devices: Devices, first: int = 0) -> bool:
    """Whether one of the stages before `end` has a checkpoint, on the first host."""
    best = best_checkpoint(*stage_dirs(train_dir, end, first))
    return devices.agree(best is not None)


# --- A stage --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _StageRun:
    """Carries out one stage, from its start or from where it was interrupted."""

    keeper: Keeper
    build: Callable[[], keras.Model]
    stage: Stage
    recipe: TrainingRecipe
    objective: Objective
    devices: Devices

    def __call__(
        self,
        stage_dir: Path,
        num_batches: int,
        checkpoint_minutes: float,
        seed: int,
        **order,
    ) -> None:
        devices = self.devices
        if devices.is_chief:
            stage_dir.mkdir(exist_ok=True)
        # From here on all that is drawn hangs on the stage alone, not on what was
        # drawn before it: a restart skips that.
        keras.utils.set_random_seed(seed)
        with devices.scope(), precision(self.recipe.precision):
            model = self.build()
            fed = self.objective.trainable(model, self.recipe)
            devices.share_statistics(model)
            fed.compile(
                self._optimizer(),
                loss=self.objective.loss,
                jit_compile=self.recipe.xla or keras.backend.backend() == "jax",
            )
            fed.optimizer.build(fed.trainable_variables)
        self._load_best(model, stage_dir)
        progress = Progress(
            model, self.keeper, self.stage, self.recipe.monitor, stage_dir, devices,
            checkpoint_minutes,
        )  # fmt: skip
        progress.restore(fed)
        order |= {"host": devices.host, "num_hosts": devices.num_hosts}
        with (
            _naming_corrupt_records(self.objective),
            devices.scope()
            if keras.backend.backend() == "jax"
            else contextlib.nullcontext(),
        ):
            while not progress.is_over():
                batches = self.objective.batches(
                    models.model_info(model).window,
                    self.recipe.batch_size // devices.num_hosts,
                    num_batches,
                    progress.epoch,
                    progress.step,
                    seed=seed,
                    **order,
                )
                fed.fit(
                    batches,
                    steps_per_epoch=num_batches - progress.step,
                    shuffle=False,  # the dataset does
                    initial_epoch=progress.epoch,
                    # What is left of an interrupted epoch is a fit of its own.
                    epochs=progress.epoch + 1
                    if progress.step
                    else self.stage.max_epochs,
                    verbose=_verbosity(devices),
                    callbacks=[progress, *_writers(stage_dir, devices)],
                )

    def _optimizer(self) -> keras.optimizers.Optimizer:
        # Keras 2's `decay`, which the original resemul used.
        rate = keras.optimizers.schedules.InverseTimeDecay(
            self.stage.learning_rate, decay_steps=1, decay_rate=self.stage.step_decay
        )
        optimizer = decayed_optimizer(
            self.stage,
            rate,
            global_clipnorm=self.recipe.clip_norm,
            # Keras calls one batch a step by None alone.
            gradient_accumulation_steps=self.recipe.accumulation_steps
            if (self.recipe.accumulation_steps or 1) > 1
            else None,
        )
        if self.recipe.precision == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        return optimizer

    def _load_best(self, model: keras.Model, stage_dir: Path) -> None:
        number = int(stage_dir.name)
        if not _best(stage_dir.parent, number, self.devices):
            return

        def load():
            best = best_checkpoint(*stage_dirs(stage_dir.parent, number))
            return self.keeper.load(best)

        weights = self.devices.from_chief(load, self.keeper.model.get_weights())
        model.set_weights(weights)


def _verbosity(devices: Devices) -> int:
    if not devices.is_chief:
        return 0
    return 1 if sys.stdout.isatty() else 2


def _writers(stage_dir: Path, devices: Devices) -> list[keras.callbacks.Callback]:
    if not devices.is_chief:
        return []
    return [keras.callbacks.TensorBoard(stage_dir, write_graph=False)]


def decayed_optimizer(stage: Stage, rate, **options) -> keras.optimizers.Optimizer:
    """A stage's optimiser with PyTorch's weight decay.

    Args:
        stage: Says which, and the decay.
        rate: Learning rate or schedule.
        **options: Others of `keras.optimizers.Optimizer`.
    """
    kind = getattr(keras.optimizers, stage.optimizer)

    class Decayed(kind):
        def update_step(self, gradient, variable, learning_rate):
            decay = stage.weight_decay * ops.convert_to_tensor(variable)
            gradient = gradient + ops.cast(decay, gradient.dtype)
            return super().update_step(gradient, variable, learning_rate)

    kind = Decayed if stage.weight_decay else kind
    return kind(rate, **stage.options, **options)


@contextlib.contextmanager
def _naming_corrupt_records(objective: Objective) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for shards in objective.sources:
            stack.enter_context(pipeline.naming_corrupt_records(shards))
        yield


@contextlib.contextmanager
def _naming_lost_hosts(devices: Devices) -> Iterator[None]:
    """Turns the error of an operation that all hosts share into ours."""
    try:
        yield
    except Exception as error:
        # JAX raises what Gloo says as its own error or as ValueError.
        is_shared = type(error).__name__ == "JaxRuntimeError" or "Gloo" in str(error)
        own = "RESOURCE_EXHAUSTED" in str(error)  # memory, above all
        if devices.num_hosts == 1 or not is_shared or own:
            raise
        raise HostLostError(
            "Another host was lost. Start the same command again on every host; it"
            " goes on from the last checkpoint."
        ) from error


def _score_stage(keeper: Keeper, stage_dir: Path) -> str:
    """Scores the best checkpoint on validation and test; the result ends the stage."""
    checkpoint = best_checkpoint(stage_dir)
    keeper.load(checkpoint)
    result = {"checkpoint": checkpoint.name}
    lines = []
    for split in ("val", "test"):
        if keeper.has(split):
            scored = keeper.score(split)
            # JSON has no NaN: a split where no tag has both kinds of clips scores null.
            result[split] = json.loads(scored.as_json())
            lines.append(scored.macro_line())
    write_text_atomically(
        stage_dir / "result.json", json.dumps(result, indent=1) + "\n"
    )
    return "; ".join(lines)


# --- A run ----------------------------------------------------------------------------


def _describe_run(
    model: keras.Model,
    options: dict,
    recipe: TrainingRecipe,
    objective: Objective,
    seed: int,
) -> dict:
    backend = keras.backend.backend()
    return {
        "model": {
            "name": model.name,
            **options,
            "num_parameters": model.count_params(),
        },
        "recipe": dataclasses.asdict(recipe),
        **objective.describe(),
        "seed": seed,
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


def _enter(train_dir: Path, run: dict) -> None:
    """Writes run.json, or checks that the run the folder holds is this one."""
    path = train_dir / RUN_NAME
    if not path.exists():
        write_text_atomically(path, json.dumps(run, indent=1) + "\n")
        return
    run = json.loads(json.dumps(run))  # through JSON, as the earlier one went
    try:
        earlier = json.loads(path.read_text())
        parts = [part for part in run if part not in ("versions", "git")]
        differing = [part for part in parts if earlier[part] != run[part]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} describes no run of ours ({error!r}). Choose another --train-dir."
        ) from error
    if differing:
        raise ValueError(
            f"{train_dir} holds a run with another {differing[0]} (see {path}). Choose"
            " another --train-dir, or delete that folder."
        )


def _git_state() -> str | None:
    """Commit of the code, with -dirty if changed since; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        folder = Path(__file__).parent
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
