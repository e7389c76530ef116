"""Does unlabelled music help? Compares supervised, expansion and distillation training.

    python benchmarks/noisy_student.py --data-dir dataset

Takes a data folder in MTT's layout, keeps the tags of some of its train clips and
treats the others as unlabelled. For every seed it trains a teacher on the labelled
clips; then, with the teacher's scores, a student of the same size and one of half the
width; and a model of half the width without a teacher. Half of a student's batch is
unlabelled, so its epoch has twice the steps; models without a teacher therefore train
for twice the epochs. Prints mean and standard deviation of the test scores over the
seeds and writes noisy_student.json. Run again, it resumes.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tagger.data import building
from tagger.datasets import magnatagatune

TRAIN = Path(__file__).parent.parent / "train.py"
# Method -> divisor of the width, and whether it learns from a teacher.
METHODS = {
    "supervised": (1, False),
    "expansion": (1, True),
    "supervised, half width": (2, False),
    "distillation": (2, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", default="./dataset")
    add("--num-tags", type=int, default=50)
    add("--kept", type=float, default=0.2, help="share of train labels to keep")
    add("--num-seeds", type=int, default=3)
    add("--model", default="short_chunk_resnet")
    add("--num-filters", type=int, default=16, help="halved in distillation")
    add("--max-epochs", type=int, default=6, help="of each of a student's stages")
    add("--crops-per-clip", type=int, default=4)
    add("--labelled-loss", default="bce")
    add("--work-dir", default="noisy_student", help="for shards and checkpoints")
    add("--output", default="noisy_student.json")
    args = parser.parse_args()
    work = Path(args.work_dir)
    build(args, work / "tfrecord")
    results = {method: [] for method in METHODS}
    for seed in range(args.num_seeds):
        for method in METHODS:
            run = work / f"seed{seed}" / method.replace(", ", "_").replace(" ", "_")
            train(args, work, run, method, seed)
            results[method].append(test_scores(run))
            print(f"seed {seed}, {method}: {results[method][-1]}", flush=True)
    content = {"arguments": vars(args), "results": results}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")
    for method, scores in results.items():
        parts = [
            f"{name} {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
            for name in ("roc_auc", "pr_auc")
            for values in [[score[name] for score in scores]]
            if len(values) > 1
        ]
        print(f"{method:<13} {', '.join(parts)}")


def build(args, folder: Path) -> None:
    annotations = magnatagatune.load_annotations(args.data_dir, num_tags=args.num_tags)
    splits = annotations.splits.astype("<U7")  # room for "student"
    train = np.flatnonzero(splits == "train")
    others = np.random.default_rng(0).permutation(train)[int(args.kept * len(train)) :]
    splits[others] = "student"
    rule = f"{args.kept:g} of the train clips labelled, the rest student"
    building.build(
        dataclasses.replace(annotations, splits=splits, split_rule=rule),
        folder,
        sample_rate=16000,
        num_audios_per_shard=20,
    )


def train(args, work: Path, run: Path, method: str, seed: int) -> None:
    part, is_student = METHODS[method]
    width = args.num_filters // part
    max_epochs = args.max_epochs * (1 if is_student else 2)
    command = [sys.executable, TRAIN, "--data-dir", work, "--train-dir", run]
    command += ["--model", args.model, "--num-filters", width, "--seed", seed]
    command += ["--max-epochs", max_epochs, "--lr", 1e-3]
    command += ["--crops-per-clip", args.crops_per_clip]
    if is_student:
        teacher = run.parent / "supervised" / "model.keras"
        command += ["--teacher", teacher, "--unlabelled", work, "--student", method]
        command += ["--labelled-loss", args.labelled_loss]
    with open(run.parent.parent / "log.txt", "a") as log:
        subprocess.run([str(part) for part in command], check=True, stdout=log)


def test_scores(run: Path) -> dict[str, float]:
    """Returns those of the best checkpoint's stage, whose weights the run saved."""
    from tagger.training.runs import RunFolder

    best = RunFolder(run).best_checkpoint(len(list(run.glob("*/result.json"))))
    best = json.loads((best.parent / "result.json").read_text())
    return {name: round(best["test"][name], 4) for name in ("roc_auc", "pr_auc")}


if __name__ == "__main__":
    main()
