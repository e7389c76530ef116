"""Makes `originals.npz`: what the originals' code returns for drawn weights and music.

    python tests/references/make_originals.py --originals DIR

DIR holds checkouts in folders named after their repositories. The file was made with
    tbrouns/sota-music-tagging-models            (the code of Won et al. 2020)
    minzwon/self-attention-music-tagging
    minzwon/semi-supervised-music-tagging-transformer
    amalad/Multi-Scale-Music-Tagger
    jordipons/musicnn                            (TensorFlow 1, through tf_keras)
and torch 2.13, torchaudio 2.11, tf_keras 2.21, librosa 0.11. Weights come from
`tests/drawn.py`; the file stores names, shapes, torchaudio's mel filters and outputs.
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ["TF_USE_LEGACY_KERAS"] = "1"
TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent), str(TESTS.parent / "benchmarks")]

import drawn  # noqa: E402
from models import (  # noqa: E402
    MTSA,
    SOTA,
    TRANSFORMER,
    clip_pools,
    load_module,
)

NARROW_MTSA = {
    "conv_channels": 2,
    "attention_channels": 16,
    "attention_dropout": 0.4,
    "num_class": 7,
    "is_cuda": False,
}
# case -> module, class, arguments, samples (or frames of a log-mel), rate
CASES = {
    "sample_cnn_lee": (SOTA, "SampleCNN", {"n_class": 7}, 59049, 16000),
    "sample_cnn_lee|lee_lee": (
        MTSA, "MTSA", NARROW_MTSA | {"architecture": "lee_lee"}, 59049, 16000,
    ),
    "sample_cnn_se_won2020": (SOTA, "SampleCNNSE", {"n_class": 7}, 59049, 16000),
    "fcn": (SOTA, "FCN", {"n_class": 7}, 464000, 16000),
    "crnn": (SOTA, "CRNN", {}, 100000, 16000),
    "musicnn": (SOTA, "Musicnn", {"n_class": 7}, 48000, 16000),
    "short_chunk_cnn": (
        SOTA, "ShortChunkCNN", {"n_channels": 4, "n_class": 7}, 59049, 16000,
    ),
    "short_chunk_resnet": (
        SOTA, "ShortChunkCNN_Res", {"n_channels": 4, "n_class": 7}, 80000, 16000,
    ),
    "cnn_self_attention": (SOTA, "CNNSA", {"n_class": 7}, 48000, 16000),
    "harmonic_cnn": (
        SOTA, "HarmonicCNN", {"n_channels": 4, "n_class": 7}, 80000, 16000,
    ),
    "multi_scale_cnn": (
        ("Multi-Scale-Music-Tagger", ".", "mscnn"), "MSCNN", {"n_tags": 7}, 628, None,
    ),
    "self_attention|pons_won": (
        MTSA, "MTSA", NARROW_MTSA | {"architecture": "pons_won"}, 256, None,
    ),
    "self_attention|pons_pons": (
        MTSA, "MTSA", NARROW_MTSA | {"architecture": "pons_pons"}, 256, None,
    ),
    "self_attention|lee_won": (
        MTSA, "MTSA",
        NARROW_MTSA | {"architecture": "lee_won", "attention_length": 271},
        65610, 16000,
    ),
    "music_tagging_transformer": (
        TRANSFORMER, "MusicTaggingTransformer",
        {"conv_ndim": 4, "attention_ndim": 16, "attention_nlayers": 2,
         "attention_max_len": 120, "n_seq_cls": 7},
        110250, 22050,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--originals", type=Path, required=True, metavar="DIR")
    directory = parser.parse_args().originals.resolve()
    arrays = {}
    for case in CASES:
        arrays |= run_torch(case, directory)
    for case in ("musicnn_pons", "vgg_pons"):
        arrays |= run_tensorflow(case, directory)
    path = TESTS / "references" / "originals.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path}: {len(arrays)} arrays, {path.stat().st_size} bytes")


def run_torch(case: str, directory: Path) -> dict[str, np.ndarray]:
    import torch

    clip_pools()
    (repository, folder, module), name, options, length, sample_rate = CASES[case]
    network = getattr(load_module(directory / repository, folder, module), name)(
        **options
    )
    network.eval()
    state = network.state_dict()
    kept = {n: v for n, v in state.items() if n.endswith((".fb", ".window"))}
    counters = {n: v for n, v in state.items() if n.endswith("num_batches_tracked")}
    shapes = {n: list(v.shape) for n, v in state.items() if n not in kept | counters}
    weights = {n: torch.from_numpy(a) for n, a in drawn.draw_weights(shapes).items()}
    network.load_state_dict(weights | kept | counters)
    if sample_rate is None:
        length = (length, 128 if case == "multi_scale_cnn" else 96)
        x = np.swapaxes(drawn.draw_features(*length), 1, 2)
        x = x[:, None] if case == "multi_scale_cnn" else x
    else:
        x = drawn.draw_music(length, sample_rate)
    with torch.no_grad():
        scores = network(torch.from_numpy(x))
    if case == "multi_scale_cnn":  # its sigmoid is in its training script
        scores = torch.sigmoid(scores)
    print(f"{case:28} {scores.numpy().min():.3f} … {scores.numpy().max():.3f}")
    return {
        f"{case}/scores": scores.numpy(),
        f"{case}/length": np.array(length),
        f"{case}/shapes": np.array(json.dumps(shapes)),
    } | {f"{case}/{n}": v.numpy() for n, v in kept.items() if n.endswith(".fb")}


def run_tensorflow(case: str, directory: Path) -> dict[str, np.ndarray]:
    import tensorflow as tf

    tf1 = tf.compat.v1
    sys.path.insert(0, str(directory))
    build = importlib.import_module("musicnn.models").define_model
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None, 187, 96])
        with tf1.variable_scope("", reuse=tf1.AUTO_REUSE):
            logits = build(x, False, f"MTT_{case.removesuffix('_pons')}", 7)[0]
        variables = {v.op.name: v for v in tf1.global_variables()}
        shapes = {name: v.shape.as_list() for name, v in variables.items()}
        for name, array in drawn.draw_weights(shapes).items():
            variables[name].load(array, session)
        patches = drawn.draw_features(187, 96)
        scores = session.run(tf.sigmoid(logits), {x: patches})
    print(f"{case:28} {scores.min():.3f} … {scores.max():.3f}")
    return {
        f"{case}/scores": scores,
        f"{case}/length": np.array((187, 96)),
        f"{case}/shapes": np.array(json.dumps(shapes)),
    }


if __name__ == "__main__":
    main()
