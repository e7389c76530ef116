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
import csv
import dataclasses
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tagger import evaluation, inputs, models
from tagger.augmentations import Augmentation
from tagger.devices import Devices, HostLostError, precision
from tagger.devices import choose as choose_devices
from tagger.recipes import MAXIMIZED, RECIPES, Stage, TrainingRecipe
from tagger.records import Window
from tagger.storage import only_writer, write_text_atomically

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

    shards: inputs.Shards

    @property
    def sources(self) -> tuple[inputs.Shards, ...]:
        """All data that is read."""
        return (self.shards,)

    def num_batches(self, window: Window, recipe: TrainingRecipe, num_hosts: int):
        """Batches of an epoch on each host."""
        return inputs.batches_per_epoch(
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
            **order: For `inputs.training_segments`.
        """
        batches = inputs.training_segments(
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
        evaluation.check_match(models.model_info(model), self.shards)

    def describe(self) -> dict:
        """What run.json says of it; a restart must say the same."""
        return {"data": self.shards.manifest.identity()}


def train(
    name: str,
    options: dict,
    recipe: TrainingRecipe,
    objective: Objective | inputs.Shards,
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
        devices: Where to train, from `devices.choose`; None: the first device.
        checkpoint_minutes: A run that is killed loses no more training than these.

    Returns:
        Path of the best model of all stages.

    Raises:
        ValueError: model and shards disagree, the folder holds a run of another model,
            recipe, data or seed, or the loss is no longer finite.
        OSError: the folder cannot be written, is in use, the disk is full, or another
            host was lost.
    """
    if isinstance(objective, inputs.Shards):
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

    keeper = _Keeper(build, shards, devices)
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
                _tidy(stage_dir)
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
                _tidy(stage_dir)
        if devices.is_chief and not (train_dir / MODEL_NAME).exists():
            _finish(keeper, train_dir, len(recipe.stages))
        devices.agree(True)  # the others wait: JAX ends a host whose partners left
    return train_dir / MODEL_NAME


def _tidy(stage_dir: Path) -> None:
    """Deletes what a finished stage needs no more, and what a kill left unfinished."""
    for pattern in ("resume*", "unfinished*"):
        for path in stage_dir.glob(pattern):
            path.unlink(missing_ok=True)


class _Keeper:
    """The model as it is saved and scored: float32, on one device of this machine."""

    def __init__(
        self, build: Callable[[], keras.Model], shards: inputs.Shards, devices: Devices
    ):
        self._shards, self._devices = shards, devices
        with devices.alone():
            self.model = build()
        self._predict = None

    def load(self, path: Path) -> list[np.ndarray]:
        """Takes the weights of a checkpoint; returns them."""
        with self._devices.alone():
            self.model.load_weights(path)
            return self.model.get_weights()

    def take(self, weights: list[np.ndarray]) -> None:
        with self._devices.alone():
            self.model.set_weights(weights)

    def has(self, split: str) -> bool:
        return self._shards.manifest.num_clips(split) > 0

    def score(self, split: str) -> evaluation.Evaluation:
        with self._devices.alone():
            if self._predict is None:
                self._predict = evaluation.predictor(self.model, self._shards)
            info = models.model_info(self.model)
            return evaluation.evaluate(self._predict, self._shards, info, split)

    def save(self, path: Path) -> None:
        with self._devices.alone():
            models.save_model(self.model, path)


def _finish(keeper: _Keeper, train_dir: Path, num_stages: int) -> None:
    """Writes the best checkpoint of all with the thresholds that suit validation."""
    keeper.load(best_checkpoint(*_stage_dirs(train_dir, num_stages)))
    thresholds = evaluation.best_thresholds(keeper.score("val"))
    models.set_thresholds(keeper.model, thresholds)
    keeper.save(train_dir / MODEL_NAME)


def best_checkpoint(*stage_dirs: Path) -> Path | None:
    """The checkpoint with the best monitored value (in its name); None if none."""
    found = [path for folder in stage_dirs for path in folder.glob("ckpt-e*=*.keras")]
    return min(found, key=_badness, default=None)


def _checkpoint_name(epoch: int, monitor: str, value: float) -> str:
    return f"ckpt-e{epoch:03d}-{monitor}={value:.9g}.keras"  # nine tell float32 apart


def _badness(path: Path) -> float:
    """What its name says it reached; lower is better."""
    _, monitor, value = re.fullmatch(
        r"ckpt-e(\d+)-(\w+)=(.+)\.keras", path.name
    ).groups()
    return -float(value) if monitor in MAXIMIZED else float(value)


def _stage_dirs(train_dir: Path, end: int, first: int = 0) -> list[Path]:
    return [train_dir / str(stage) for stage in range(first, end)]


def _best(train_dir: Path, end: int, devices: Devices, first: int = 0) -> bool:
    """Whether one of the stages before `end` has a checkpoint, on the first host."""
    best = best_checkpoint(*_stage_dirs(train_dir, end, first))
    return devices.agree(best is not None)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to; a block that ends well renames it, else it goes."""
    unfinished = path.with_name(f"unfinished-{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


# --- A stage --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _StageRun:
    """Carries out one stage, from its start or from where it was interrupted."""

    keeper: _Keeper
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
        progress = _Progress(
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
            best = best_checkpoint(*_stage_dirs(stage_dir.parent, number))
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


class _Progress(keras.callbacks.Callback):
    """Validates, keeps the best epoch, makes the stage resumable, and ends it."""

    def __init__(
        self,
        trained: keras.Model,
        keeper: _Keeper,
        stage: Stage,
        monitor: str,
        stage_dir: Path,
        devices: Devices,
        checkpoint_minutes: float,
    ):
        super().__init__()
        self._trained, self._keeper = trained, keeper
        self._stage, self._monitor, self._dir = stage, monitor, stage_dir
        self._devices = devices
        self._checkpoint_seconds = 60 * checkpoint_minutes
        self._saved_at = time.monotonic()
        self._per_tag = None
        if devices.is_chief:
            folder = str(stage_dir / "validation")
            self._per_tag = tf.summary.create_file_writer(folder)
        self._epochs_without_gain = 0
        self._history = []
        self._metrics = None
        self.epoch = self.step = 0  # the next to be trained

    @property
    def _state_path(self) -> Path:
        return self._dir / "resume.npz"

    def is_over(self) -> bool:
        """Whether the stage ends before this epoch."""
        return (
            self._epochs_without_gain >= self._stage.patience
            or self.epoch >= self._stage.max_epochs
        )

    # --- resume.npz

    def restore(self, fed: keras.Model) -> None:
        """Takes up the state of an interrupted stage, if there is one."""
        variables = [*fed.variables, *fed.optimizer.variables, *fed.metrics_variables]
        like = [np.array(v) for v in variables] + [np.zeros(4, np.float32)]
        if not self._devices.agree(self._state_path.exists()):
            return

        def load():
            with np.load(self._state_path) as state:
                self._history = json.loads(str(state["history"]))
                return [state[str(n)] for n in range(len(like))]

        *values, counts = self._devices.from_chief(load, like)
        self.epoch, self.step, self._epochs_without_gain, num_metrics = (
            int(number) for number in counts
        )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self._metrics = values[-num_metrics:] if num_metrics else []

    def _save_state(self) -> None:
        if not self._devices.is_chief:
            return
        model = self.model
        variables = [*model.variables, *model.optimizer.variables]
        variables += model.metrics_variables
        numbers = self.epoch, self.step, self._epochs_without_gain
        numbers += (len(model.metrics_variables),)
        arrays = [np.array(v) for v in variables] + [np.array(numbers, np.float32)]
        self._check_space(sum(array.nbytes for array in arrays))
        with _replacing(self._state_path) as unfinished:
            with unfinished.open("wb") as file:
                np.savez(
                    file,
                    history=json.dumps(self._history),
                    **{str(n): array for n, array in enumerate(arrays)},
                )
                file.flush()
                os.fsync(file.fileno())
        self._saved_at = time.monotonic()

    def _check_space(self, num_bytes: int) -> None:
        """Asks before writing: HDF5 crashes the program on a full disk."""
        num_bytes = 2 * num_bytes + (1 << 20)
        if shutil.disk_usage(self._dir).free < num_bytes:
            reason = f"a checkpoint needs {num_bytes / 1e6:.0f} MB, the disk has less"
            raise OSError(errno.ENOSPC, reason)

    # --- called by fit

    def on_epoch_begin(self, epoch, logs=None):
        if self.step and self._metrics:  # fit has just reset them
            for variable, value in zip(
                self.model.metrics_variables, self._metrics, strict=True
            ):
                variable.assign(value)

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            self._first_step = self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step = self._first_step + batch + 1
        is_last = batch + 1 == self.params["steps"]  # on_epoch_end saves
        waited = time.monotonic() - self._saved_at
        if waited > self._checkpoint_seconds and not is_last:
            self._save_state()

    def on_epoch_end(self, epoch, logs=None):
        logs |= self._validate(epoch)
        gained = self._devices.is_chief and self._keep_if_best(epoch, logs)
        gained = self._devices.agree(gained)
        self._epochs_without_gain = 0 if gained else self._epochs_without_gain + 1
        self._history.append({"epoch": epoch} | logs)
        self.epoch, self.step = epoch + 1, 0
        self._write_history()
        self._save_state()
        if self.is_over():
            self.model.stop_training = True

    def _validate(self, epoch: int) -> dict[str, float]:
        assert self.model  # on JAX, asking for it brings the variables up to date
        self._keeper.take(self._trained.get_weights())
        scored = self._keeper.score("val")
        logs = {"val_loss": scored.loss, "val_roc_auc": np.nan, "val_pr_auc": np.nan}
        if np.isfinite(scored.loss):  # else the model has diverged
            logs |= {f"val_{name}": value for name, value in scored.macro().items()}
            if np.isnan(logs[self._monitor]):
                raise ValueError(
                    f"{self._monitor} is undefined: no tag has clips with it and"
                    " without it in the val split. Choose --monitor val_loss."
                )
        if self._per_tag and np.isfinite(scored.loss):
            with self._per_tag.as_default():
                for tag, value in scored.per_tag()["roc_auc"].dropna().items():
                    tf.summary.scalar(f"roc_auc/{tag}", value, step=epoch)
            self._per_tag.flush()
        values = [np.float32(value) for value in logs.values()]
        values = self._devices.from_chief(lambda: values, values)
        return dict(zip(logs, map(float, values), strict=True))

    def _keep_if_best(self, epoch: int, logs: dict[str, float]) -> bool:
        if not np.isfinite([logs["val_loss"], logs[self._monitor]]).all():
            return False
        path = self._dir / _checkpoint_name(epoch, self._monitor, logs[self._monitor])
        best = best_checkpoint(self._dir)
        # An epoch that a kill made run twice gains when it made the checkpoint.
        if best not in (None, path) and _badness(path) >= _badness(best):
            return False
        self._check_space(4 * self._keeper.model.count_params())
        self._keeper.save(path)
        for other in self._dir.glob("ckpt-*.keras"):
            if other != path:
                other.unlink()
        return True

    def _write_history(self) -> None:
        if not self._devices.is_chief:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, self._history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._history)
        write_text_atomically(self._dir / "training.csv", text.getvalue())


@contextlib.contextmanager
def _naming_corrupt_records(objective: Objective) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for shards in objective.sources:
            stack.enter_context(inputs.naming_corrupt_records(shards))
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


def _score_stage(keeper: _Keeper, stage_dir: Path) -> str:
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
