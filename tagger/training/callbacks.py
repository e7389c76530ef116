"""Callbacks that validate each epoch, keep the best one and make training resumable.

`fit` calls them in the order Validate, KeepBest, Resume, Console, and each may read
logs that an earlier one added.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tagger import models
from tagger.evaluation import metrics, scoring
from tagger.text import TaggerError
from tagger.training.devices import Devices, locally
from tagger.training.recipes import Stage
from tagger.training.runs import StageFolder, StageState, badness
from tagger.training.tasks import Task


class ScoringModel:
    """A float32 copy of the model, on one device, that is scored and saved.

    Args:
        build: Function that builds the model.
        task: Task that it is scored on.
        devices: Devices that train.

    Attributes:
        model: The copy.
        task: The task; it may have been prepared since.
    """

    def __init__(self, build: Callable[[], keras.Model], task: Task, devices: Devices):
        self.task, self._devices, self._predict = task, devices, None
        with devices.one_local_device():
            self.model = build()

    @locally
    def load(self, path: Path) -> list[np.ndarray]:
        """Loads the weights of a checkpoint and returns them."""
        models.load_weights(self.model, path)
        return self.model.get_weights()

    @locally
    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Sets the weights, in the order of `keras.Model.get_weights`."""
        self.model.set_weights(weights)

    @locally
    def score(self, split: str) -> metrics.Evaluation:
        """Scores the clips of a split."""
        if self._predict is None:
            self._predict = scoring.predictor(self.model, self.task.shards)
        return self.task.evaluate(self._predict, models.model_info(self.model), split)

    @locally
    def save(self, path: Path) -> None:
        """Writes a .keras file."""
        models.save_model(self.model, path)


class Validate(keras.callbacks.Callback):
    """Adds the loss and macro metrics of the val split to the epoch's logs.

    Args:
        trained: Model in training, which shares its layers with the one in `fit`.
        scoring_model: Model that scores its weights.
        monitor: Name of the monitored value, which must be defined.
        share: Function that returns the first process's result, `Devices.share`.
        stage_dir: Folder of the stage; its subfolder `validation` receives ROC-AUC per
            tag for TensorBoard.
    """

    def __init__(
        self,
        trained: keras.Model,
        scoring_model: ScoringModel,
        monitor: str,
        share: Callable,
        stage_dir: Path,
    ):
        super().__init__()
        self._trained, self._scoring_model = trained, scoring_model
        self._monitor, self._share = monitor, share
        folder = str(stage_dir / "validation")
        self._per_tag = tf.summary.create_file_writer(folder)

    def on_epoch_end(self, epoch, logs=None):
        """Scores the val split and adds the results to `logs`."""
        self.model  # noqa: B018, on JAX, this writes back the variables `fit` trains
        self._scoring_model.set_weights(self._trained.get_weights())
        scored = self._scoring_model.score("val")
        found = {"val_loss": scored.loss}
        found |= {f"val_{name}": np.nan for name in scored.metrics}
        if np.isfinite(scored.loss):  # otherwise the model has diverged
            found |= {
                f"val_{name}": value for name, value in metrics.macro(scored).items()
            }
            self._check(found, scored.reason_undefined)
            self._write_per_tag(scored, epoch)
        shared = self._share(lambda: found)
        logs |= {name: float(np.float32(value)) for name, value in shared.items()}

    def _check(self, found: dict[str, float], reason: str) -> None:
        if np.isnan(found[self._monitor]):
            raise TaggerError(
                f"{self._monitor} is undefined: {reason}. Choose `monitor=val_loss`."
            )

    def _write_per_tag(self, scored: metrics.Evaluation, epoch: int) -> None:
        with self._per_tag.as_default():
            for tag, value in metrics.per_tag(scored)["roc_auc"].dropna().items():
                tf.summary.scalar(f"roc_auc/{tag}", value, step=epoch)
        self._per_tag.flush()


class KeepBest(keras.callbacks.Callback):
    """Saves each epoch that is the best so far, and counts epochs without improvement.

    Args:
        scoring_model: Model with the weights that `Validate` scored.
        monitor: Name of the value that is compared.
        folder: Folder of the stage.
        state: Progress of the stage, whose epochs_without_gain is updated.
    """

    def __init__(
        self,
        scoring_model: ScoringModel,
        monitor: str,
        folder: StageFolder,
        state: StageState,
    ):
        super().__init__()
        self._scoring_model, self._monitor = scoring_model, monitor
        self._folder, self._state = folder, state

    def on_epoch_end(self, epoch, logs=None):
        """Saves a checkpoint if the epoch is the best so far."""
        self._state.epochs_without_gain += 1
        value = logs[self._monitor]
        if not np.isfinite([logs["val_loss"], value]).all():
            return
        path = self._folder.checkpoint_path(epoch, self._monitor, value)
        best = min(self._folder.checkpoints(), key=badness, default=None)
        # An epoch that is repeated after a kill finds its own checkpoint.
        if best not in (None, path) and badness(path) >= badness(best):
            return
        self._folder.check_space(4 * self._scoring_model.model.count_params())
        self._scoring_model.save(path)
        self._folder.keep_only(path)
        self._state.epochs_without_gain = 0


class Resume(keras.callbacks.Callback):
    """Saves and restores the state of a stage, and stops the stage when it is over.

    Args:
        stage: Stage, which sets the patience and the maximum number of epochs.
        folder: Folder of the stage.
        state: Progress of the stage; `restore` replaces its content.
        checkpoint_minutes: Minutes between two saves within an epoch.
    """

    def __init__(
        self,
        stage: Stage,
        folder: StageFolder,
        state: StageState,
        checkpoint_minutes: float,
    ):
        super().__init__()
        self._stage, self._folder, self._state = stage, folder, state
        self._checkpoint_seconds = 60 * checkpoint_minutes
        self._saved_at = time.monotonic()
        self._metrics = {}

    def is_over(self) -> bool:
        """Returns whether the stage ends before the next epoch."""
        patience = self._stage.patience or self._stage.max_epochs
        return (
            self._state.epochs_without_gain >= patience
            or self._state.epoch >= self._stage.max_epochs
        )

    def restore(self, model: keras.Model) -> None:
        """Restores the state of an interrupted stage into a compiled model."""
        if not self._folder.state_path.exists():
            return
        variables = _variables_of(model)
        like = {name: np.array(value) for name, value in variables.items()}
        state, arrays = StageState.load(self._folder.state_path, like)
        vars(self._state).update(vars(state))
        for name, array in arrays.items():
            variables[name].assign(array)
        self._metrics = {n: a for n, a in arrays.items() if n.startswith("metric")}

    def on_epoch_begin(self, epoch, logs=None):
        """Restores the metrics of a resumed epoch."""
        if self._state.step:  # `fit` has just reset the metrics of the resumed epoch
            for name, variable in _variables_of(self.model).items():
                if name in self._metrics:
                    variable.assign(self._metrics[name])

    def on_train_batch_begin(self, batch, logs=None):
        """Notes the step at which this `fit` starts."""
        if batch == 0:
            self._first_step = self._state.step

    def on_train_batch_end(self, batch, logs=None):
        """Counts the step, and saves the state if the last save is long ago."""
        self._state.step = self._first_step + batch + 1
        is_last = batch + 1 == self.params["steps"]  # on_epoch_end saves
        waited = time.monotonic() - self._saved_at
        if waited > self._checkpoint_seconds and not is_last:
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        """Saves the state and the history, and stops a stage that is over."""
        self._state.history.append({"epoch": epoch} | logs)
        self._state.epoch, self._state.step = epoch + 1, 0
        self._folder.write_history(self._state.history)
        self._save()
        if self.is_over():
            self.model.stop_training = True

    def _save(self) -> None:
        # On JAX, `self.model` writes back the variables that `fit` trains.
        variables = _variables_of(self.model)
        arrays = {name: np.array(value) for name, value in variables.items()}
        self._folder.check_space(sum(array.nbytes for array in arrays.values()))
        self._state.save(self._folder.state_path, arrays)
        self._saved_at = time.monotonic()


class Console(keras.callbacks.Callback):
    """Shows a bar over the steps of an epoch, and then its losses and scores in a line.

        epoch  3/5  loss .461  val .523  ROC .811  PR .802  16 s  best

    Args:
        state: Progress of the stage after `KeepBest`.
        max_epochs: Maximum number of epochs of the stage.
    """

    NAMES = {"loss": "loss", "val_loss": "val", "val_rho": "rho",
             "val_roc_auc": "ROC", "val_pr_auc": "PR"}  # fmt: skip

    def __init__(self, state: StageState, max_epochs: int):
        super().__init__()
        self._state, self._max_epochs = state, max_epochs

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the bar."""
        self._started = time.monotonic()
        self._epoch = f"epoch {epoch + 1:>{len(str(self._max_epochs))}}"
        self._bar = tqdm(
            desc=f"{self._epoch}/{self._max_epochs}",
            initial=self._state.step,
            total=self._state.step + self.params["steps"],
            unit="step",
            leave=False,
            disable=None,
            ncols=80 if sys.stderr.isatty() else None,
        )

    def on_train_batch_end(self, batch, logs=None):
        """Advances the bar, which ends before the validation's begins."""
        self._bar.update()
        if batch + 1 == self.params["steps"]:
            self._bar.close()

    def on_train_end(self, logs=None):
        """Closes the bar of an interrupted epoch."""
        self._bar.close()

    def on_epoch_end(self, epoch, logs=None):
        """Prints the line of the epoch."""
        shown = [
            f"{short} {_short(logs[name])}"
            for name, short in self.NAMES.items()
            if name in logs
        ]
        seconds = time.monotonic() - self._started
        best = "" if self._state.epochs_without_gain else "best"
        parts = [f"{self._epoch}/{self._max_epochs}", *shown, _duration(seconds), best]
        print("  ".join(filter(None, parts)), flush=True)


def _short(value: float) -> str:
    """Returns three decimals without a leading zero: .461, 1.250."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def _duration(seconds: float) -> str:
    """Returns a duration: 16 s, 5 min, 2 h 10."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02}"


def _variables_of(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns all variables that training changes, by names equal in every process.

    Keras' own paths are not equal: Keras numbers layers over the lifetime of a process.
    """
    kinds = {
        "weight": model.variables,
        "optimizer": model.optimizer.variables,
        "metric": model.metrics_variables,
    }
    return {
        f"{kind} {number}": variable
        for kind, variables in kinds.items()
        for number, variable in enumerate(variables)
    }
