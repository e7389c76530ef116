"""Tables that map the original projects' arrays to our weights, one per model.

Each function takes the shapes of the arrays and returns the factory's options and the
rows of the table:

    (names in the file, our weight as layer.attribute, conversion function)

PyTorch stores kernels as [out, in, mel, time], Keras as [time, mel, in, out]. A plain
transpose converts them, both for dense layers and for 1-D and 2-D convolutions.
"""

import re
from collections.abc import Callable, Iterator

import numpy as np

from tagger.datasets.magnatagatune import RESEMUL_TAGS

Shapes = dict[str, tuple[int, ...]]
Row = tuple[tuple[str, ...], str, Callable[..., np.ndarray]]
Table = tuple[dict, list[Row]]

# Arrays that no table needs: counters, Fourier windows (we compute them), and the state
# of an optimiser.
IGNORED = (
    r".*\.num_batches_tracked",
    r"spec\.spectrogram\.window",
    r"hstft\.spec\.window",
    r"(.*/)?(Adam(_\d+)?|Momentum|global_step|beta\d_power)",
)
# Weights that a file may lack, because we compute the same values as the original.
COMPUTED = ("frontend.filters",)
# No PyTorch file holds the class token of Won et al. 2019; it is fixed.
FIXED = ("class_token.token",)

NUM_SHORT_CHUNK_BLOCKS = 7
NUM_BLOCKS = 9  # of sample_cnn


def same(array: np.ndarray) -> np.ndarray:
    """Returns the array unchanged."""
    return array


def transpose(array: np.ndarray) -> np.ndarray:
    """Converts a PyTorch kernel to a Keras kernel."""
    return array.T


# --- Parts that PyTorch models share --------------------------------------------------


def _layer(source: str, layer: str) -> list[Row]:
    """Maps a convolution or dense layer."""
    return [
        ((f"{source}.weight",), f"{layer}.kernel", transpose),
        ((f"{source}.bias",), f"{layer}.bias", same),
    ]


def _scale(source: str, layer: str) -> list[Row]:
    """Maps the scale and shift of a norm."""
    return [
        ((f"{source}.weight",), f"{layer}.gamma", same),
        ((f"{source}.bias",), f"{layer}.beta", same),
    ]


def _norm(source: str, layer: str) -> list[Row]:
    """Maps a batch normalisation layer."""
    return [
        *_scale(source, layer),
        ((f"{source}.running_mean",), f"{layer}.moving_mean", same),
        ((f"{source}.running_var",), f"{layer}.moving_variance", same),
    ]


def _conv_norm(source: str, name: str, suffix: str = "") -> list[Row]:
    """Maps `{source}.conv{suffix}` and `{source}.bn{suffix}`."""
    return [
        *_layer(f"{source}.conv{suffix}", f"{name}_conv"),
        *_norm(f"{source}.bn{suffix}", f"{name}_norm"),
    ]


def _residual(shapes: Shapes, source: str, name: str) -> list[Row]:
    """Maps two convolutions and, if the file has one, the shortcut's convolution."""
    rows = _conv_norm(source, f"{name}_1", "_1") + _conv_norm(source, f"{name}_2", "_2")
    if f"{source}.conv_3.weight" in shapes:
        rows += _conv_norm(source, f"{name}_shortcut", "_3")
    return rows


def _log_mel(norm: str = "spec_bn") -> list[Row]:
    return [
        (("spec.mel_scale.fb",), "frontend.filters", same),
        *_norm(norm, "input_norm"),
    ]


def _bert(source: str, name: str) -> list[Row]:
    attention = f"{source}.attention"
    return [
        *_layer(f"{attention}.self.query", f"{name}_attention.query"),
        *_layer(f"{attention}.self.key", f"{name}_attention.key"),
        *_layer(f"{attention}.self.value", f"{name}_attention.value"),
        *_layer(f"{attention}.output.dense", f"{name}_attention.output_projection"),
        *_scale(f"{attention}.output.LayerNorm", f"{name}_attention_norm"),
        *_layer(f"{source}.intermediate.dense", f"{name}_hidden"),
        *_layer(f"{source}.output.dense", f"{name}_output"),
        *_scale(f"{source}.output.LayerNorm", f"{name}_norm"),
    ]


def _count(shapes: Shapes, pattern: str) -> int:
    """Counts the distinct values of the pattern's group among the names."""
    found = (re.match(pattern, name) for name in shapes)
    return len({match[1] for match in found if match})


# --- Sample-level CNNs ----------------------------------------------------------------


def sample_cnn(shapes: Shapes) -> Table:
    """Maps resemul: Keras 2 names, layers numbered from 1 in the order of its code."""
    num_convs = sum(name.startswith("conv1d_") for name in shapes) // 2
    num_dense = sum(name.startswith("dense_") for name in shapes) // 2
    excited, residual = num_dense > 2, num_convs > 1 + NUM_BLOCKS
    num_filters = shapes["conv1d_1/kernel:0"][-1]
    head = shapes[f"dense_{num_dense - 1}/kernel:0"]
    options = {
        "num_tags": shapes[f"dense_{num_dense}/kernel:0"][1],
        "block": {
            (False, False): "basic",
            (True, False): "se",
            (False, True): "res",
            (True, True): "rese",
        }[excited, residual],
        # The last block has 4 · num_filters channels, the two before it 2 · num_filters
        # each.
        "multi": head[0] == 8 * num_filters,
        "alpha": _amplifying_ratio(shapes) if excited else 16,
        "num_filters": num_filters,
    }
    if options["num_tags"] == len(RESEMUL_TAGS):
        options["tags"] = RESEMUL_TAGS  # resemul knows no other data than MTT
    return options, list(_sample_cnn_rows(excited, residual))


def _amplifying_ratio(shapes: Shapes) -> float:
    """Returns the smallest ratio that gives every SE block its hidden units.

    SqueezeExcitation rounds the product of channels and ratio down.
    """
    kernels = [shapes[f"dense_{2 * i - 1}/kernel:0"] for i in range(1, NUM_BLOCKS + 1)]
    ratio = max(hidden / channels for channels, hidden in kernels)
    # The product may round to just below a whole number.
    short = any(int(channels * ratio) < hidden for channels, hidden in kernels)
    return float(np.nextafter(ratio, np.inf)) if short else ratio


def _sample_cnn_rows(excited: bool, residual: bool) -> Iterator[Row]:
    count = dict.fromkeys(("conv1d", "batch_normalization", "dense"), 0)
    attributes = {
        "conv1d": ("kernel", "bias"),
        "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
        "dense": ("kernel", "bias"),
    }

    def layer(kind: str, ours: str) -> list[Row]:
        count[kind] += 1
        source = f"{kind}_{count[kind]}"
        return [((f"{source}/{a}:0",), f"{ours}.{a}", same) for a in attributes[kind]]

    parts = ["stem"]
    for i in range(1, NUM_BLOCKS + 1):
        # The width changes at blocks 3 and 9, whose shortcut is a convolution.
        shortcut = [f"block{i}_shortcut"] if i in (3, NUM_BLOCKS) else []
        convs = [*shortcut, f"block{i}_1", f"block{i}_2"] if residual else [f"block{i}"]
        parts += [*convs, f"block{i}_excitation"] if excited else convs
    for part in parts:
        if part.endswith("_excitation"):
            yield from layer("dense", f"{part}.squeeze")
            yield from layer("dense", f"{part}.excite")
        else:
            yield from layer("conv1d", f"{part}_conv")
            yield from layer("batch_normalization", f"{part}_norm")
    yield from layer("dense", "head_dense")
    yield from layer("batch_normalization", "head_norm")
    yield from layer("dense", "head_scores")


def sample_cnn_lee(shapes: Shapes) -> Table:
    """Maps SampleCNN of Won et al. 2020, and lee_lee of Won et al. 2019."""
    if "front_end.init_conv.conv.weight" in shapes:
        num_blocks = _count(shapes, r"front_end\.convs\.(\d+)\.")
        convs = [f"front_end.convs.{i}" for i in range(num_blocks)]
        sources = ["front_end.init_conv", *convs, "front_end.conv1x1"]
        head = "classifier"
    else:
        num_layers = max(2, _count(shapes, r"layer(\d+)\."))
        sources = [f"layer{i}" for i in range(1, num_layers + 1)]
        head = "dense"
    names = ["stem", *(f"block{i}" for i in range(1, len(sources)))]
    rows = [
        row
        for source, name in zip(sources, names, strict=True)
        for row in _conv_norm(source, name)
    ]
    options = {
        "num_tags": shapes[f"{head}.weight"][0],
        "filters": tuple(shapes[f"{source}.conv.weight"][0] for source in sources),
    }
    return options, rows + _layer(head, "head_scores")


def sample_cnn_se_won2020(shapes: Shapes) -> Table:
    """Maps SampleCNNSE of Won et al. 2020."""
    numbers = range(1, _count(shapes, r"layer(\d+)\.") + 1)
    rows = []
    for i in numbers:
        rows += _residual(shapes, f"layer{i}", f"block{i}")
        rows += _layer(f"layer{i}.dense1", f"block{i}_excitation.squeeze")
        rows += _layer(f"layer{i}.dense2", f"block{i}_excitation.excite")
    options = {
        "num_tags": shapes["dense2.weight"][0],
        "filters": tuple(shapes[f"layer{i}.conv_1.weight"][0] for i in numbers),
    }
    return options, rows + _dense_head()


def _dense_head() -> list[Row]:
    return [
        *_layer("dense1", "head_dense"),
        *_norm("bn", "head_norm"),
        *_layer("dense2", "head_scores"),
    ]


# --- Spectrogram CNNs of Won et al. 2020 ----------------------------------------------


def fcn(shapes: Shapes) -> Table:
    """Maps FCN of Won et al. 2020."""
    options = {
        "num_tags": shapes["dense.weight"][0],
        "filters": tuple(shapes[f"layer{i}.conv.weight"][0] for i in range(1, 6)),
    }
    convs = [row for i in range(1, 6) for row in _conv_norm(f"layer{i}", f"block{i}")]
    return options, [*_log_mel(), *convs, *_layer("dense", "head_scores")]


def crnn(shapes: Shapes) -> Table:
    """Maps CRNN of Won et al. 2020."""
    options = {
        "num_tags": shapes["dense.weight"][0],
        "filters": tuple(shapes[f"layer{i}.conv.weight"][0] for i in range(1, 5)),
        "gru_units": shapes["layer5.weight_hh_l0"][1],
    }
    convs = [row for i in range(1, 5) for row in _conv_norm(f"layer{i}", f"block{i}")]
    grus = [row for number in (0, 1) for row in _gru(number, f"gru{number + 1}.cell")]
    return options, [*_log_mel(), *convs, *grus, *_layer("dense", "head_scores")]


def _gru(number: int, cell: str) -> list[Row]:
    source = "layer5.{}_{}_l" + str(number)
    biases = (source.format("bias", "ih"), source.format("bias", "hh"))
    return [
        ((source.format("weight", "ih"),), f"{cell}.kernel", _gru_kernel),
        ((source.format("weight", "hh"),), f"{cell}.recurrent_kernel", _gru_kernel),
        (
            biases,
            f"{cell}.bias",
            lambda *given: np.stack(list(map(_keras_gates, given))),
        ),
    ]


def _gru_kernel(array: np.ndarray) -> np.ndarray:
    return _keras_gates(array).T


def _keras_gates(array: np.ndarray) -> np.ndarray:
    """Reorders GRU gates from PyTorch's reset, update, new to update, reset, new."""
    reset, update, new = np.split(array, 3)
    return np.concatenate([update, reset, new])


def musicnn(shapes: Shapes) -> Table:
    """Maps Musicnn of Won et al. 2020."""
    names = ["vertical1", "vertical2", "horizontal1", "horizontal2", "horizontal3"]
    rows = _log_mel()
    for i, name in enumerate(names):
        rows += _conv_norm(f"layers.{i}", name)
    for i in (1, 2, 3):
        rows += _conv_norm(f"layer{i}", f"middle{i}")
    options = {
        "num_tags": shapes["dense2.weight"][0],
        "vertical_filters": shapes["layers.0.conv.weight"][0],
        "horizontal_filters": shapes["layers.2.conv.weight"][0],
        "num_filters": shapes["layer1.conv.weight"][0],
        "dense_units": shapes["dense1.weight"][0],
    }
    return options, rows + _dense_head()


def short_chunk_cnn(shapes: Shapes) -> Table:
    """Maps ShortChunkCNN of Won et al. 2020."""
    rows = _log_mel()
    for i in range(1, NUM_SHORT_CHUNK_BLOCKS + 1):
        rows += _conv_norm(f"layer{i}", f"block{i}")
    options = {
        "num_tags": shapes["dense2.weight"][0],
        "num_filters": shapes["layer1.conv.weight"][0],
    }
    return options, rows + _dense_head()


def short_chunk_resnet(shapes: Shapes) -> Table:
    """Maps ShortChunkCNN_Res of Won et al. 2020."""
    rows = _log_mel()
    for i in range(1, NUM_SHORT_CHUNK_BLOCKS + 1):
        rows += _residual(shapes, f"layer{i}", f"block{i}")
    options = {
        "num_tags": shapes["dense2.weight"][0],
        "num_filters": shapes["layer1.conv_1.weight"][0],
    }
    return options, rows + _dense_head()


def harmonic_cnn(shapes: Shapes) -> Table:
    """Maps HarmonicCNN of Won et al. 2020."""
    rows = [(("hstft.bw_Q",), "frontend.q", same), *_norm("hstft_bn", "input_norm")]
    for i in range(1, NUM_SHORT_CHUNK_BLOCKS + 1):
        if f"layer{i}.conv.weight" in shapes:
            rows += _conv_norm(f"layer{i}", f"block{i}")
        else:
            rows += _residual(shapes, f"layer{i}", f"block{i}")
    options = {
        "num_tags": shapes["dense2.weight"][0],
        "num_filters": shapes["layer1.conv.weight"][0],
        "num_harmonics": shapes["hstft_bn.weight"][0],
    }
    return options, rows + _dense_head()


def cnn_self_attention(shapes: Shapes) -> Table:
    """Maps CNNSA of Won et al. 2020, whose class token is not in the file."""
    num_layers = _count(shapes, r"encoder\.layer\.(\d+)\.")
    rows = _log_mel()
    for i in range(1, NUM_SHORT_CHUNK_BLOCKS + 1):
        rows += _residual(shapes, f"layer{i}", f"block{i}")
    for i in range(num_layers):
        rows += _bert(f"encoder.layer.{i}", f"encoder{i + 1}")
    rows += _layer("pooler.dense", "pooler") + _layer("dense", "head_scores")
    options = {
        "num_tags": shapes["dense.weight"][0],
        "num_filters": shapes["layer1.conv_1.weight"][0],
        "num_layers": num_layers,
    }
    return options, rows


# --- Multi-scale CNN ------------------------------------------------------------------


def multi_scale_cnn(shapes: Shapes) -> Table:
    """Maps MSCNN of Dabral and Deshmukh."""
    convs = {
        "conv11": "scale1_1",
        "conv12": "scale1_2",
        "conv13": "scale1_3",
        "conv21": "scale2_1",
        "conv22": "scale2_2",
        "conv31": "scale3_1",
        "conv4": "merged1",
        "conv5": "merged2",
    }
    later = shapes["conv13.weight"][0]
    mel, time = 8, 9  # cells, which PyTorch flattens as [channel, mel, time]

    def reorder(array: np.ndarray) -> np.ndarray:
        """Reorders the last axis to ours, [time, mel, channel]."""
        cells = array.reshape(*array.shape[:-1], later, mel, time)
        return np.swapaxes(cells, -1, -3).reshape(array.shape)

    rows = [row for a, b in convs.items() for row in _layer(a, f"{b}_conv")]
    rows += [((s,), t, reorder) for (s,), t, _ in _norm("bn_layer", "head_norm")]
    rows += [
        (("fc1.weight",), "head_dense.kernel", lambda array: reorder(array).T),
        (("fc1.bias",), "head_dense.bias", same),
        *_layer("fc2", "head_scores"),
    ]
    options = {
        "num_tags": shapes["fc2.weight"][0],
        "filters": (shapes["conv11.weight"][0], shapes["conv12.weight"][0], later),
        "dense_units": shapes["fc1.weight"][0],
    }
    return options, rows


# --- Attention ------------------------------------------------------------------------

POSITIONS = "back_end.embedding.position_embeddings.weight"


def self_attention(shapes: Shapes) -> Table:
    """Maps MTSA of Won et al. 2019.

    The combinations are pons_won, lee_won, pons_pons, and the network of its figures.
    """
    rows = []
    if "front_end.input_bn.weight" in shapes:
        options = {"front_end": "pons"}
        options["num_filters"] = shapes["front_end.layers.0.conv.weight"][0]
        names = [f"vertical{i}" for i in range(1, 7)]
        names += [f"horizontal{i}" for i in range(1, 5)]
        rows += _norm("front_end.input_bn", "input_norm")
        for i, name in enumerate(names):
            rows += _conv_norm(f"front_end.layers.{i}", name)
        front = [
            *_layer("front_end.conv1x1", "front_conv"),
            *_norm("front_end.bn", "front_norm"),
        ]
    else:
        options = {"front_end": "lee"}
        options["num_filters"] = shapes["front_end.init_conv.conv.weight"][0]
        rows += _conv_norm("front_end.init_conv", "stem")
        for i in range(_count(shapes, r"front_end\.convs\.(\d+)\.")):
            rows += _conv_norm(f"front_end.convs.{i}", f"block{i + 1}")
        front = _conv_norm("front_end.conv1x1", "front")

    num_layers = _count(shapes, r"back_end\.encoder\.layer\.(\d+)\.")
    if num_layers:
        options |= {"back_end": "attention", "num_layers": num_layers}
        options["channels"] = shapes["back_end.pooler.dense.weight"][0]
        rows += front
        if POSITIONS in shapes:
            options |= {"positions": "learned", "max_length": shapes[POSITIONS][0]}
            rows.append(((POSITIONS,), "positions.positions", same))
            rows += _scale("back_end.embedding.LayerNorm", "positions_norm")
        for i in range(num_layers):
            rows += _bert(f"back_end.encoder.layer.{i}", f"encoder{i + 1}")
        rows += _layer("back_end.pooler.dense", "pooler")
    else:
        options |= {"back_end": "cnn", "channels": shapes["back_end.conv1.weight"][0]}
        for i in (1, 2, 3):
            rows += _layer(f"back_end.conv{i}", f"middle{i}_conv")
            rows += _norm(f"back_end.bn{i}", f"middle{i}_norm")
        rows += _layer("back_end.dense", "head_dense")
        rows += _norm("back_end.bn4", "head_norm")
    options["num_tags"] = shapes["classifier.weight"][0]
    return options, rows + _layer("classifier", "head_scores")


def music_tagging_transformer(shapes: Shapes) -> Table:
    """Maps MusicTaggingTransformer of Won et al. 2021."""
    num_filters = shapes["frontend.layer1.conv_1.weight"][0]
    num_layers = _count(shapes, r"transformer\.layers\.(\d+)\.")
    rows = _log_mel("frontend.input_bn")
    for i in (1, 2, 3):
        rows += _residual(shapes, f"frontend.layer{i}", f"block{i}")

    def embedding(array: np.ndarray) -> np.ndarray:
        """Converts columns [channel, mel] to rows [mel, channel]."""
        cells = array.reshape(array.shape[0], num_filters, -1)
        return np.swapaxes(cells, 1, 2).reshape(array.shape).T

    rows += [
        (("frontend.fc.weight",), "embedding.kernel", embedding),
        (("frontend.fc.bias",), "embedding.bias", same),
        (("cls_token",), "class_token.token", same),
        (("pos_embedding",), "positions.positions", lambda array: array[0]),
    ]
    for i in range(num_layers):
        attention, hidden = (f"transformer.layers.{i}.{part}.fn" for part in (0, 1))
        name = f"encoder{i + 1}"
        rows += _scale(f"{attention}.norm", f"{name}_attention_norm")
        for number, part in enumerate(("query", "key", "value")):
            rows.append(
                (
                    (f"{attention}.fn.to_qkv.weight",),
                    f"{name}_attention.{part}.kernel",
                    lambda array, number=number: np.split(array, 3)[number].T,
                )
            )
        rows += _layer(
            f"{attention}.fn.to_out.0", f"{name}_attention.output_projection"
        )
        rows += _scale(f"{hidden}.norm", f"{name}_norm")
        rows += _layer(f"{hidden}.fn.net.0", f"{name}_hidden")
        rows += _layer(f"{hidden}.fn.net.3", f"{name}_output")
    rows += _scale("mlp_head.0", "head_norm") + _layer("mlp_head.1", "head_scores")
    channels = shapes["frontend.fc.weight"][0]
    options = {
        "num_tags": shapes["mlp_head.1.weight"][0],
        "size": "student" if channels == 64 else "teacher",
        "num_filters": num_filters,
        "channels": channels,
        "num_layers": num_layers,
        "max_length": shapes["pos_embedding"][1] - 1,
    }
    return options, rows


# --- The package musicnn (TensorFlow 1) -----------------------------------------------


def _tf1_layer(source: str, layer: str, turn: Callable = same) -> list[Row]:
    return [
        ((f"{source}/kernel",), f"{layer}.kernel", turn),
        ((f"{source}/bias",), f"{layer}.bias", same),
    ]


def _tf1_norm(number: int, layer: str, turn: Callable = same) -> list[Row]:
    source = f"batch_normalization_{number}" if number else "batch_normalization"
    attributes = ("gamma", "beta", "moving_mean", "moving_variance")
    return [((f"{source}/{a}",), f"{layer}.{a}", turn) for a in attributes]


def musicnn_pons(shapes: Shapes) -> Table:
    """Maps MTT_musicnn, MSD_musicnn and MSD_musicnn_big."""

    def one_axis(array: np.ndarray) -> np.ndarray:
        """Removes the unit axis of [time, channels in, 1, out], a 2-D kernel."""
        return array[:, :, 0]

    def maxima_first(array: np.ndarray) -> np.ndarray:
        """Reorders each channel's maximum and mean: all maxima, then all means."""
        return np.concatenate([array[0::2], array[1::2]])

    names = ["vertical1", "vertical2", "horizontal1", "horizontal2", "horizontal3"]
    rows = _tf1_norm(0, "input_norm")
    for i, name in enumerate(names):
        rows += _tf1_layer(f"conv2d_{i}" if i else "conv2d", f"{name}_conv")
        rows += _tf1_norm(i + 1, f"{name}_norm")
    for i in (1, 2, 3):
        rows += _tf1_layer(f"conv2d_{i + 4}", f"middle{i}_conv", one_axis)
        rows += _tf1_norm(i + 5, f"middle{i}_norm")
    rows += _tf1_norm(9, "pooled_norm", maxima_first)
    rows += _tf1_layer("dense", "head_dense", maxima_first)
    rows += _tf1_norm(10, "head_norm") + _tf1_layer("dense_1", "head_scores")
    options = {
        "num_tags": shapes["dense_1/kernel"][1],
        "vertical_filters": shapes["conv2d/kernel"][-1],
        "horizontal_filters": shapes["conv2d_2/kernel"][-1],
        "num_filters": shapes["conv2d_5/kernel"][-1],
        "dense_units": shapes["dense/kernel"][1],
    }
    return options, rows


def vgg_pons(shapes: Shapes) -> Table:
    """Maps MTT_vgg and MSD_vgg."""
    rows = _tf1_norm(0, "input_norm")
    for i in range(1, 6):
        rows += _tf1_layer(f"{i}CNN", f"block{i}_conv")
        rows += _tf1_norm(i, f"block{i}_norm")
    options = {
        "num_tags": shapes["dense/kernel"][1],
        "num_filters": shapes["1CNN/kernel"][-1],
    }
    return options, rows + _tf1_layer("dense", "head_scores")


TABLES: dict[str, Callable[[Shapes], Table]] = {
    table.__name__: table
    for table in (
        sample_cnn,
        sample_cnn_lee,
        sample_cnn_se_won2020,
        multi_scale_cnn,
        self_attention,
        music_tagging_transformer,
        short_chunk_cnn,
        short_chunk_resnet,
        fcn,
        crnn,
        musicnn,
        cnn_self_attention,
        harmonic_cnn,
        musicnn_pons,
        vgg_pons,
    )
}
