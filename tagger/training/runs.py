"""The files of a training run.

    log
    ├── run.json          recipe, model, data, versions and seed of the run
    ├── 0 … 4             one folder per stage
    │   ├── ckpt-e007-val_loss=0.143210.keras   best epoch of the stage
    │   ├── resume.npz                  state from which an interrupted stage resumes
    │   ├── training.csv                losses and validation scores per epoch
    │   ├── train, validation           the same for TensorBoard, and ROC-AUC per tag
    │   └── result.json                 validation and test scores of a finished stage
    └── model.keras       best checkpoint of all stages, with a threshold per tag

Every file is written under a temporary name and then renamed, so the files above are
complete even if the run is killed.
"""

import csv
import dataclasses
import errno
import io
import json
import math
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np

from tagger import validation
from tagger.storage import replacing, write_text_atomically
from tagger.text import TaggerError
from tagger.training.recipes import Stage, TrainingRecipe
from tagger.validation import Count

_CHECKPOINT_NAME = re.compile(
    r"ckpt-e\d+-(\w+)=(nan|-?(?:inf|\d+(?:\.\d*)?(?:e[-+]?\d+)?))\.keras", re.ASCII
)
_RESEMUL_NAME = re.compile(r"ckpt-e\d+-l(\d+\.\d+)\.hdf5", re.ASCII)


class RunFolder:
    """The folder of a run.

    Args:
        path: Path of the folder, which need not exist yet.
        shown: Path to show to the user, if that is another, see `Devices.folder`.
    """

    def __init__(self, path: str | os.PathLike, shown: Path | None = None):
        self.path = Path(path)
        self.shown = shown or self.path
        self.model_path = self.path / "model.keras"
        self.description_path = self.path / "run.json"

    def stage(self, number: int) -> "StageFolder":
        """Returns the folder of a stage."""
        return StageFolder(self.path / str(number))

    def best_checkpoint(self, end: int) -> Path | None:
        """Returns the best checkpoint of the stages before `end`, or None."""
        stages = [self.stage(number) for number in range(end)]
        found = [path for stage in stages for path in stage.checkpoints()]
        return min(found, key=badness, default=None)

    def describe(self, description: dict) -> None:
        """Writes run.json, or checks that an existing one describes the same run.

        Raises:
            ValueError: the folder holds another run, or this project did not write
                its run.json.
        """
        path = self.description_path
        if not path.exists():
            self._refuse_resemul()
            write_text_atomically(path, json.dumps(description, indent=1) + "\n")
            return
        held = read_description(path, "Choose another `train_dir=`.")
        asked = json.loads(json.dumps(description))  # tuples become lists
        differing = [
            name
            for name in dict.fromkeys((*asked, *held))
            if name not in _MAY_DIFFER and not _is_same(held.get(name), asked.get(name))
        ]
        if differing:
            name = _TITLES.get(differing[0], differing[0].replace("_", " "))
            raise TaggerError(
                f"{self.shown} holds a run with another {name} (see run.json there)."
                " Choose another `train_dir=`, or delete that folder."
            )

    def _refuse_resemul(self) -> None:
        """Refuses a folder of the original resemul, whose best checkpoint may serve."""
        losses = {
            float(found[1]): path
            for path in self.path.glob("*/ckpt-*.hdf5")
            if (found := _RESEMUL_NAME.fullmatch(path.name))
        }
        if losses:
            raise TaggerError(
                f"{self.path} holds a run of the original resemul, which cannot be"
                " continued here. Start a new run from its best checkpoint, the same"
                f" command with `from={shlex.quote(str(losses[min(losses)]))}`"
                " `recipe=resemul` `train_dir=DIR`."
            )


_MAY_DIFFER = ("arguments", "versions", "git")
_TITLES = {"from": "base model", "unlabelled": "unlabelled music"}


def read_description(path: Path, then: str) -> dict:
    """Reads a run.json; what later versions added has its default.

    Args:
        path: Path of the file.
        then: What to do if it is no run.json: the last sentence of the error message.

    Raises:
        ValueError: this project did not write the file.
    """
    try:
        validation.check_regular(path)
        held = json.loads(path.read_text(encoding="utf-8"))
        missing = {"model", "recipe", "data", "seed"} - held.keys()
        if missing:
            raise TaggerError(f"it lacks {', '.join(sorted(missing))}")
        recipe = _with_defaults(TrainingRecipe, held["recipe"])
        recipe["stages"] = [_with_defaults(Stage, one) for one in recipe["stages"]]
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise TaggerError(
            f"{path} does not describe a run of this project ({error}). {then}"
        ) from error
    return held | {"recipe": recipe}


def _with_defaults(kind: type, values: dict) -> dict:
    """Returns the fields of a dataclass; those that are missing have defaults."""
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    unknown = values.keys() - fields
    if unknown:
        raise TaggerError(f"a newer version wrote {', '.join(sorted(unknown))}")
    usual = {n: v for n, v in fields.items() if v is not dataclasses.MISSING}
    return usual | values


def _is_same(held: object, asked: object) -> bool:
    """Returns whether two parts of run.json describe the same run.

    Numbers may differ by rounding, and patience beyond the last epoch does not count.
    """
    if isinstance(held, dict) and isinstance(asked, dict):
        names = held.keys() | asked.keys()
        if "max_epochs" in names:  # more patience than epochs is none
            held, asked = map(_with_patience, (held, asked))
        return all(_is_same(held.get(name), asked.get(name)) for name in names)
    if isinstance(held, list) and isinstance(asked, list):
        return len(held) == len(asked) and all(map(_is_same, held, asked))
    if isinstance(held, float) and isinstance(asked, float):
        return math.isclose(held, asked, rel_tol=1e-9)
    return held == asked


def _with_patience(stage: dict) -> dict:
    patience = stage["patience"] or stage["max_epochs"]
    return stage | {"patience": min(patience, stage["max_epochs"])}


class StageFolder:
    """The folder of one stage.

    Args:
        path: Path of the folder, from `RunFolder.stage`.
    """

    def __init__(self, path: Path):
        self.path = path
        self.state_path = path / "resume.npz"
        self.result_path = path / "result.json"

    @property
    def is_finished(self) -> bool:
        """Whether the stage has been scored."""
        return self.result_path.exists()

    def checkpoints(self) -> list[Path]:
        """Returns the checkpoints of the stage; other files are left alone."""
        paths = self.path.glob("ckpt-e*=*.keras")
        return [path for path in paths if _CHECKPOINT_NAME.fullmatch(path.name)]

    def checkpoint_path(self, epoch: int, monitor: str, value: float) -> Path:
        """Returns the path of a checkpoint; its name holds the monitored value."""
        # Nine digits distinguish all float32 values.
        return self.path / f"ckpt-e{epoch:03d}-{monitor}={value:.9g}.keras"

    def keep_only(self, checkpoint: Path) -> None:
        """Deletes all checkpoints except one."""
        for other in self.checkpoints():
            if other != checkpoint:
                other.unlink()

    def write_history(self, history: list[dict]) -> None:
        """Writes training.csv, one row per epoch."""
        text = io.StringIO()
        rows = csv.DictWriter(text, history[0], lineterminator="\n")
        rows.writeheader()
        rows.writerows(history)
        write_text_atomically(self.path / "training.csv", text.getvalue())

    def write_result(self, result: dict) -> None:
        """Writes result.json, which marks the stage as finished."""
        write_text_atomically(self.result_path, json.dumps(result, indent=1) + "\n")

    def tidy(self) -> None:
        """Deletes files that a finished stage no longer needs or a killed run left."""
        for pattern in ("resume*", "unfinished*", ".*-resume.npz", ".*-ckpt-*.keras"):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def check_space(self, num_bytes: int) -> None:
        """Checks that a checkpoint fits on the disk, since HDF5 crashes on a full one.

        Raises:
            OSError: the checkpoint does not fit.
        """
        num_bytes = 2 * num_bytes + (1 << 20)
        if shutil.disk_usage(self.path).free < num_bytes:
            reason = f"a checkpoint needs {num_bytes / 1e6:.0f} MB, but less is free"
            raise OSError(errno.ENOSPC, reason)


def badness(checkpoint: Path) -> float:
    """Returns the monitored value in a checkpoint's name, negated if maximised."""
    monitor, value = _CHECKPOINT_NAME.fullmatch(checkpoint.name).groups()
    return float(value) if monitor == "val_loss" else -float(value)


_REMEDY = "Delete it: the stage then starts again from its first epoch."
ORDER = 2  # of the batches; states without `order` count them in another one


@dataclasses.dataclass
class StageState:
    """The progress of a stage; with the variables, all that is needed to resume it.

    Attributes:
        epoch: Next epoch to train.
        step: Next step of that epoch.
        epochs_without_gain: Number of epochs since the best one.
        history: Losses and scores of each finished epoch.
        order: Which order of the batches the steps count.
    """

    epoch: Count = 0
    step: Count = 0
    epochs_without_gain: Count = 0
    history: list[dict[str, int | float | None]] = dataclasses.field(
        default_factory=list
    )
    order: Count = 1

    def save(self, path: Path, variables: dict[str, np.ndarray]) -> None:
        """Writes the state and the variables as named arrays."""
        state = dataclasses.asdict(self) | {"order": ORDER}
        named = {f"variable {name}": array for name, array in variables.items()}
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, state=json.dumps(state), **named)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def load(
        cls, path: Path, like: dict[str, np.ndarray]
    ) -> "tuple[StageState, dict[str, np.ndarray]]":
        """Reads a state that `save` wrote.

        Args:
            path: Path of the file.
            like: Array of the expected shape for each variable, by name.

        Returns:
            The state, and the arrays of the variables in the order of `like`.

        Raises:
            ValueError: the file is not a saved state, or holds other variables.
        """
        max_bytes = 2 * sum(array.nbytes for array in like.values()) + (1 << 24)
        try:
            held = validation.read_arrays(path, max_bytes)
            text = str(held["state"])
            arrays = {name: held[f"variable {name}"] for name in like}
            for name, array in arrays.items():
                if array.shape != like[name].shape or array.dtype.kind not in "fiub":
                    raise TaggerError(f"{name} has the shape {array.shape}")
        except (ValueError, KeyError, OSError) as error:
            raise TaggerError(
                f"{path} is not a state from which this stage can resume ({error})."
                f" {_REMEDY}"
            ) from error
        state = validation.parse(text, cls, path, _REMEDY)
        if state.order != ORDER:
            raise TaggerError(
                f"{path} counts batches in the order of an earlier version, which can"
                f" finish the run. {_REMEDY}"
            )
        return state, arrays

    def check(self, steps_per_epoch: int, path: Path) -> None:
        """Checks that the state lies within an epoch.

        Args:
            steps_per_epoch: Number of steps of an epoch.
            path: File that the state comes from.

        Raises:
            ValueError: the state has more steps.
        """
        if self.step > steps_per_epoch:
            raise TaggerError(
                f"{path} ends at step {self.step:,} of an epoch of"
                f" {steps_per_epoch:,} steps. {_REMEDY}"
            )
