"""What a stage of training keeps on disk: its best epoch, and all it needs to go on.

Every file is written under another name first and then renamed: whenever a run is
killed, what it left is whole.
"""

import contextlib
import csv
import errno
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tagger import models
from tagger.data import pipeline
from tagger.evaluation import scoring
from tagger.storage import write_text_atomically
from tagger.training.distribution import Devices
from tagger.training.recipes import MAXIMIZED, Stage


class Keeper:
    """The model as it is saved and scored: float32, on one device of this machine."""

    def __init__(
        self,
        build: Callable[[], keras.Model],
        shards: pipeline.Shards,
        devices: Devices,
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
        """Takes the weights of the model in training."""
        with self._devices.alone():
            self.model.set_weights(weights)

    def has(self, split: str) -> bool:
        """Whether the data has clips of a split."""
        return self._shards.manifest.num_clips(split) > 0

    def score(self, split: str) -> scoring.Evaluation:
        """Scores the clips of a split."""
        with self._devices.alone():
            if self._predict is None:
                self._predict = scoring.predictor(self.model, self._shards)
            info = models.model_info(self.model)
            return scoring.evaluate(self._predict, self._shards, info, split)

    def save(self, path: Path) -> None:
        """Writes the .keras file."""
        with self._devices.alone():
            models.save_model(self.model, path)


def best_checkpoint(*folders: Path) -> Path | None:
    """The checkpoint with the best monitored value (in its name); None if none."""
    found = [path for folder in folders for path in folder.glob("ckpt-e*=*.keras")]
    return min(found, key=_badness, default=None)


def _checkpoint_name(epoch: int, monitor: str, value: float) -> str:
    return f"ckpt-e{epoch:03d}-{monitor}={value:.9g}.keras"  # nine tell float32 apart


def _badness(path: Path) -> float:
    """What its name says it reached; lower is better."""
    _, monitor, value = re.fullmatch(
        r"ckpt-e(\d+)-(\w+)=(.+)\.keras", path.name
    ).groups()
    return -float(value) if monitor in MAXIMIZED else float(value)


def stage_dirs(train_dir: Path, end: int, first: int = 0) -> list[Path]:
    """Folders of the stages from `first` to before `end`."""
    return [train_dir / str(stage) for stage in range(first, end)]


def tidy(stage_dir: Path) -> None:
    """Deletes what a finished stage needs no more, and what a kill left unfinished."""
    for pattern in ("resume*", "unfinished*"):
        for path in stage_dir.glob(pattern):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to; a block that ends well renames it, else it goes."""
    unfinished = path.with_name(f"unfinished-{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class Progress(keras.callbacks.Callback):
    """Validates, keeps the best epoch, makes the stage resumable, and ends it."""

    def __init__(
        self,
        trained: keras.Model,
        keeper: Keeper,
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
