"""Staged training: a recipe's stages, each from the best checkpoint before it.

    log
    ├── run.json          recipe, model, data, versions, seed: what made these weights
    ├── 0 … 4             one folder per stage
    │   ├── ckpt-e007-l0.143210.keras     the stage's best epoch by validation loss
    │   ├── resume-e009.weights.h5        weights and optimiser after the last epoch
    │   ├── resume.json                   the epoch they belong to
    │   ├── training.csv  train/  validation/     losses per epoch, for people and
    TensorBoard │   └── result.json   validation and test scores; it ends the stage
    └── model.keras       the best checkpoint of all stages

Every file is written under another name first and then renamed: whenever a run is
killed, what it left is whole, and the same command goes on from there.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np

from tagger import evaluation, inputs, models
from tagger.records import write_text_atomically

MODEL_NAME = "model.keras"
RUN_NAME = "run.json"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stretch of training under one optimiser."""

    learning_rate: float
    max_epochs: int
    patience: int  # epochs without a lower validation loss that end the stage


@dataclasses.dataclass(frozen=True)
class TrainingRecipe:
    """How a model is trained; saved to `run.json`.

    SGD with momentum; the learning rate of a stage decays as 1 / (1 + step_decay ·
    step).
    """

    stages: tuple[Stage, ...]
    batch_size: int
    momentum: float
    nesterov: bool
    step_decay: float


def resemul(
    learning_rate: float = 0.01,
    lr_decay: float = 0.2,
    num_stages: int = 5,
    patience: int = 2,
    batch_size: int = 23,
    momentum: float = 0.9,
    max_epochs: int = 100,
) -> TrainingRecipe:
    """The recipe of Kim, Lee and Nam (ICASSP 2018, section 3.2, and their code).

    `python train.py --block se` (or rese): 24.7 M parameters, about 9 s per step of 23
    segments on 2 CPU cores, so a GPU is needed for MTT's 152,500 segments. Published
    test ROC-AUC on MTT: .9111 (se), .9113 (rese).

    Args:
        learning_rate: Of the first stage.
        lr_decay: Factor from one stage to the next.
        num_stages: Number of stages.
        patience: Epochs without a lower validation loss that end a stage.
        batch_size: Segments per step.
        momentum: Nesterov momentum of SGD.
        max_epochs: Longest stage.
    """
    rates = [learning_rate * lr_decay**stage for stage in range(num_stages)]
    return TrainingRecipe(
        stages=tuple(Stage(rate, max_epochs, patience) for rate in rates),
        batch_size=batch_size,
        momentum=momentum,
        nesterov=True,
        step_decay=1e-6,
    )


RECIPES = {"resemul": resemul}


def train(
    name: str,
    options: dict,
    recipe: TrainingRecipe,
    shards: inputs.Shards,
    train_dir: str | os.PathLike,
    initial_stage: int = 0,
    seed: int = 0,
    num_read_threads: int = 8,
) -> Path:
    """Builds a model and trains it; called again on the same folder, it goes on.

    Args:
        name: Key of `models.MODELS`.
        options: For the model's factory; number and names of the tags are the shards'.
        recipe: What to do.
        shards: Data with a train and a val split; a test split is scored after each
            stage.
        train_dir: Folder of the run, see the module's docstring.
        initial_stage: Stages before it are passed over.
        seed: Of the first weights, dropout and the order of the examples.
        num_read_threads: Shards read at once.

    Returns:
        Path of the best model of all stages.

    Raises:
        ValueError: model and shards disagree, the folder holds a run of another model,
            recipe or data, or the loss is no longer finite.
    """
    keras.utils.set_random_seed(seed)
    model = models.build_model(
        name,
        num_tags=len(shards.manifest.tags),
        tags=shards.manifest.tags if shards.names_tags else None,
        **options,
    )
    info = models.model_info(model)
    evaluation.check_match(info, shards)
    if not 0 <= initial_stage < len(recipe.stages):
        raise ValueError(
            f"--initial-stage {initial_stage} is none of the {len(recipe.stages)}"
            f" stages, 0 to {len(recipe.stages) - 1}."
        )
    train_dir = Path(train_dir)
    (
        shards.paths("train"),
        shards.paths("val"),
    )  # what is missing shows before hours of work
    num_segments = inputs.num_segments(shards, "train", info.num_samples)
    if num_segments < recipe.batch_size:
        raise ValueError(
            f"{shards.directory} holds {num_segments} train segments, fewer than one"
            f" batch of {recipe.batch_size}. Choose a smaller --batch-size."
        )
    run = _describe_run(model, options, recipe, shards, seed)
    _enter(train_dir, run)

    for number, stage in enumerate(recipe.stages):
        stage_dir = train_dir / str(number)
        if number < initial_stage or (stage_dir / "result.json").exists():
            continue
        stage_dir.mkdir(exist_ok=True)
        _run_stage(model, recipe, stage, shards, stage_dir, seed, num_read_threads)
        result = _score_stage(best_checkpoint(stage_dir), shards, stage_dir)
        print(f"Stage {number} (learning rate {stage.learning_rate:g}): {result}")
        for leftover in [*stage_dir.glob("resume*"), *stage_dir.glob("unfinished*")]:
            leftover.unlink()

    best = best_checkpoint(*_stage_dirs(train_dir))
    unfinished = train_dir / "unfinished.keras"
    shutil.copyfile(best, unfinished)
    os.replace(unfinished, train_dir / MODEL_NAME)
    return train_dir / MODEL_NAME


def best_checkpoint(*stage_dirs: Path) -> Path | None:
    """The checkpoint with the lowest validation loss (in its name); None if none."""
    found = [path for folder in stage_dirs for path in folder.glob("ckpt-e*-l*.keras")]
    return min(found, key=_checkpoint_loss, default=None)


def _checkpoint_loss(path: Path) -> float:
    return float(re.fullmatch(r"ckpt-e\d+-l(.+)\.keras", path.name)[1])


def _stage_dirs(train_dir: Path, before: int | None = None) -> list[Path]:
    stages = [path for path in train_dir.iterdir() if path.name.isdigit()]
    return [path for path in stages if before is None or int(path.name) < before]


# --- A stage --------------------------------------------------------------------------


def _run_stage(
    model: keras.Model,
    recipe: TrainingRecipe,
    stage: Stage,
    shards: inputs.Shards,
    stage_dir: Path,
    seed: int,
    num_read_threads: int,
) -> None:
    info = models.model_info(model)
    fed = models.fed_with(model, shards.dtype)
    fed.compile(
        optimizer=keras.optimizers.SGD(
            # Keras 2's `decay`, which the original used.
            keras.optimizers.schedules.InverseTimeDecay(
                stage.learning_rate, 1, recipe.step_decay
            ),
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
        ),
        loss="binary_crossentropy",
    )
    progress = _StageProgress(model, stage, stage_dir)
    first_epoch = progress.restore(fed)
    before = best_checkpoint(*_stage_dirs(stage_dir.parent, before=int(stage_dir.name)))
    if not first_epoch and before:
        model.load_weights(before)
    if progress.is_over(first_epoch):
        return
    # An epoch takes its own seed, so stages do not repeat each other's order.
    order_seed = seed + 1000 * int(stage_dir.name)
    with inputs.naming_corrupt_records(shards):
        fed.fit(
            inputs.training_segments(
                shards,
                "train",
                info.num_samples,
                recipe.batch_size,
                seed=order_seed,
                first_epoch=first_epoch,
                num_read_threads=num_read_threads,
            ),
            steps_per_epoch=inputs.num_segments(shards, "train", info.num_samples)
            // recipe.batch_size,
            shuffle=False,  # the dataset does
            initial_epoch=first_epoch,
            epochs=stage.max_epochs,
            validation_data=inputs.validation_segments(
                shards, info.num_samples, recipe.batch_size, info.remainder
            ),
            verbose=1 if sys.stdout.isatty() else 2,
            callbacks=[
                keras.callbacks.CSVLogger(
                    stage_dir / "training.csv", append=first_epoch > 0
                ),
                keras.callbacks.TensorBoard(stage_dir, write_graph=False),
                progress,  # last: an epoch is done when it is logged
            ],
        )
    if best_checkpoint(stage_dir) is None:
        raise ValueError(
            f"Training diverged: no epoch of stage {stage_dir.name} had a finite"
            " validation loss. Choose a smaller --lr and another --train-dir than"
            f" {stage_dir.parent}."
        )


class _StageProgress(keras.callbacks.Callback):
    """Keeps the best epoch, ends a stage out of patience, makes it resumable."""

    def __init__(self, saved_model: keras.Model, stage: Stage, stage_dir: Path):
        super().__init__()
        self._saved_model = saved_model  # not `self.model`, which takes int16
        self._stage = stage
        self._dir = stage_dir
        self._epochs_without_gain = 0

    def restore(self, fed: keras.Model) -> int:
        """Loads the state of an interrupted stage; returns its next epoch."""
        try:
            state = json.loads((self._dir / "resume.json").read_text())
        except FileNotFoundError:
            return 0
        fed.optimizer.build(fed.trainable_variables)
        fed.load_weights(self._dir / state["weights"])
        self._epochs_without_gain = state["epochs_without_gain"]
        return state["epoch"] + 1

    def is_over(self, epoch: int) -> bool:
        return (
            self._epochs_without_gain >= self._stage.patience
            or epoch >= self._stage.max_epochs
        )

    def on_epoch_end(self, epoch, logs=None):
        loss = logs["val_loss"]
        best = best_checkpoint(self._dir)
        # An epoch that a kill made run twice counts as a gain when it made the
        # checkpoint.
        gained = np.isfinite(loss) and (
            best is None
            or loss < _checkpoint_loss(best)
            or best.name == _name(epoch, loss)
        )
        if gained:
            self._save_best(epoch, loss)
        self._epochs_without_gain = 0 if gained else self._epochs_without_gain + 1
        self._save_state(epoch)
        if self.is_over(epoch + 1):
            self.model.stop_training = True

    def _save_best(self, epoch: int, loss: float) -> None:
        earlier = list(self._dir.glob("ckpt-*.keras"))
        unfinished = self._dir / "unfinished.keras"
        self._saved_model.save(unfinished)
        os.replace(unfinished, self._dir / _name(epoch, loss))
        for path in earlier:
            if path.name != _name(epoch, loss):
                path.unlink()

    def _save_state(self, epoch: int) -> None:
        name = f"resume-e{epoch:03d}.weights.h5"
        unfinished = self._dir / "unfinished.weights.h5"
        self.model.save_weights(unfinished)
        os.replace(unfinished, self._dir / name)
        state = {
            "epoch": epoch,
            "weights": name,
            "epochs_without_gain": self._epochs_without_gain,
        }
        write_text_atomically(self._dir / "resume.json", json.dumps(state) + "\n")
        for path in self._dir.glob("resume-e*.weights.h5"):
            if path.name != name:
                path.unlink()


def _name(epoch: int, loss: float) -> str:
    return f"ckpt-e{epoch:03d}-l{loss:.6f}.keras"


def _score_stage(checkpoint: Path, shards: inputs.Shards, stage_dir: Path) -> str:
    """Scores the best checkpoint on validation and test; the result ends the stage."""
    model = models.load_model(checkpoint)
    predict = evaluation.predictor(model, shards.dtype)
    info = models.model_info(model)
    result = {"checkpoint": checkpoint.name, "val_loss": _checkpoint_loss(checkpoint)}
    lines = []
    for split in ("val", "test"):
        if shards.manifest.num_clips(split):
            scored = evaluation.evaluate(predict, shards, info, split)
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
    shards: inputs.Shards,
    seed: int,
) -> dict:
    return {
        "model": {
            "name": model.name,
            **options,
            "num_parameters": model.count_params(),
        },
        "recipe": dataclasses.asdict(recipe),
        "data": {
            "dataset": shards.manifest.dataset,
            "split_rule": shards.manifest.split_rule,
            "checksum": shards.manifest.checksum(),
        },
        "seed": seed,
        "versions": {
            "python": sys.version.split()[0],
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "numpy": np.__version__,
        },
        "git": _git_state(),
    }


def _enter(train_dir: Path, run: dict) -> None:
    """Makes the folder, or checks that the run it holds is this one."""
    path = train_dir / RUN_NAME
    try:
        train_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_text_atomically(path, json.dumps(run, indent=1) + "\n")
            return
    except OSError as error:
        raise OSError(
            f"Cannot write to {train_dir}: {error.strerror}. Choose another"
            " --train-dir."
        ) from error
    earlier = json.loads(path.read_text())
    for part in ("model", "recipe", "data"):
        # Through JSON, as the earlier one went.
        if earlier[part] != json.loads(json.dumps(run[part])):
            raise ValueError(
                f"{train_dir} holds a run with another {part} (see {path}). Choose"
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
