"""The optimiser of a stage, and the precision in which layers compute."""

import contextlib
from collections.abc import Iterator, Sequence

import keras
from keras import ops

from tagger.training.recipes import Stage, TrainingRecipe


def make_optimizer(
    stage: Stage, recipe: TrainingRecipe, head: Sequence[keras.Variable] = ()
) -> keras.optimizers.Optimizer:
    """Returns the optimiser of a stage, with loss scaling if the precision needs it.

    Weight decay is PyTorch's, see `Stage`.

    Args:
        stage: Stage that sets the optimiser.
        recipe: Recipe of the stage.
        head: Variables that are not the backbone's, see `Stage.backbone_rate`.
    """
    kind = getattr(keras.optimizers, stage.optimizer)

    class Decayed(kind):
        def update_step(self, gradient, variable, learning_rate):
            if stage.weight_decay:
                decay = stage.weight_decay * ops.convert_to_tensor(variable)
                gradient = gradient + ops.cast(decay, gradient.dtype)
            # Keras' own key, as for `exclude_from_weight_decay`: the variable may be a
            # backend's.
            if self._var_key(variable) not in map(self._var_key, head):
                learning_rate = learning_rate * stage.backbone_rate
            return super().update_step(gradient, variable, learning_rate)

    kind = Decayed if stage.weight_decay or stage.backbone_rate != 1 else kind
    num_accumulated = recipe.accumulation_steps or 1
    optimizer = kind(
        # The same as Keras 2's `decay`, which the original resemul used.
        keras.optimizers.schedules.InverseTimeDecay(
            stage.learning_rate, decay_steps=1, decay_rate=stage.step_decay
        ),
        **stage.options,
        global_clipnorm=recipe.clip_norm,
        # Keras accepts None, but not 1, for one batch per step.
        gradient_accumulation_steps=num_accumulated if num_accumulated > 1 else None,
    )
    if recipe.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Returns a context in which new layers compute in a dtype policy.

    Weights stay float32.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
