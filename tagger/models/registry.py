"""The taggers: a table of them, one file per paper, and what a model file tells."""

import dataclasses
import inspect
import os
import zipfile
from collections.abc import Callable

import keras

from tagger.data.records import INT16_SCALE, Window
from tagger.models.cnn_self_attention import cnn_self_attention
from tagger.models.crnn import crnn
from tagger.models.fcn import fcn
from tagger.models.frontends import preset
from tagger.models.harmonic_cnn import harmonic_cnn
from tagger.models.layers import AudioWindow, TagScores
from tagger.models.metadata import ModelInfo
from tagger.models.multi_scale_cnn import multi_scale_cnn
from tagger.models.music_tagging_transformer import music_tagging_transformer
from tagger.models.musicnn import musicnn
from tagger.models.pons import musicnn_pons, vgg_pons
from tagger.models.sample_cnn import sample_cnn
from tagger.models.sample_cnn_lee import sample_cnn_lee
from tagger.models.sample_cnn_se_won2020 import sample_cnn_se_won2020
from tagger.models.self_attention import self_attention
from tagger.models.short_chunk import short_chunk_cnn, short_chunk_resnet


@dataclasses.dataclass(frozen=True)
class Published:
    """Macro test scores somebody printed for one configuration."""

    source: str  # who
    dataset: str  # key of `datasets.DATASETS`
    options: dict  # of the factory
    roc_auc: float
    pr_auc: float | None = None


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A tagger of the field, as its factory's defaults build it.

    Attributes:
        factory: Function(num_tags=…, tags=…, …) -> keras.Model; its defaults are the
            paper's.
        sample_rate: Rate in Hz.
        num_samples: Window.
        frontend: Key of `frontends.PRESETS`; "harmonic"; or "waveform", which is none.
        num_parameters: Trainable ones with 50 tags.
        paper: Reference.
        recipe: Key of `trainer.RECIPES`.
        published: Test scores as their sources print them.
    """

    factory: Callable[..., keras.Model]
    sample_rate: int
    num_samples: int
    frontend: str
    num_parameters: int
    paper: str
    recipe: str
    published: tuple[Published, ...] = ()


def _won2020(*scores: tuple[float, float]) -> tuple[Published, ...]:
    """Won et al. 2020, tables 2 to 4: ROC-AUC and PR-AUC on MTT, MSD and Jamendo."""
    datasets = ("magnatagatune", "million_song", "mtg_jamendo")
    return tuple(
        Published("Won et al. 2020", dataset, {}, *pair)
        for dataset, pair in zip(datasets, scores, strict=True)
    )


_KIM_2018 = "Kim, Lee and Nam, ICASSP 2018, https://arxiv.org/abs/1710.10451"
_WON_2019 = "Won, Chun and Serra 2019, https://arxiv.org/abs/1906.04972"
_WON_2020 = "Won et al., SMC 2020, https://arxiv.org/abs/2006.00751"
_PONS_2019 = "Pons and Serra 2019, https://arxiv.org/abs/1909.06654"

MODELS = {
    "sample_cnn": ModelEntry(
        factory=sample_cnn,
        sample_rate=22050,
        num_samples=59049,
        frontend="waveform",
        num_parameters=24742706,
        paper=_KIM_2018,
        recipe="resemul",
        published=tuple(
            Published("the paper", dataset, {"block": block, "multi": multi}, roc_auc)
            for dataset, block, multi, roc_auc in (
                ("magnatagatune", "basic", True, 0.9077),
                ("magnatagatune", "basic", False, 0.9055),
                ("magnatagatune", "se", True, 0.9111),
                ("magnatagatune", "se", False, 0.9083),
                ("magnatagatune", "res", True, 0.9098),
                ("magnatagatune", "res", False, 0.9061),
                ("magnatagatune", "rese", True, 0.9113),
                ("magnatagatune", "rese", False, 0.9102),
                ("million_song", "se", True, 0.8840),
                ("million_song", "rese", True, 0.8847),
            )
        ),
    ),
    "sample_cnn_lee": ModelEntry(
        factory=sample_cnn_lee,
        sample_rate=16000,
        num_samples=59049,
        frontend="waveform",
        num_parameters=1869874,
        paper="Lee, Park, Kim and Nam, SMC 2017, https://arxiv.org/abs/1703.01789",
        recipe="won2020",
        published=_won2020((0.9058, 0.4422), (0.8789, 0.2959), (0.8208, 0.2742)),
    ),
    "sample_cnn_se_won2020": ModelEntry(
        factory=sample_cnn_se_won2020,
        sample_rate=16000,
        num_samples=59049,
        frontend="waveform",
        num_parameters=6951858,
        paper=_WON_2020,
        recipe="won2020",
        published=_won2020((0.9103, 0.4520), (0.8838, 0.3109), (0.8233, 0.2784)),
    ),
    "multi_scale_cnn": ModelEntry(
        factory=multi_scale_cnn,
        sample_rate=11025,
        num_samples=321093,
        frontend="multi_scale",
        num_parameters=2936810,
        paper="Dabral and Deshmukh, https://github.com/amalad/Multi-Scale-Music-Tagger",
        recipe="multi_scale",
        # On its own random split, which shares artists between train and test.
        published=(Published("its repository", "magnatagatune", {}, 0.9094),),
    ),
    "self_attention": ModelEntry(
        factory=self_attention,
        sample_rate=16000,
        num_samples=65280,
        frontend="won2019",
        num_parameters=6882452,
        paper=_WON_2019,
        recipe="won2019",
    ),
    "music_tagging_transformer": ModelEntry(
        factory=music_tagging_transformer,
        sample_rate=22050,
        num_samples=220500,
        frontend="won2021",
        num_parameters=4567732,
        paper="Won, Choi and Serra, ISMIR 2021, https://arxiv.org/abs/2111.13457",
        recipe="transformer",
    ),
    "short_chunk_cnn": ModelEntry(
        factory=short_chunk_cnn,
        sample_rate=16000,
        num_samples=59049,
        frontend="won2020_128",
        num_parameters=3687348,
        paper=_WON_2020,
        recipe="won2020",
        published=_won2020((0.9126, 0.4590), (0.8883, 0.3251), (0.8324, 0.2976)),
    ),
    "short_chunk_resnet": ModelEntry(
        factory=short_chunk_resnet,
        sample_rate=16000,
        num_samples=59049,
        frontend="won2020_128",
        num_parameters=12104244,
        paper=_WON_2020,
        recipe="won2020",
        published=_won2020((0.9129, 0.4614), (0.8898, 0.3280), (0.8316, 0.2951)),
    ),
    "fcn": ModelEntry(
        factory=fcn,
        sample_rate=16000,
        num_samples=464000,
        frontend="won2020",
        num_parameters=447732,
        paper="Choi, Fazekas and Sandler, ISMIR 2016, https://arxiv.org/abs/1606.00298",
        recipe="won2020",
        published=_won2020((0.9005, 0.4295), (0.8744, 0.2970), (0.8255, 0.2801)),
    ),
    "crnn": ModelEntry(
        factory=crnn,
        sample_rate=16000,
        num_samples=464000,
        frontend="won2020",
        num_parameters=394100,
        paper="Choi et al., ICASSP 2017, https://arxiv.org/abs/1609.04243",
        recipe="won2020",
        published=_won2020((0.8722, 0.3625), (0.8499, 0.2469), (0.7978, 0.2358)),
    ),
    "musicnn": ModelEntry(
        factory=musicnn,
        sample_rate=16000,
        num_samples=48000,
        frontend="won2020",
        num_parameters=784300,
        paper="Pons et al., ISMIR 2018, https://arxiv.org/abs/1711.02520",
        recipe="won2020",
        published=_won2020((0.9106, 0.4493), (0.8803, 0.2983), (0.8226, 0.2713)),
    ),
    "cnn_self_attention": ModelEntry(
        factory=cnn_self_attention,
        sample_rate=16000,
        num_samples=240000,
        frontend="won2020_128",
        num_parameters=10521652,
        paper=_WON_2019,
        recipe="won2020",
        published=_won2020((0.9077, 0.4445), (0.8810, 0.3103), (0.8261, 0.2883)),
    ),
    "harmonic_cnn": ModelEntry(
        factory=harmonic_cnn,
        sample_rate=16000,
        num_samples=80000,
        frontend="harmonic",
        num_parameters=3631551,
        paper="Won, Chun, Nieto and Serra, ICASSP 2020,"
        " https://github.com/minzwon/data-driven-harmonic-filters",
        recipe="won2020",
        published=_won2020((0.9127, 0.4611), (0.8898, 0.3298), (0.8322, 0.2956)),
    ),
    "musicnn_pons": ModelEntry(
        factory=musicnn_pons,
        sample_rate=16000,
        num_samples=48128,
        frontend="pons2019",
        num_parameters=787159,
        paper=_PONS_2019,
        recipe="won2020",
        # The weights in its wheel; MTT with its untagged clips.
        published=(
            Published("its wheel", "magnatagatune", {}, 0.9067, 0.3831),
            Published("its wheel", "million_song", {}, 0.8802, 0.2891),
        ),
    ),
    "vgg_pons": ModelEntry(
        factory=vgg_pons,
        sample_rate=16000,
        num_samples=48128,
        frontend="pons2019",
        num_parameters=605748,
        paper=_PONS_2019,
        recipe="won2020",
        published=(
            Published("its wheel", "magnatagatune", {}, 0.9030, 0.3823),
            Published("its wheel", "million_song", {}, 0.8768, 0.2819),
        ),
    ),
}


def entry(name: str) -> ModelEntry:
    """What MODELS has under a name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}. Choose one of: {', '.join(MODELS)}.")
    return MODELS[name]


def build_model(name: str, **options) -> keras.Model:
    """Builds a model by its name in MODELS; options go to its factory.

    Raises:
        ValueError: the name is unknown, or an option's value.
    """
    return entry(name).factory(**options)


def default_options(name: str) -> dict:
    """Options of a model's factory with their defaults, but for the tags."""
    parameters = inspect.signature(entry(name).factory).parameters.values()
    tags = ("num_tags", "tags")
    return {p.name: p.default for p in parameters if p.name not in tags}


def save_model(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a `.keras` file; whatever interrupts it, no half-written file is left."""
    folder, name = os.path.split(path)
    unfinished = os.path.join(folder, f"unfinished-{name}")
    try:
        model.save(unfinished)
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)


def load_model(path: str | os.PathLike) -> keras.Model:
    """Reads a `.keras` file made by our training or conversion.

    Where the network allows it, the loaded model takes waveforms of any length.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no Keras model, or not one of ours.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{str(path)!r} is no .keras model file (a damaged copy, perhaps)."
        )
    try:
        model = keras.saving.load_model(path, compile=False)
    except (
        Exception
    ) as error:  # Keras raises many kinds, some of them from h5py or json
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(
            f"{str(path)!r} is no model Keras can read: {first}"
        ) from error
    model_info(model)
    return _of_any_length(model)


def model_info(model: keras.Model) -> ModelInfo:
    """Reads what a model says of itself from its first and last layers.

    Raises:
        ValueError: the model is no Keras model, or has no AudioWindow or no TagScores
            layer.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"A {type(model).__name__} does nothing but tag. Give the .keras file that"
            " it was made of."
        )
    window = [layer for layer in model.layers if isinstance(layer, AudioWindow)]
    scores = [layer for layer in model.layers if isinstance(layer, TagScores)]
    if len(window) != 1 or len(scores) != 1:
        raise ValueError(
            f"Model {model.name!r} is no tagger of this project: it does not say its"
            " rate, window and tags. Use a model made by train.py."
        )
    window, scores = window[0], scores[0]
    return ModelInfo(
        name=model.name,
        sample_rate=window.sample_rate,
        window=Window(
            window.num_samples,
            window.remainder,
            window.hop_samples,
            window.edge_samples,
        ),
        num_tags=scores.units,
        tags=scores.tags,
        thresholds=scores.thresholds,
    )


def set_thresholds(model: keras.Model, thresholds) -> None:
    """Stores the scores [num_tags] from which tags apply; saved with the model."""
    (scores,) = (layer for layer in model.layers if isinstance(layer, TagScores))
    scores.thresholds = tuple(float(threshold) for threshold in thresholds)


def feature_network(model: keras.Model) -> keras.Model:
    """The part of a model after its frontend, sharing its layers.

    Returns:
        Model from log-mel features [batch, num_frames, n_mels] (harmonic_cnn: [batch,
        num_frames, bands, harmonics]) to scores [batch, num_tags].

    Raises:
        ValueError: the model has no frontend; it reads the waveform itself.
    """
    frontend = [layer for layer in model.layers if layer.name == "frontend"]
    if not frontend:
        raise ValueError(
            f"Model {model.name} reads the waveform itself: it has no frontend and so"
            " takes no features."
        )
    name = f"{model.name}_features"
    return keras.Model(frontend[0].output, model.output, name=name)


def _of_any_length(model: keras.Model) -> keras.Model:
    """The same layers behind an input without a fixed length, if they allow it."""
    (window,) = (layer for layer in model.layers if isinstance(layer, AudioWindow))
    if window.min_samples is None or model.input_shape[1] is None:
        return model
    waveform = keras.Input((None,), name=model.inputs[0].name)
    free = keras.models.clone_model(model, input_tensors=waveform)
    free.set_weights(model.get_weights())
    return free


def fed_with(
    model: keras.Model,
    dtype: str,
    features: str | None = None,
    augmentation: keras.Layer | None = None,
) -> keras.Model:
    """Makes a model that takes segments as the records hold them.

    So int16 crosses to the accelerator, half the bytes of float32. Both models share
    their layers; save the one that was given.

    Args:
        model: Takes float32 waveforms at ±1.
        dtype: Of the segments: "int16", or "float32" for the model as it is.
        features: Key of `frontends.PRESETS` if the records hold log-mel spectrograms
            (float16 or float32): the frontend is left out.
        augmentation: Noises the waveforms in training.

    Raises:
        ValueError: the model has another frontend, or none; or log-mel spectrograms
            should be augmented.
    """
    if features and augmentation:
        raise ValueError(
            "Augmentation needs waveforms, and these records hold log-mel spectrograms."
            " Build without --features, or train without --augment."
        )
    if features:
        frontends = [layer for layer in model.layers if layer.name == "frontend"]
        made_by = [getattr(layer, "log_mel", None) for layer in frontends]
        if made_by != [preset(features)]:
            raise ValueError(
                f"Model {model.name} does not take log-mel spectrograms of the preset"
                f" {features}, which these records hold. Build waveforms (without"
                " --features), or the features that python -m tagger models shows."
            )
        network = feature_network(model)
        spectrogram = keras.Input(network.input_shape[1:], dtype=dtype, name="log_mel")
        scores = network(keras.ops.cast(spectrogram, "float32"))
        return keras.Model(spectrogram, scores, name=f"{model.name}_features")
    if dtype == "float32" and not augmentation:
        return model
    segments = keras.Input(model.input_shape[1:], dtype=dtype, name="segments")
    # float32 in every precision: bfloat16 would keep 8 of the 16 bits.
    scale = 1.0 if dtype == "float32" else 1 / INT16_SCALE
    x = keras.layers.Rescaling(scale, dtype="float32", name="to_waveform")(segments)
    if augmentation:
        x = augmentation(x)
    return keras.Model(segments, model(x), name=f"{model.name}_{dtype}")
