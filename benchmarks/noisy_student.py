"""What does a teacher bring to a small network? Compares four ways to train one.

    python benchmarks/noisy_student.py --data-dir dataset --music music/music.csv \
        --teacher teacher.keras --left-out guitar

supervised            learns the labels of --data-dir (MTT's layout)
distilled             learns the teacher's scores of --music, unlabelled
distilled, augmented  the same, but the student hears the music augmented
second round          the same, but its teacher is the student of the line above

Every way is run with each seed. All networks have the same size. They are scored on the
test clips of --data-dir, on the tags that teacher and clips share, and the students
also by their agreement with --teacher on the test split of --music. Prints means with
the 95 % intervals of the means over the seeds, and writes noisy_student.json. Run
again, it resumes; processes with other --seeds may share a --work-dir.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from tagger import models, storage
from tagger.data import building, pipeline
from tagger.datasets import csv_manifest, magnatagatune
from tagger.evaluation import scoring
from tagger.training import distillation, teacher_scores

ROOT = Path(__file__).parent.parent
AUGMENTED = ("--augment", "--transforms", "gain,noise,delay")
# Method -> method of its teacher; "": --teacher; None: no teacher.
METHODS = {
    "supervised": None,
    "distilled": "",
    "distilled, augmented": "",
    "second round": "distilled, augmented",
}
COLUMNS = ("ROC-AUC", "PR-AUC", "rho")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", default="./dataset", help="labelled clips")
    add("--music", required=True, metavar="CSV", help="music with the column split")
    add("--teacher", required=True, metavar="FILE", help=".keras")
    add("--left-out", default="", help="tags that do not count, comma-separated")
    add("--every", type=int, default=6, help="every N-th track of --music is taken")
    add("--seeds", default="0,1,2")
    add("--model", default="short_chunk_cnn")
    add("--num-filters", type=int, default=8)
    add("--max-epochs", type=int, default=6, help="of each stage")
    add("--work-dir", default="noisy_student", help="for shards and checkpoints")
    add("--output", default="noisy_student.json")
    args = parser.parse_args()
    storage.load_tensorflow()
    work = Path(args.work_dir)
    build(args, work)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    results = {method: [] for method in METHODS}
    for seed in seeds:
        for method in METHODS:
            train(args, work, method, seed)
            results[method].append(judge(args, work, method, seed))
            print(f"seed {seed}, {method}: {results[method][-1]}", flush=True)
    content = {"arguments": vars(args), "results": results}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")
    print(f"| mean of {len(seeds)} seeds | {' | '.join(COLUMNS)} |")
    print("|---|---|---|---|")
    for method, rows in results.items():
        cells = [mean_and_interval([row.get(name) for row in rows]) for name in COLUMNS]
        print(f"| {method} | {' | '.join(cells)} |")


def build(args: argparse.Namespace, work: Path) -> None:
    """Builds the labelled clips and every N-th track of each split of the music."""
    work.mkdir(parents=True, exist_ok=True)
    with storage.file_lock(work / "build", "--work-dir", waits=True):
        labelled = magnatagatune.load_annotations(args.data_dir)
        building.build(labelled, work / "labelled", sample_rate=16000)
        source = Path(args.music).resolve()
        with open(source, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        with open(work / "music.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "tags", "split"))
            for split in ("train", "val", "test"):
                tracks = [row["path"] for row in rows if row["split"] == split]
                for path in tracks[:: args.every]:
                    writer.writerow((source.parent / path, "", split))
        tags = work / "tags.txt"
        teacher = models.model_info(models.load_model(args.teacher))
        tags.write_text("\n".join(teacher.tags) + "\n", encoding="utf-8")
        music = csv_manifest.load_annotations(work / "music.csv", tags=str(tags))
        building.build(music, work / "music", sample_rate=16000, num_audios_per_shard=8)


def folder_of(work: Path, method: str, seed: int) -> Path:
    return work / f"seed{seed}" / method.replace(", ", "_").replace(" ", "_")


def train(args: argparse.Namespace, work: Path, method: str, seed: int) -> None:
    """Trains one network with train.py, unless it is trained already."""
    run = folder_of(work, method, seed)
    if (run / "model.keras").exists():
        return
    teaching = METHODS[method]
    command = [sys.executable, ROOT / "train.py", "--train-dir", run, "--seed", seed]
    command += ["--model", args.model, "--num-filters", args.num_filters]
    command += ["--set", "num_samples=48128", "--max-epochs", args.max_epochs]
    command += ["--lr", 1e-3, "--batch-size", 16]
    if teaching is None:
        command += ["--data-dir", work / "labelled", "--crops-per-clip", 0]
    else:
        teacher = args.teacher
        if teaching:
            teacher = folder_of(work, teaching, seed) / "model.keras"
        command += ["--data-dir", work / "music", "--teacher", teacher]
        command += ["--scores-dir", work / "scores", "--num-lr-decays", 2]
        command += ["--temperature", 3]
        if method != "distilled":
            command += AUGMENTED
    run.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{run}.log", "a") as log:
        subprocess.run(
            [str(part) for part in command], check=True, stdout=log, stderr=log
        )


def judge(args: argparse.Namespace, work: Path, method: str, seed: int) -> dict:
    """Returns the scores of a network on labels, and its agreement with the teacher."""
    model = models.load_model(folder_of(work, method, seed) / "model.keras")
    info = models.model_info(model)
    shards = pipeline.open_shards(work / "labelled")
    known = set((work / "tags.txt").read_text(encoding="utf-8").splitlines())
    result = scoring.evaluate(scoring.predictor(model, shards), shards, info)
    counted = known - set(args.left_out.split(","))
    per_tag = result.per_tag()
    per_tag = per_tag[per_tag.index.isin(counted)]
    found = {"ROC-AUC": per_tag["roc_auc"].mean(), "PR-AUC": per_tag["pr_auc"].mean()}
    if method != "supervised":
        music = pipeline.open_shards(work / "music")
        stored = teacher_scores.Stored(args.teacher, info.segmentation)
        scores = stored.store(music, "test", work / "scores")
        scored = distillation.DistilledShards.of(music, scores, info.tags)
        task = distillation.DistillationTask(scored, args.teacher)
        predict = scoring.predictor(model, scored)
        agreement = task.evaluate(predict, scored, info, "test")
        found["rho"] = agreement.macro()["rho"]
    return {"tags": list(per_tag.index)} | {
        name: round(float(value), 4) for name, value in found.items()
    }


def mean_and_interval(values: list[float | None]) -> str:
    """Returns the mean over the seeds and the 95 % interval of this mean."""
    if None in values:
        return "–"
    mean = np.mean(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{mean:.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
