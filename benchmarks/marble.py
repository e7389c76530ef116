"""Probes a frozen encoder as MARBLE does: how good are its embeddings for tagging?

    python benchmarks/marble.py student musicnn_mtt --data-dir dataset/16k

An encoder is a pretrained model, a model file, or hf://USER/NAME. It is not changed:
the embeddings of a clip's segments are averaged over time, and a network with one
hidden layer (512 units, dropout .2) learns the tags from them with binary
cross-entropy. It is trained until the ROC-AUC on val stops rising, and the best epoch
is scored on test. Prints the macro ROC-AUC and PR-AUC of each encoder: the mean over
the seeds, and the 95 % interval over the test clips around it (its width is that of
seed 0). MARBLE learns a weighted sum of all layers of an encoder; this takes the
embedding alone.

Yuan et al., MARBLE: Music Audio Representation Benchmark for Universal Evaluation,
NeurIPS 2023. MARBLE's tables of MagnaTagATune are on clips with and without tags:
build_mtt.py --variant pons.
"""

import argparse
import dataclasses

import keras
import numpy as np

from tagger import storage
from tagger.data.clips import Shards, open_shards
from tagger.evaluation import bootstrap, metrics, scoring
from tagger.evaluation.metrics import Evaluation
from tagger.inference.engines import Engine
from tagger.inference.selection import open_engine
from tagger.segmentation import to_float

HIDDEN_UNITS, DROPOUT = 512, 0.2
LEARNING_RATE, BATCH_SIZE = 1e-3, 64
PATIENCE, LOWERED = 10, 3  # epochs without a higher ROC-AUC on val: end, lower rate
MAX_EPOCHS = 100


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Embeddings [num_clips, channels] and labels of a split's clips, float32."""

    vectors: np.ndarray
    labels: np.ndarray


def main() -> None:
    """Prints a row per encoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", nargs="+", metavar="ENCODER")
    parser.add_argument("--data-dir", default="./dataset")
    parser.add_argument("--num-seeds", type=int, default=3)
    args = parser.parse_args()
    storage.load_tensorflow()
    shards = open_shards(args.data_dir)
    print(f"{shards.manifest.dataset}, {shards.manifest.split_rule}")
    print("\n| encoder | channels | ROC-AUC | PR-AUC |\n|---|---|---|---|")
    for name in args.encoders:
        engine = open_engine(name)
        splits = [embed(engine, shards, split) for split in ("train", "val", "test")]
        scored = [evaluate(shards, *splits, seed) for seed in range(args.num_seeds)]
        intervals = bootstrap.bootstrap(scored[0], 1000)
        cells = [name, str(engine.embedding_size)]
        for key, one in intervals.items():
            mean = np.mean([metrics.macro(each)[key] for each in scored])
            low, high = (mean + end - one.value for end in (one.low, one.high))
            cells.append(f"{mean:.4f} ({low:.4f} to {high:.4f})")
        print(f"| {' | '.join(cells)} |", flush=True)


def embed(engine: Engine, shards: Shards, split: str) -> Embedded:
    """Returns the mean embeddings of a split's clips."""
    rate, ours = shards.manifest.sample_rate, engine.info.sample_rate
    if rate != ours:
        raise SystemExit(
            f"{shards.directory} holds {rate} Hz; build it with {ours} Hz."
        )
    clips, run = shards.clips(split), engine.predictor("embedding")
    means = scoring.clip_means(
        lambda segments: [run(to_float(segments))],
        clips,
        engine.info.segmentation,
        scoring.BATCH_SIZE,
        f"Embedding {split}",
    )
    vectors = np.array([mean for (mean,) in means], np.float32)
    return Embedded(vectors, clips.labels.astype(np.float32))


def evaluate(
    shards: Shards, train: Embedded, val: Embedded, test: Embedded, seed: int
) -> Evaluation:
    """Trains a probe and scores the test clips."""
    probe = fit(train, val, seed)
    scores = probe.predict(test.vectors, verbose=0)
    loss = float(np.mean(keras.losses.binary_crossentropy(test.labels, scores)))
    manifest = shards.manifest
    ids = np.arange(len(scores)).astype(str)
    return Evaluation(
        manifest.dataset, "test", manifest.split_rule, manifest.tags, ids,
        test.labels.astype(np.uint8), scores, loss,
    )  # fmt: skip


def fit(train: Embedded, val: Embedded, seed: int) -> keras.Model:
    """Returns the probe of the epoch with the highest macro ROC-AUC on val."""
    keras.utils.set_random_seed(seed)
    probe = keras.Sequential(
        [
            keras.layers.Dense(HIDDEN_UNITS, activation="relu"),
            keras.layers.Dropout(DROPOUT),
            keras.layers.Dense(train.labels.shape[1], activation="sigmoid"),
        ]
    )
    probe.compile(keras.optimizers.Adam(LEARNING_RATE), "binary_crossentropy")

    class Validation(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            scores = probe.predict(val.vectors, verbose=0)
            labels = val.labels.astype(np.uint8)
            ids = np.arange(len(labels)).astype(str)
            names = tuple(map(str, range(labels.shape[1])))
            scored = Evaluation("", "val", "", names, ids, labels, scores, 0.0)
            logs["val_roc_auc"] = metrics.macro(scored)["roc_auc"]

    stop = keras.callbacks.EarlyStopping(
        "val_roc_auc", patience=PATIENCE, mode="max", restore_best_weights=True
    )
    lower = keras.callbacks.ReduceLROnPlateau(
        "val_roc_auc", patience=LOWERED, mode="max"
    )
    probe.fit(
        train.vectors,
        train.labels,
        BATCH_SIZE,
        MAX_EPOCHS,
        verbose=0,
        callbacks=[Validation(), stop, lower],
    )
    return probe


if __name__ == "__main__":
    main()
