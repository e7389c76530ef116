"""Fine-tuning: training that starts from the weights of another model.

    model file ─▶ `Base.build` ─▶ the same network, with a head for the data's tags

What is frozen keeps its weights. That includes the statistics of its batch
normalisation: Keras runs a frozen layer in inference mode, so a few clips do not
replace the means and variances of the music that the base model knows.
"""

import dataclasses
import os
from collections.abc import Sequence

import keras

import tagger
from tagger import models
from tagger.models.head import Head
from tagger.text import TaggerError, suggest_names
from tagger.weights import pretrained

FREEZES = ("none", "frontend", "backbone")  # or the name of a layer


@dataclasses.dataclass(frozen=True)
class Base:
    """The model that training starts from.

    Attributes:
        source: Model file, or name of a pretrained model.
    """

    source: str | os.PathLike

    def build(self, tags: Sequence[str] | None, num_tags: int) -> keras.Model:
        """Returns the base network with a head for other tags.

        Tags that the base model knows keep their column of the head; the others start
        from random weights.

        Args:
            tags: Names of the tags to learn; None: unknown.
            num_tags: Number of the tags.

        Returns:
            Model from waveforms of a fixed length to scores, in the precision that
            Keras is set to.

        Raises:
            FileNotFoundError, ValueError, OSError, ImportError: see `pretrained.load`.
        """
        model = pretrained.load(self.source)
        models.check_no_average(model)
        info = models.model_info(model)
        model = models.with_length(model, info.segmentation.num_samples)
        network = models.embedding_network(model)
        head = model.layers[-1]
        kernel, bias = head.get_weights()
        shape = (len(kernel), num_tags)
        new_kernel = keras.ops.convert_to_numpy(
            keras.initializers.GlorotUniform()(shape)
        ).copy()
        new_bias = 0 * new_kernel[0]
        for column, held in self._shared(head.tags, tags):
            new_kernel[:, column], new_bias[column] = kernel[:, held], bias[held]
        about = pretrained.provenance_of([self.source], [info])
        described = dataclasses.replace(
            info,
            name=info.architecture,
            num_tags=num_tags,
            tags=None if tags is None else tuple(tags),
            thresholds=None,
            provenance={"made by": f"train.py {tagger.__version__}"} | about,
        )
        return models.with_head([network], Head(new_kernel, new_bias), described)

    def _shared(self, held: Sequence[str] | None, tags: Sequence[str] | None):
        """Yields the positions of each tag that both name: new, held."""
        for column, tag in enumerate(tags or ()):
            if tag in (held or ()):
                yield column, held.index(tag)

    def describe(self) -> dict:
        """Returns the part of run.json that must be the same to resume."""
        return {"from": pretrained.described(self.source)}


def frozen_layers(model: keras.Model, freeze: str) -> list[keras.Layer]:
    """Returns the layers that keep their weights.

    Args:
        model: Model to be trained.
        freeze: "none"; "frontend": the spectrogram and the normalisation of its input;
            "backbone": everything but the last layer; or the name of a layer: that
            layer and all before it.

    Raises:
        ValueError: there is no such layer, or nothing is left to train.
    """
    names = [layer.name for layer in model.layers]
    if freeze == "none":
        return []
    if freeze == "backbone":
        return model.layers[:-1]
    last = freeze
    if freeze == "frontend":
        if "frontend" not in names:
            raise TaggerError(
                f"Model {model.name} reads the waveform itself: it has no frontend to"
                " freeze. Choose `freeze=none` or backbone, or name a layer."
            )
        last = "input_norm" if "input_norm" in names else "frontend"
    if last not in names:
        raise TaggerError(
            f"Model {model.name} has no layer {last!r} to freeze."
            f" {suggest_names(last, [*FREEZES, *names])}"
        )
    frozen = model.layers[: names.index(last) + 1]
    if len(frozen) == len(names):
        raise TaggerError(
            f"`freeze={freeze}` leaves nothing to train: it is the last layer. Use"
            " `freeze=backbone` to train only that one."
        )
    return frozen


def freeze(model: keras.Model, what: str) -> None:
    """Freezes the layers that `frozen_layers` returns; the model is compiled later."""
    for layer in frozen_layers(model, what):
        layer.trainable = False
