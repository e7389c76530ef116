"""Compares log-mel records with waveforms: size, scores and speed of evaluation.

    python benchmarks/log_mel.py model.keras --data-dir dataset

Builds the test clips of a data folder in MTT's layout three times: as waveforms, and as
float32 and float16 log-mel spectrograms of the model's own frontend and segmentation.
Scores all three with the model and compares the scores with those from waveforms.
ROC-AUC and PR-AUC are over the tags that model and data share. Prints a table and
writes log_mel.json.
"""

import argparse
import dataclasses
import json
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from tagger import cli, storage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("model", metavar="MODEL", help=".keras file of a model with a log-mel frontend")
    add("--data-dir", default="./dataset")
    add("--scratch", default=tempfile.gettempdir(), help="where shards are written")
    add("--output", default="log_mel.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        run(args, Path(folder))


def run(args, folder: Path) -> None:
    storage.load_tensorflow()
    from tagger import models
    from tagger.data import building
    from tagger.data.clips import open_shards
    from tagger.datasets import magnatagatune
    from tagger.evaluation import metrics, scoring

    model = models.load_model(args.model)
    info = models.model_info(model)
    preset = models.entry(info.name).facts.frontend
    annotations = magnatagatune.load_annotations(args.data_dir, num_tags=1000)
    # The model's tags, in its order; a tag that the data lack has no positive clip.
    columns = {tag: n for n, tag in enumerate(annotations.tags)}
    labels = np.zeros((len(annotations), info.num_tags), np.uint8)
    for tag, name in enumerate(info.tags):
        if name in columns:
            labels[:, tag] = annotations.labels[:, columns[name]]
    test = annotations.splits == "test"
    annotations = dataclasses.replace(
        annotations,
        tags=info.tags,
        clip_ids=annotations.clip_ids[test],
        paths=annotations.paths[test],
        labels=labels[test],
        splits=annotations.splits[test],
    )
    kinds = {
        "waveform, int16": {"sample_rate": info.sample_rate},
        "log-mel, float32": {"features": preset, "dtype": "float32"},
        "log-mel, float16": {"features": preset, "dtype": "float16"},
    }
    rows, reference = {}, None
    print(f"{'':18}{'MB/clip':>9}{'clips/s':>9}{'ROC-AUC':>9}{'PR-AUC':>9}", end="")
    print(f"{'scores differ by (max, mean)':>32}")
    for kind, options in kinds.items():
        output = folder / kind.replace(", ", "-")
        manifest = building.build(
            annotations,
            output,
            segment_samples=info.segmentation.num_samples,
            max_skipped=1.0,
            **options,
        )
        shards = open_shards(output)
        predict = scoring.predictor(model, shards)
        scoring.evaluate(predict, shards, info)  # traces the network
        started = time.perf_counter()
        scored = scoring.evaluate(predict, shards, info)
        seconds = time.perf_counter() - started
        reference = scored.scores if reference is None else reference
        difference = np.abs(scored.scores - reference)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            macro = metrics.macro(scored)
        num_bytes = sum(shard.num_bytes for shard in manifest.shards.values())
        rows[kind] = {
            "mb_per_clip": num_bytes / len(scored.labels) / 1e6,
            "clips_per_second": len(scored.labels) / seconds,
            **macro,
            "largest_difference": float(difference.max()),
            "mean_difference": float(difference.mean()),
        }
        row = rows[kind]
        print(
            f"{kind:18}{row['mb_per_clip']:9.2f}{row['clips_per_second']:9.1f}"
            f"{row['roc_auc']:9.5f}{row['pr_auc']:9.5f}"
            f"{row['largest_difference']:16.1e}{row['mean_difference']:16.1e}"
        )
    Path(args.output).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
