"""The training recipes of the papers.

`RECIPES[name](**options)` returns a `TrainingRecipe`: a sequence of stages, each with
its optimiser, learning rate and maximum number of epochs. `trainer.train` runs it.
"""

import dataclasses
import math

MAXIMIZED = ("val_roc_auc", "val_pr_auc", "val_rho")
MONITORS = ("val_loss", *MAXIMIZED)
STRATEGIES = ("none", "mirrored", "tpu", "multiworker")  # see `distribution.choose`
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of training with one optimiser.

    Attributes:
        optimizer: Name of a class in `keras.optimizers`: "SGD", "Adam" …
        options: Other arguments of that class: momentum, nesterov …
        learning_rate: Learning rate at the first step of the stage.
        step_decay: Decay of the learning rate, which falls as
            1 / (1 + step_decay · step).
        max_epochs: Maximum number of epochs.
        patience: Early-stopping patience: the stage ends after this many epochs without
            a better monitored value.
        freeze: What keeps its weights, see `fine_tuning.frozen_layers`.
        backbone_rate: Factor of the learning rate for all weights but the last layer's.
        weight_decay: Factor λ; λ · w is added to the gradient of every weight w, before
            momentum and Adam's scaling: PyTorch's weight_decay, not Keras'.

    Raises:
        ValueError: a number is out of range.
    """

    optimizer: str
    options: dict
    learning_rate: float
    step_decay: float
    max_epochs: int
    patience: int
    weight_decay: float = 0.0
    freeze: str = "none"
    backbone_rate: float = 1.0

    def __post_init__(self):
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"The learning rate must be above 0, not {self.learning_rate}."
            )
        for name, value in (
            ("learning rate's decay", self.step_decay),
            ("weight decay", self.weight_decay),
            ("backbone's factor of the learning rate", self.backbone_rate),
        ):
            if not 0 <= value < math.inf:
                raise ValueError(f"The {name} must be at least 0, not {value}.")
        momentum = self.options.get("momentum", 0.0)
        if not 0 <= momentum < 1:
            raise ValueError(f"The momentum must be from 0 to below 1, not {momentum}.")


@dataclasses.dataclass(frozen=True)
class TrainingRecipe:
    """How a model is trained; saved to `run.json`.

    Attributes:
        batch_size: Number of segments per batch.
        stages: Stages in order; each starts from the best checkpoint before it.
        crops_per_clip: Random crops of a clip per epoch, see
            `batches.Batches`; 0: every whole segment.
        monitor: Value that decides which epoch is the best: one of MONITORS.
        augment: Whether `augmentations.Augmentation` augments the segments.
        transforms: Transforms to use, keys of `augmentations.TRANSFORMS`; None: all.
        precision: Precision of the layers' arithmetic: one of PRECISIONS. Weights,
            scores and saved models are always float32.
        xla: Whether to compile TensorFlow's graph with XLA; JAX always does.
        clip_norm: Maximum norm of the gradient of all weights; None: no limit.
        accumulation_steps: Number of batches whose gradients are accumulated for one
            step; None: one.

    Raises:
        ValueError: a number is out of range.
    """

    batch_size: int
    stages: tuple[Stage, ...]
    crops_per_clip: int = 0
    monitor: str = "val_loss"
    augment: bool = False
    precision: str = "float32"
    xla: bool = False
    clip_norm: float | None = None
    accumulation_steps: int | None = None
    transforms: tuple[str, ...] | None = None

    def __post_init__(self):
        for kind, value, choices in (
            ("monitor", self.monitor, MONITORS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in choices:
                raise ValueError(
                    f"Unknown {kind} {value!r}. Choose one of: {', '.join(choices)}."
                )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"--clip-norm must be above 0, not {self.clip_norm}.")
        counts = [
            ("batch size", self.batch_size),
            ("number of stages", len(self.stages)),
            ("number of accumulation steps", self.accumulation_steps or 1),
            *(("patience", stage.patience) for stage in self.stages),
            *(("maximum number of epochs", stage.max_epochs) for stage in self.stages),
        ]
        for name, count in counts:
            if count < 1:
                raise ValueError(f"The {name} must be at least 1, not {count}.")
        if self.crops_per_clip < 0:
            raise ValueError(
                "--crops-per-clip must be at least 0 (every whole segment), not"
                f" {self.crops_per_clip}."
            )

    def describe(self) -> dict:
        """Returns the recipe for run.json.

        Fields that came later appear only if they are used, so that runs from before
        are recognised.
        """
        described = dataclasses.asdict(self)
        if self.transforms is None:
            del described["transforms"]
        for stage in described["stages"]:
            for name, usual in (("freeze", "none"), ("backbone_rate", 1.0)):
                if stage[name] == usual:
                    del stage[name]
        return described


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

    Command: `python train.py --block se` (or rese). The model has 24.7 M parameters. A
    step of 23 segments takes about 9 s on 2 CPU cores, so MTT's 152,500 segments need a
    GPU. Published test ROC-AUC on MTT: .9111 (se), .9113 (rese).

    Args:
        learning_rate: Learning rate of the first stage.
        lr_decay: Factor of the learning rate from one stage to the next.
        num_stages: Number of stages.
        patience: Early-stopping patience in epochs, per stage.
        batch_size: Number of segments per batch.
        momentum: Nesterov momentum of SGD.
        max_epochs: Maximum number of epochs per stage.
        crops_per_clip: Random crops of a clip per epoch; 0: every whole segment, as
            published.
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
    """The recipe of Won, Chun and Serra 2019: Adam, then SGD with a falling rate.

    Every stage starts from the best checkpoint before it, as the paper says (its code
    does not). The best epoch has the highest validation ROC-AUC. Command: `python
    train.py --model self_attention`.

    Args:
        learning_rate: Learning rate of Adam.
        batch_size: Number of segments per batch.
        max_epochs: Maximum number of epochs of Adam; the stages of SGD last at most 20,
            20 and 60.
        patience: Early-stopping patience in epochs, per stage; None disables it.
        crops_per_clip: Random crops of a clip per epoch, as published; 0: every whole
            segment.
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
    """The recipe of Won et al. (SMC 2020): Adam, then SGD with a falling rate.

    It takes 200 epochs; the best one has the highest validation ROC-AUC. Command:
    `python train.py --model short_chunk_resnet`. `models.MODELS` holds the published
    test scores on MTT.

    Args:
        learning_rate: Learning rate of Adam.
        batch_size: Number of segments per batch.
        max_epochs: Maximum number of epochs of Adam; the stages of SGD last at most 20,
            20 and 80.
        patience: Early-stopping patience in epochs, per stage; None disables it.
        crops_per_clip: Random crops of a clip per epoch, as published; 0: every whole
            segment.
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
        monitor="val_roc_auc",
    )


def multi_scale(
    learning_rate: float = 1e-4,
    batch_size: int = 20,
    max_epochs: int = 100,
    patience: int | None = None,
    crops_per_clip: int = 0,
) -> TrainingRecipe:
    """The recipe of Dabral and Deshmukh: 100 epochs of Adam with weight decay.

    The best epoch has the highest validation ROC-AUC. Command: `python train.py --model
    multi_scale_cnn`. Published test ROC-AUC on a random split of MTT: .9094.

    Args:
        learning_rate: Learning rate of Adam.
        batch_size: Number of segments per batch.
        max_epochs: Maximum number of epochs.
        patience: Early-stopping patience in epochs; None disables it.
        crops_per_clip: Random crops of a clip per epoch; 0: every whole segment, as
            published.
    """
    patience = patience or max_epochs
    stage = Stage("Adam", {}, learning_rate, 0.0, max_epochs, patience, 1e-4)
    return TrainingRecipe(batch_size, (stage,), crops_per_clip, monitor="val_roc_auc")


def transformer(
    learning_rate: float = 1e-4,
    batch_size: int = 32,
    max_epochs: int = 200,
    patience: int = 40,
    crops_per_clip: int = 1,
) -> TrainingRecipe:
    """The recipe of Won, Choi and Serra (ISMIR 2021) without its noisy student.

    Command: `python train.py --model music_tagging_transformer`.

    Args:
        learning_rate: Learning rate of Adam.
        batch_size: Number of segments per batch.
        max_epochs: Maximum number of epochs.
        patience: Early-stopping patience in epochs.
        crops_per_clip: Random crops of a clip per epoch, as published; 0: every whole
            segment.
    """
    stage = Stage("Adam", {}, learning_rate, 0.0, max_epochs, patience)
    return TrainingRecipe(batch_size, (stage,), crops_per_clip)


def transfer(
    learning_rate: float = 1e-3,
    batch_size: int = 16,
    max_epochs: int = 20,
    patience: int = 5,
    crops_per_clip: int = 1,
) -> TrainingRecipe:
    """Fine-tuning of a trained model: first a new head, then everything, slowly.

    Command: `python train.py --from musicnn_mtt`. A random head would send random
    gradients into the backbone; so it is trained alone first, on a frozen backbone
    (Kumar et al., ICLR 2022, https://arxiv.org/abs/2202.10054). The best epoch has the
    highest validation ROC-AUC.

    Args:
        learning_rate: Learning rate of Adam for the head alone; a tenth of it
            afterwards.
        batch_size: Number of segments per batch.
        max_epochs: Maximum number of epochs per stage.
        patience: Early-stopping patience in epochs, per stage.
        crops_per_clip: Random crops of a clip per epoch; 0: every whole segment.
    """
    head = Stage(
        optimizer="Adam",
        options={},
        learning_rate=learning_rate,
        step_decay=0.0,
        max_epochs=max_epochs,
        patience=patience,
        freeze="backbone",
    )
    everything = dataclasses.replace(
        head, learning_rate=learning_rate / 10, freeze="none", backbone_rate=0.1
    )
    return TrainingRecipe(
        batch_size, (head, everything), crops_per_clip, monitor="val_roc_auc"
    )


def distillation(
    learning_rate: float = 1e-3,
    lr_decay: float = 0.3,
    num_stages: int = 4,
    batch_size: int = 64,
    max_epochs: int = 20,
    patience: int = 3,
) -> TrainingRecipe:
    """Our recipe for a student that learns only a teacher's scores: Adam in stages.

    Command: `python train.py --teacher teacher.keras --recipe distillation`. The best
    epoch has the highest rank correlation with the teacher on the val split. (Its loss
    depends mostly on the few tags with high scores: in our first run it was lowest
    while the correlation still rose.) The student of this package took 7 + 7 + 1
    epochs of 33.5 hours of music, five minutes each on 2 CPU cores; docs/student.md has
    its results.

    Args:
        learning_rate: Learning rate of the first stage.
        lr_decay: Factor of the learning rate from one stage to the next.
        num_stages: Number of stages.
        batch_size: Number of segments per batch.
        max_epochs: Maximum number of epochs per stage.
        patience: Early-stopping patience in epochs, per stage.
    """
    stages = [
        Stage(
            optimizer="Adam",
            options={},
            learning_rate=learning_rate * lr_decay**number,
            step_decay=0.0,
            max_epochs=max_epochs,
            patience=patience,
        )
        for number in range(num_stages)
    ]
    return TrainingRecipe(batch_size, tuple(stages), monitor="val_rho")


def fine_tuned(
    recipe: TrainingRecipe, freeze: str | None, backbone_rate: float | None
) -> TrainingRecipe:
    """Returns a recipe for training that starts from another model.

    Args:
        recipe: Recipe to change.
        freeze: What keeps its weights in every stage; None: as the recipe says. Stages
            that train only the head are kept; with "backbone", the others are dropped
            unless there are no such stages.
        backbone_rate: See `Stage`; None: as the recipe says.
    """
    stages = []
    for stage in recipe.stages:
        if backbone_rate is not None:
            stage = dataclasses.replace(stage, backbone_rate=backbone_rate)
        if freeze is not None and stage.freeze != "backbone":
            stage = dataclasses.replace(stage, freeze=freeze)
        stages.append(stage)
    head_stages = [s for s in recipe.stages if s.freeze == "backbone"]
    if freeze == "backbone" and head_stages:
        stages = head_stages
    return dataclasses.replace(recipe, stages=tuple(stages))


RECIPES = {
    "resemul": resemul,
    "won2019": won2019,
    "won2020": won2020,
    "multi_scale": multi_scale,
    "transformer": transformer,
    "transfer": transfer,
    "distillation": distillation,
}
