"""Callbacks that validate each epoch, keep the best one and make training resumable.

`fit` calls them in this order, and each may read logs that an earlier one added.
"""

import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tagger import models
from tagger.data.clips import Shards
from tagger.evaluation import metrics, scoring
from tagger.training.distribution import Devices
from tagger.training.recipes import Stage
from tagger.training.runs import StageFolder, StageState, badness


class ScoringModel:
    """A float32 copy of the model, on one device, that is scored and saved.

    Args:
        build: Function that builds the model.
        shards: Data that the model is scored on.
        devices: Devices that train.
        evaluate: Function of predict, shards, metadata of the model and split.

    Attributes:
        model: The copy.
    """

    def __init__(
        self,
        build: Callable[[], keras.Model],
        shards: Shards,
        devices: Devices,
        evaluate: Callable[..., metrics.Evaluation],
    ):
        self._shards, self._evaluate, self._devices = shards, evaluate, devices
        with devices.one_local_device():
            self.model = build()
        self._predict = None

    def load(self, path: Path) -> list[np.ndarray]:
        """Loads the weights of a checkpoint and returns them."""
        with self._devices.one_local_device():
            self.model.load_weights(path)
            return self.model.get_weights()

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Sets the weights, in the order of `keras.Model.get_weights`."""
        with self._devices.one_local_device():
            self.model.set_weights(weights)

    def can_score(self, split: str) -> bool:
        """Returns whether a split has clips."""
        return self._shards.manifest.num_clips(split) > 0

    def score(self, split: str) -> metrics.Evaluation:
        """Scores the clips of a split."""
        with self._devices.one_local_device():
            if self._predict is None:
                self._predict = scoring.predictor(self.model, self._shards)
            info = models.model_info(self.model)
            return self._evaluate(self._predict, self._shards, info, split)

    def save(self, path: Path) -> None:
        """Writes a .keras file."""
        with self._devices.one_local_device():
            models.save_model(self.model, path)


def synchronized_model(callback: keras.callbacks.Callback) -> keras.Model:
    """Returns the model that `fit` trains, with up-to-date variables.

    On JAX, `fit` trains copies of the variables; the property `Callback.model` writes
    them back.
    """
    return callback.model


class Validate(keras.callbacks.Callback):
    """Adds the loss and macro metrics of the val split to the epoch's logs.

    Args:
        trained: Model in training, which shares its layers with the one in `fit`.
        scoring_model: Model that scores its weights.
        monitor: Name of the monitored value, which must be defined.
        stage_dir: Folder of the stage; its subfolder `validation` receives ROC-AUC per
            tag for TensorBoard.
        devices: Devices that train.
    """

    def __init__(
        self,
        trained: keras.Model,
        scoring_model: ScoringModel,
        monitor: str,
        stage_dir: Path,
        devices: Devices,
    ):
        super().__init__()
        self._trained, self._scoring_model = trained, scoring_model
        self._monitor, self._devices = monitor, devices
        self._per_tag = None
        if devices.is_chief:
            folder = str(stage_dir / "validation")
            self._per_tag = tf.summary.create_file_writer(folder)

    def on_epoch_end(self, epoch, logs=None):
        """Scores the val split and adds the results to `logs`."""
        synchronized_model(self)
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
        values = [np.float32(value) for value in found.values()]
        values = self._devices.broadcast(lambda: values, values)
        logs |= dict(zip(found, map(float, values), strict=True))

    def _check(self, found: dict[str, float], reason: str) -> None:
        if np.isnan(found[self._monitor]):
            raise ValueError(
                f"{self._monitor} is undefined: {reason}. Choose --monitor val_loss."
            )

    def _write_per_tag(self, scored: metrics.Evaluation, epoch: int) -> None:
        if self._per_tag is None:
            return
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
        devices: Devices that train.
    """

    def __init__(
        self,
        scoring_model: ScoringModel,
        monitor: str,
        folder: StageFolder,
        state: StageState,
        devices: Devices,
    ):
        super().__init__()
        self._scoring_model, self._monitor = scoring_model, monitor
        self._folder, self._state, self._devices = folder, state, devices

    def on_epoch_end(self, epoch, logs=None):
        """Saves a checkpoint if the epoch is the best so far."""
        is_best = self._devices.is_chief and self._save_if_best(epoch, logs)
        is_best = self._devices.broadcast_flag(is_best)
        self._state.epochs_without_gain += 1
        if is_best:
            self._state.epochs_without_gain = 0

    def _save_if_best(self, epoch: int, logs: dict[str, float]) -> bool:
        value = logs[self._monitor]
        if not np.isfinite([logs["val_loss"], value]).all():
            return False
        path = self._folder.checkpoint_path(epoch, self._monitor, value)
        best = min(self._folder.checkpoints(), key=badness, default=None)
        # An epoch that is repeated after a kill finds its own checkpoint.
        if best not in (None, path) and badness(path) >= badness(best):
            return False
        self._folder.check_space(4 * self._scoring_model.model.count_params())
        self._scoring_model.save(path)
        self._folder.keep_only(path)
        return True


class Resume(keras.callbacks.Callback):
    """Saves and restores the state of a stage, and stops the stage when it is over.

    Args:
        stage: Stage, which sets the patience and the maximum number of epochs.
        folder: Folder of the stage.
        state: Progress of the stage; `restore` replaces its content.
        devices: Devices that train.
        checkpoint_minutes: Minutes between two saves within an epoch.
    """

    def __init__(
        self,
        stage: Stage,
        folder: StageFolder,
        state: StageState,
        devices: Devices,
        checkpoint_minutes: float,
    ):
        super().__init__()
        self._stage, self._folder, self._state = stage, folder, state
        self._devices = devices
        self._checkpoint_seconds = 60 * checkpoint_minutes
        self._saved_at = time.monotonic()
        self._metrics = {}

    def is_over(self) -> bool:
        """Returns whether the stage ends before the next epoch."""
        return (
            self._state.epochs_without_gain >= self._stage.patience
            or self._state.epoch >= self._stage.max_epochs
        )

    def restore(self, model: keras.Model) -> None:
        """Restores the state of an interrupted stage into a compiled model."""
        if not self._devices.broadcast_flag(self._folder.state_path.exists()):
            return
        variables = _variables_of(model)
        names, like = list(variables), [np.array(v) for v in variables.values()]
        numbers = ("epoch", "step", "epochs_without_gain")
        like += [np.zeros(len(numbers), np.float32)]

        def load():
            state, arrays = StageState.load(
                self._folder.state_path, dict(zip(names, like, strict=False))
            )
            self._state.history[:] = state.history
            counts = [getattr(state, number) for number in numbers]
            return [*arrays.values(), np.array(counts, np.float32)]

        *arrays, counts = self._devices.broadcast(load, like)
        for number, count in zip(numbers, counts, strict=True):
            setattr(self._state, number, int(count))
        for variable, array in zip(variables.values(), arrays, strict=True):
            variable.assign(array)
        self._metrics = {
            name: array
            for name, array in zip(names, arrays, strict=True)
            if name.startswith("metric")
        }

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
        if self._devices.is_chief:
            self._folder.write_history(self._state.history)
        self._save()
        if self.is_over():
            self.model.stop_training = True

    def _save(self) -> None:
        if not self._devices.is_chief:
            return
        variables = _variables_of(synchronized_model(self))
        arrays = {name: np.array(value) for name, value in variables.items()}
        self._folder.check_space(sum(array.nbytes for array in arrays.values()))
        self._state.save(self._folder.state_path, arrays)
        self._saved_at = time.monotonic()


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
