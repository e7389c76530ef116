"""Staged training: a recipe's stages, each from the best checkpoint before it.

    log
    ├── run.json          recipe, model, data, versions, seed: what made these weights
    ├── 0 … 4             one folder per stage
    │   ├── ckpt-e007-l0.143210.keras   the stage's best epoch by validation loss
    │   ├── resume-e009.weights.h5      weights and optimiser after the last epoch
    │   ├── resume.json                 the epoch they belong to
    │   ├── training.csv                losses per epoch
    │   ├── train, validation           the same for TensorBoard
    │   └── result.json                 validation and test scores; it ends the stage
    └── model.keras       the best checkpoint of all stages

Every file is written under another name first and then renamed: whenever a run is
killed, what it left is whole, and the same command goes on at the epoch it was in.
"""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from keras import ops

from tagger import evaluation, inputs, models
from tagger.storage import only_writer, write_text_atomically

MODEL_NAME = "model.keras"
RUN_NAME = "run.json"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stretch of training under one optimiser.

    Attributes:
        optimizer: Name of a class of `keras.optimizers`: "SGD", "Adam" …
        options: Its other arguments: momentum, nesterov …
        learning_rate: At the stage's first step.
        step_decay: The rate falls as 1 / (1 + step_decay · step).
        max_epochs: Longest stage.
        patience: Epochs without a lower validation loss that end the stage.
        weight_decay: λ of λ · w in the gradient of every weight w, before momentum and
            Adam's scaling: PyTorch's weight_decay, not Keras'.
    """

    optimizer: str
    options: dict
    learning_rate: float
    step_decay: float
    max_epochs: int
    patience: int
    weight_decay: float = 0.0


@dataclasses.dataclass(frozen=True)
class TrainingRecipe:
    """How a model is trained; saved to `run.json`.

    Attributes:
        batch_size: Segments per step.
        stages: One after the other, each from the best checkpoint before it.
        crops_per_clip: See `inputs.training_segments`; 0 is every whole segment.

    Raises:
        ValueError: a number is out of range.
    """

    batch_size: int
    stages: tuple[Stage, ...]
    crops_per_clip: int = 0

    def __post_init__(self):
        counts = [
            ("batch size", self.batch_size),
            ("number of stages", len(self.stages)),
            *(("patience", stage.patience) for stage in self.stages),
            *(("longest stage", stage.max_epochs) for stage in self.stages),
        ]
        for name, count in counts:
            if count < 1:
                raise ValueError(f"The {name} must be at least 1, not {count}.")
        if self.crops_per_clip < 0:
            raise ValueError(
                f"The number of crops per clip cannot be {self.crops_per_clip}."
            )


def resemul(
    learning_rate: float = 0.01,
    lr_decay: float = 0.2,
    num_stages: int = 5,
    patience: int = 2,
    batch_size: int = 23,
    momentum: float = 0.9,
    max_epochs: int = 100,
    crops_per_clip: int = 0,
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
        crops_per_clip: Random ones an epoch sees; 0: every whole segment, as published.
    """
    stages = [
        Stage(
            optimizer="SGD",
            options={"momentum": momentum, "nesterov": True},
            learning_rate=learning_rate * lr_decay**stage,
            step_decay=1e-6,
            max_epochs=max_epochs,
            patience=patience,
        )
        for stage in range(num_stages)
    ]
    return TrainingRecipe(batch_size, tuple(stages), crops_per_clip)


def won2019(
    learning_rate: float = 1e-4,
    batch_size: int = 16,
    max_epochs: int = 60,
    patience: int | None = None,
    crops_per_clip: int = 1,
) -> TrainingRecipe:
    """The recipe of Won, Chun and Serra 2019: Adam, then SGD of falling rate.

    Every stage starts from the best checkpoint before it, as the paper says (its code
    forgot to). Unlike its code we choose by validation loss, not ROC-AUC.
    `python train.py --model self_attention`.

    Args:
        learning_rate: Of Adam.
        batch_size: Segments per step.
        max_epochs: Of Adam; the stages of SGD last at most 20, 20 and 60.
        patience: Epochs without a lower validation loss that end a stage; None: none
            does.
        crops_per_clip: Random ones an epoch sees, as published; 0: every whole segment.
    """
    return _adam_then_sgd(
        learning_rate, batch_size, max_epochs, patience, 60, 0.0, crops_per_clip
    )


def won2020(
    learning_rate: float = 1e-4,
    batch_size: int = 16,
    max_epochs: int = 80,
    patience: int | None = None,
    crops_per_clip: int = 1,
) -> TrainingRecipe:
    """The recipe of Won et al. (SMC 2020): 200 epochs, Adam, then SGD of falling rate.

    Unlike its code we choose by validation loss, not ROC-AUC. `python train.py --model
    short_chunk_resnet`. Published test scores on MTT stand in `models.MODELS`.

    Args:
        learning_rate: Of Adam.
        batch_size: Segments per step.
        max_epochs: Of Adam; the stages of SGD last at most 20, 20 and 80.
        patience: Epochs without a lower validation loss that end a stage; None: none
            does.
        crops_per_clip: Random ones an epoch sees, as published; 0: every whole segment.
    """
    return _adam_then_sgd(
        learning_rate, batch_size, max_epochs, patience, 80, 1e-4, crops_per_clip
    )


def _adam_then_sgd(
    learning_rate, batch_size, max_epochs, patience, last_epochs, adam_decay, crops
):
    stages = [("Adam", {}, learning_rate, max_epochs, adam_decay)]
    sgd = {"momentum": 0.9, "nesterov": True}
    for rate, epochs in ((1e-3, 20), (1e-4, 20), (1e-5, last_epochs)):
        stages.append(("SGD", sgd, rate, min(max_epochs, epochs), 1e-4))
    return TrainingRecipe(
        batch_size,
        tuple(
            Stage(
                optimizer=optimizer,
                options=options,
                learning_rate=rate,
                step_decay=0.0,
                max_epochs=epochs,
                patience=patience or epochs,
                weight_decay=weight_decay,
            )
            for optimizer, options, rate, epochs, weight_decay in stages
        ),
        crops,
    )


def multi_scale(
    learning_rate: float = 1e-4,
    batch_size: int = 20,
    max_epochs: int = 100,
    patience: int | None = None,
    crops_per_clip: int = 0,
) -> TrainingRecipe:
    """The recipe of Dabral and Deshmukh: 100 epochs of Adam with weight decay.

    Theirs keeps the epoch with the best validation ROC-AUC, ours the one with the
    lowest validation loss. `python train.py --model multi_scale_cnn`; published test
    ROC-AUC .9094 on a random split of MTT.

    Args:
        learning_rate: Of Adam.
        batch_size: Segments per step.
        max_epochs: Longest training.
        patience: Epochs without a lower validation loss that end it; None: none does.
        crops_per_clip: Random ones an epoch sees; 0: every whole segment, as published.
    """
    patience = patience or max_epochs
    return _adam(learning_rate, batch_size, max_epochs, patience, crops_per_clip, 1e-4)


def transformer(
    learning_rate: float = 1e-4,
    batch_size: int = 32,
    max_epochs: int = 200,
    patience: int = 40,
    crops_per_clip: int = 1,
) -> TrainingRecipe:
    """The recipe of Won, Choi and Serra (ISMIR 2021) without its noisy student.

    `python train.py --model music_tagging_transformer`.

    Args:
        learning_rate: Of Adam.
        batch_size: Segments per step.
        max_epochs: Longest training.
        patience: Epochs without a lower validation loss that end it.
        crops_per_clip: Random ones an epoch sees, as published; 0: every whole segment.
    """
    return _adam(learning_rate, batch_size, max_epochs, patience, crops_per_clip)


def _adam(learning_rate, batch_size, max_epochs, patience, crops, weight_decay=0.0):
    stage = Stage("Adam", {}, learning_rate, 0.0, max_epochs, patience, weight_decay)
    return TrainingRecipe(batch_size, (stage,), crops)


RECIPES = {
    "resemul": resemul,
    "won2019": won2019,
    "won2020": won2020,
    "multi_scale": multi_scale,
    "transformer": transformer,
}


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
            recipe, data or seed, or the loss is no longer finite.
        OSError: the folder cannot be written, is in use, or the disk is full.
    """
    keras.utils.set_random_seed(seed)
    options = models.default_options(name) | options
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
    for split in ("train", "val", *shards.manifest.splits):
        shards.paths(split)  # what is missing shows before hours of work
    crops = recipe.crops_per_clip
    with inputs.naming_corrupt_records(shards):
        steps = inputs.batches_per_epoch(
            shards, "train", info.window, recipe.batch_size, crops
        )
    if not steps:
        raise ValueError(
            f"{shards.directory} holds fewer train segments than one batch of"
            f" {recipe.batch_size}. Choose a smaller --batch-size, or more"
            " --crops-per-clip."
        )
    # A broken CUDA install trains on the CPU without a word of TensorFlow's.
    print(f"Training on {', '.join(keras.distribution.list_devices())}")
    train_dir = Path(train_dir)
    with only_writer(train_dir, "--train-dir"):
        _enter(train_dir, _describe_run(model, options, recipe, shards, seed))
        if initial_stage and not best_checkpoint(
            *_stages_before(train_dir, initial_stage)
        ):
            raise ValueError(
                f"--initial-stage {initial_stage} starts from an earlier stage's best"
                f" checkpoint, and {train_dir} holds none. Start with stage 0."
            )
        for number, stage in enumerate(recipe.stages):
            stage_dir = train_dir / str(number)
            if number < initial_stage or (stage_dir / "result.json").exists():
                continue
            stage_dir.mkdir(exist_ok=True)
            # An epoch adds to its seed; stages do not repeat each other's order.
            order = {"seed": seed + 1000 * number, "num_read_threads": num_read_threads}
            order["crops_per_clip"] = crops
            _run_stage(model, stage, shards, stage_dir, steps, recipe.batch_size, order)
            checkpoint = best_checkpoint(stage_dir)
            if checkpoint is None:
                raise ValueError(
                    f"Training diverged: no epoch of stage {number} had a finite"
                    " validation loss. Choose a smaller --lr and another --train-dir"
                    f" than {train_dir}."
                )
            result = _score_stage(checkpoint, shards, stage_dir)
            print(f"Stage {number} (learning rate {stage.learning_rate:g}): {result}")
            for leftover in stage_dir.iterdir():  # a kill leaves unfinished files
                if leftover.name.startswith(("resume", "unfinished")):
                    leftover.unlink()

        best = best_checkpoint(*_stages_before(train_dir, len(recipe.stages)))
        with _replacing(train_dir / MODEL_NAME) as unfinished:
            shutil.copyfile(best, unfinished)
    return train_dir / MODEL_NAME


def best_checkpoint(*stage_dirs: Path) -> Path | None:
    """The checkpoint with the lowest validation loss (in its name); None if none."""
    found = [path for folder in stage_dirs for path in folder.glob("ckpt-e*-l*.keras")]
    return min(found, key=_checkpoint_loss, default=None)


def _checkpoint_name(epoch: int, loss: float) -> str:
    return f"ckpt-e{epoch:03d}-l{loss:.9g}.keras"  # nine digits tell float32 apart


def _checkpoint_loss(path: Path) -> float:
    return float(re.fullmatch(r"ckpt-e\d+-l(.+)\.keras", path.name)[1])


def _stages_before(train_dir: Path, number: int) -> list[Path]:
    return [train_dir / str(stage) for stage in range(number)]


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


def _run_stage(
    model: keras.Model,
    stage: Stage,
    shards: inputs.Shards,
    stage_dir: Path,
    steps: int,
    batch_size: int,
    order: dict,
) -> None:
    info = models.model_info(model)
    fed = models.fed_with(model, shards.dtype, shards.manifest.features)
    # Keras 2's `decay`, which the original used.
    rate = keras.optimizers.schedules.InverseTimeDecay(
        stage.learning_rate, decay_steps=1, decay_rate=stage.step_decay
    )
    fed.compile(_optimizer(stage, rate), loss="binary_crossentropy")
    progress = _StageProgress(model, stage, stage_dir)
    first_epoch = progress.restore(fed)
    before = best_checkpoint(*_stages_before(stage_dir.parent, int(stage_dir.name)))
    if not first_epoch and before:
        model.load_weights(before)
    if progress.is_over(first_epoch):
        return
    with inputs.naming_corrupt_records(shards):
        fed.fit(
            inputs.training_segments(
                shards,
                "train",
                info.window,
                batch_size,
                first_epoch=first_epoch,
                **order,
            ),
            steps_per_epoch=steps,
            shuffle=False,  # the dataset does
            initial_epoch=first_epoch,
            epochs=stage.max_epochs,
            validation_data=inputs.validation_segments(shards, info.window, batch_size),
            verbose=1 if sys.stdout.isatty() else 2,
            callbacks=[
                keras.callbacks.CSVLogger(
                    stage_dir / "training.csv", append=first_epoch > 0
                ),
                keras.callbacks.TensorBoard(stage_dir, write_graph=False),
                progress,  # last: an epoch is done when it is logged
            ],
        )


def _optimizer(stage: Stage, rate) -> keras.optimizers.Optimizer:
    kind = getattr(keras.optimizers, stage.optimizer)

    class Decayed(kind):
        def update_step(self, gradient, variable, learning_rate):
            decay = stage.weight_decay * ops.convert_to_tensor(variable)
            gradient = gradient + ops.cast(decay, gradient.dtype)
            return super().update_step(gradient, variable, learning_rate)

    return (Decayed if stage.weight_decay else kind)(rate, **stage.options)


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
        """Whether the stage ends before this epoch."""
        return (
            self._epochs_without_gain >= self._stage.patience
            or epoch >= self._stage.max_epochs
        )

    def on_epoch_end(self, epoch, logs=None):
        self._check_space()
        path = self._dir / _checkpoint_name(epoch, logs["val_loss"])
        best = best_checkpoint(self._dir)
        # An epoch that a kill made run twice gains when it made the checkpoint.
        gained = np.isfinite(logs["val_loss"]) and (
            best in (None, path) or _checkpoint_loss(path) < _checkpoint_loss(best)
        )
        if gained:
            with _replacing(path) as unfinished:
                self._saved_model.save(unfinished)
            self._unlink_others("ckpt-*.keras", path)
        self._epochs_without_gain = 0 if gained else self._epochs_without_gain + 1
        self._save_state(epoch)
        if self.is_over(epoch + 1):
            self.model.stop_training = True

    def _check_space(self) -> None:
        """Asks before writing: HDF5 crashes the program on a full disk."""
        variables = [*self.model.variables, *self.model.optimizer.variables]
        num_bytes = 2 * sum(4 * int(np.prod(v.shape)) for v in variables) + (1 << 20)
        if shutil.disk_usage(self._dir).free < num_bytes:
            reason = f"a checkpoint needs {num_bytes / 1e6:.0f} MB, the disk has less"
            raise OSError(errno.ENOSPC, reason)

    def _save_state(self, epoch: int) -> None:
        path = self._dir / f"resume-e{epoch:03d}.weights.h5"
        with _replacing(path) as unfinished:
            self.model.save_weights(unfinished)
        state = {
            "epoch": epoch,
            "weights": path.name,
            "epochs_without_gain": self._epochs_without_gain,
        }
        write_text_atomically(self._dir / "resume.json", json.dumps(state) + "\n")
        self._unlink_others("resume-e*.weights.h5", path)

    def _unlink_others(self, pattern: str, kept: Path) -> None:
        for path in self._dir.glob(pattern):
            if path != kept:
                path.unlink()


def _score_stage(checkpoint: Path, shards: inputs.Shards, stage_dir: Path) -> str:
    """Scores the best checkpoint on validation and test; the result ends the stage."""
    model = models.load_model(checkpoint)
    predict = evaluation.predictor(model, shards)
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
    """Writes run.json, or checks that the run the folder holds is this one."""
    path = train_dir / RUN_NAME
    if not path.exists():
        write_text_atomically(path, json.dumps(run, indent=1) + "\n")
        return
    run = json.loads(json.dumps(run))  # through JSON, as the earlier one went
    try:
        earlier = json.loads(path.read_text())
        parts = ("model", "recipe", "data", "seed")
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
