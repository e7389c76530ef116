"""The training recipes of the papers, as data.

`RECIPES[name]` is a `TrainingRecipe`: a sequence of stages, each with its optimiser,
learning rate and maximum number of epochs. `override` changes it, `trainer.train` runs
it. Our own recipes are `transfer` and `distillation`.
"""

import dataclasses
import math
from typing import Annotated, Literal

from msgspec import Meta

from tagger.text import TaggerError
from tagger.validation import check_fields

Monitor = Literal["val_loss", "val_roc_auc", "val_pr_auc", "val_rho"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
Strategy = Literal["none", "mirrored", "tpu", "multiworker"]  # see `devices.choose`
Whole = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
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
            a better monitored value; None: never early.
        freeze: What keeps its weights: none, frontend, backbone (all but the last
            layer), or the name of a layer (that one and all before it).
        backbone_rate: Factor of the learning rate for all weights but the last layer's.
        weight_decay: Factor λ; λ · w is added to the gradient of every weight w, before
            momentum and Adam's scaling: PyTorch's weight_decay, not Keras'.

    Raises:
        ValueError: a number is out of range.
    """

    optimizer: str
    options: dict = dataclasses.field(default_factory=dict)
    learning_rate: Positive
    step_decay: NotNegative = 0.0
    max_epochs: Whole
    patience: Whole | None = None
    weight_decay: NotNegative = 0.0
    freeze: str = "none"
    backbone_rate: NotNegative = 1.0

    def __post_init__(self):
        check_fields(self)
        momentum = self.options.get("momentum", 0.0)
        if not 0 <= momentum < 1:
            raise TaggerError(f"momentum must be from 0 to below 1, not {momentum}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How a model is trained; saved to `run.json`.

    Attributes:
        batch_size: Number of segments per batch.
        stages: Stages in order; each starts from the best checkpoint before it.
        crops_per_clip: Random crops of a clip per epoch; 0: every whole segment.
        monitor: Value that decides which epoch is the best.
        loss: Loss of the scores, a key of LOSSES in losses.py.
        augment: Augment the segments at random.
        transforms: Transforms that augment: polarity, noise, gain, filter, delay, pitch
            and reverb, of which the last two take most of the time; None: all.
        precision: Precision of the layers' arithmetic. Weights, scores and saved models
            are always float32.
        xla: Compile TensorFlow's graph with XLA; JAX always does.
        clip_norm: Maximum norm of the gradient of all weights; None: no limit.
        accumulation_steps: Number of batches whose gradients are accumulated for one
            step; None: one.

    Raises:
        ValueError: a number is out of range.
    """

    batch_size: Whole
    stages: Annotated[tuple[Stage, ...], Meta(min_length=1)]
    crops_per_clip: Annotated[int, Meta(ge=0)] = 0
    monitor: Monitor = "val_loss"
    loss: str = "bce"
    augment: bool = False
    precision: Precision = "float32"
    xla: bool = False
    clip_norm: Positive | None = None
    accumulation_steps: Whole | None = None
    transforms: tuple[str, ...] | None = None

    def __post_init__(self):
        check_fields(self)


_NESTEROV = {"momentum": 0.9, "nesterov": True}
# Adam, then SGD with a falling rate. Every stage starts from the best checkpoint before
# it, as the paper says (the code of 2019 does not).
_ADAM_2019 = Stage(optimizer="Adam", learning_rate=1e-4, max_epochs=60)
_ADAM_2020 = Stage(
    optimizer="Adam",
    learning_rate=1e-4,
    max_epochs=80,
    weight_decay=1e-4,
)
_SGD = Stage(
    optimizer="SGD",
    options=_NESTEROV,
    learning_rate=1e-3,
    max_epochs=20,
    weight_decay=1e-4,
)
_SLOWER_SGD = dataclasses.replace(_SGD, learning_rate=1e-4)
_HEAD = Stage(
    optimizer="Adam",
    learning_rate=1e-3,
    max_epochs=20,
    patience=5,
    freeze="backbone",
)

RECIPES = {
    # Kim, Lee and Nam, ICASSP 2018, section 3.2, and their code: train.py --block se.
    # A step of 23 segments of the 24.7 M weights takes about 9 s on 2 CPU cores.
    "resemul": TrainingRecipe(
        batch_size=23,
        stages=tuple(
            Stage(
                optimizer="SGD",
                options=_NESTEROV,
                learning_rate=0.01 * 0.2**stage,
                step_decay=1e-6,
                max_epochs=100,
                patience=2,
            )
            for stage in range(5)
        ),
    ),
    # Won, Chun and Serra 2019: train.py --architecture self_attention.
    "won2019": TrainingRecipe(
        batch_size=16,
        stages=(
            _ADAM_2019,
            _SGD,
            _SLOWER_SGD,
            dataclasses.replace(_SGD, learning_rate=1e-5, max_epochs=60),
        ),
        crops_per_clip=1,
        monitor="val_roc_auc",
    ),
    # Won et al., SMC 2020: train.py --architecture short_chunk_resnet.
    "won2020": TrainingRecipe(
        batch_size=16,
        stages=(
            _ADAM_2020,
            _SGD,
            _SLOWER_SGD,
            dataclasses.replace(_SGD, learning_rate=1e-5, max_epochs=80),
        ),
        crops_per_clip=1,
        monitor="val_roc_auc",
    ),
    # Dabral and Deshmukh: train.py --architecture multi_scale_cnn.
    "multi_scale": TrainingRecipe(
        batch_size=20,
        stages=(dataclasses.replace(_ADAM_2020, max_epochs=100),),
        monitor="val_roc_auc",
    ),
    # Won, Choi and Serra, ISMIR 2021, without its noisy student: train.py
    # --architecture music_tagging_transformer.
    "transformer": TrainingRecipe(
        batch_size=32,
        stages=(dataclasses.replace(_ADAM_2019, max_epochs=200, patience=40),),
        crops_per_clip=1,
    ),
    # Ours, of fine-tuning: train.py --from musicnn_mtt. A random head would send random
    # gradients into the backbone; so it is trained alone first, on a frozen backbone
    # (Kumar et al., ICLR 2022, https://arxiv.org/abs/2202.10054).
    "transfer": TrainingRecipe(
        batch_size=16,
        stages=(
            _HEAD,
            dataclasses.replace(
                _HEAD, learning_rate=1e-4, freeze="none", backbone_rate=0.1
            ),
        ),
        crops_per_clip=1,
        monitor="val_roc_auc",
    ),
    # Ours, for a student that learns only a teacher's scores: train.py --teacher
    # teacher.keras. Its loss depends mostly on the few tags with high scores: in our
    # first run it was lowest while the correlation with the teacher still rose.
    "distillation": TrainingRecipe(
        batch_size=64,
        stages=tuple(
            Stage(
                optimizer="Adam",
                learning_rate=1e-3 * 0.3**stage,
                max_epochs=20,
                patience=3,
            )
            for stage in range(4)
        ),
        monitor="val_rho",
    ),
}


def settings(recipe: TrainingRecipe) -> dict:
    """Returns what `override` can change in a recipe, with the values it has.

    Those of stages are the first stage's. `lr_decay` and `num_stages` are those of
    recipes whose stages differ only in the learning rate, `momentum` that of SGD.
    """
    first, *others = recipe.stages
    found = {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(recipe)
        if field.name != "stages"
    }
    names = ("learning_rate", "max_epochs", "patience", "freeze", "backbone_rate")
    found |= {name: getattr(first, name) for name in names}
    momenta = [s.options["momentum"] for s in recipe.stages if "momentum" in s.options]
    if momenta:
        found["momentum"] = momenta[0]
    rates = [stage.learning_rate for stage in recipe.stages]
    decay = rates[1] / rates[0] if others else 1.0
    if all(
        dataclasses.replace(stage, learning_rate=rates[0]) == first
        and math.isclose(stage.learning_rate, rates[0] * decay**number)
        for number, stage in enumerate(recipe.stages)
    ):
        found |= {"num_stages": len(rates), "lr_decay": decay}
    return found


def override(
    recipe: TrainingRecipe,
    *,
    momentum: float | None = None,
    lr_decay: float | None = None,
    num_stages: Whole | None = None,
    **changes,
) -> TrainingRecipe:
    """Returns a recipe with other settings.

    Args:
        recipe: Recipe to change.
        momentum: Nesterov momentum of SGD.
        lr_decay: Factor of the learning rate from stage to stage.
        num_stages: Number of stages.
        **changes: Values for keys of `settings`. The learning rate and the maximum
            number of epochs are those of the first stage; those of the others keep
            their proportion to it. With `freeze`, stages that train only the head are
            kept; with "backbone" they are all that is kept.

    Raises:
        ValueError: the recipe has no such setting, or a value is out of range.
    """
    further = {"momentum": momentum, "lr_decay": lr_decay, "num_stages": num_stages}
    changes |= {name: value for name, value in further.items() if value is not None}
    known = settings(recipe)
    for name in changes:
        if name not in known:
            raise TaggerError(f"This recipe has no {name}. It has: {', '.join(known)}.")
    fields = {field.name for field in dataclasses.fields(recipe)}
    whole = {name: value for name, value in changes.items() if name in fields}
    stages, first = recipe.stages, recipe.stages[0]
    if not {"num_stages", "lr_decay"}.isdisjoint(changes):
        row = known | changes
        rates = [
            first.learning_rate * row["lr_decay"] ** number
            for number in range(row["num_stages"])
        ]
        stages = tuple(dataclasses.replace(first, learning_rate=rate) for rate in rates)
    heads = tuple(stage for stage in stages if stage.freeze == "backbone")
    if changes.get("freeze") == "backbone" and heads:
        stages = heads
    elif "freeze" in changes and len(heads) == len(stages):
        raise TaggerError("Every stage of this recipe trains only the head already.")
    stages = tuple(_changed(stage, first, changes) for stage in stages)
    return dataclasses.replace(recipe, stages=stages, **whole)


def _changed(stage: Stage, first: Stage, changes: dict) -> Stage:
    """Returns a copy of a stage with changed settings, see `override`."""
    fields = {}
    if "learning_rate" in changes:
        rate = stage.learning_rate / first.learning_rate * changes["learning_rate"]
        fields["learning_rate"] = rate
    if "max_epochs" in changes:
        share = stage.max_epochs / first.max_epochs
        fields["max_epochs"] = max(1, round(share * changes["max_epochs"]))
    if "patience" in changes:
        fields["patience"] = changes["patience"]
    if "momentum" in changes and "momentum" in stage.options:
        fields["options"] = stage.options | {"momentum": changes["momentum"]}
    if "backbone_rate" in changes:
        fields["backbone_rate"] = changes["backbone_rate"]
    if "freeze" in changes and stage.freeze != "backbone":
        fields["freeze"] = changes["freeze"]
    return dataclasses.replace(stage, **fields)
