"""The interface of MTEB, whose audio tasks (MAEB) compare embeddings of sounds.

    mteb.evaluate(Encoder("musicnn_mtt"), mteb.get_tasks(tasks=["GTZANGenre"]))

MTEB (`pip install mteb`) downloads the data of its tasks.

Reference: https://github.com/embeddings-benchmark/mteb
"""

from collections.abc import Iterator

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder

from tagger.inference.embeddings import Embedder
from tagger.models.metadata import DEFAULT_MODEL
from tagger.text import TaggerError
from tagger.weights import pretrained


class Encoder(AbsEncoder):
    """A model as MTEB evaluates it: one embedding per sound, its segments' mean.

    Args:
        model_name: Name of a pretrained model, model file, or `hf://USER/NAME`.
        revision: Not used; MTEB passes it.
        device: Not used.
        **kwargs: Not used.

    Attributes:
        embedder: The `Embedder` that computes the embeddings.
        mteb_model_meta: What MTEB stores of the model beside its results.
    """

    def __init__(
        self,
        model_name: str = DEFAULT_MODEL,
        revision: str | None = None,
        *,
        device: str | None = None,
        **kwargs,
    ):
        self.embedder = Embedder(model_name)
        about = {
            "name": f"tagger/{self.embedder.info.name}",
            "revision": pretrained.digest(model_name),
            "embed_dim": self.embedder.opened.embedding_size,
            "modalities": ["audio"],
            "similarity_fn_name": "cosine",
        }
        self.mteb_model_meta = ModelMeta.create_empty(overwrites=about)

    def encode(self, inputs, **about) -> np.ndarray:
        """Returns the embeddings of sounds, float32 [num_sounds, channels].

        Args:
            inputs: Batches with the key "audio": a list of {"array": [num_samples], or
                [num_channels, num_samples], at ±1, "sampling_rate": Hz}.
            **about: What MTEB says of the task; not used.

        Raises:
            ValueError: a batch holds no audio.
        """
        found = [one.get() for one in self.embedder.embed_files(_sounds(inputs))]
        return np.stack(found)


def _sounds(inputs) -> Iterator[tuple[np.ndarray, int]]:
    for batch in inputs:
        if "audio" not in batch:
            raise TaggerError(
                f"tagger embeds audio, but the task gives {', '.join(batch)}. Choose a"
                " task of the modality audio."
            )
        for sound in batch["audio"]:
            waveform = np.asarray(sound["array"], np.float32)
            if waveform.ndim == 2:
                waveform = waveform.mean(axis=0)
            yield waveform, int(sound["sampling_rate"])
