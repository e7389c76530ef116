"""What does a teacher bring to a small network? Compares ways to train one.

    python benchmarks/noisy_student.py --data-dir dataset --music music/music.csv \
        --teacher teacher.keras --left-out guitar

supervised            learns the labels of --data-dir (MTT's layout)
distilled             learns the teacher's scores of --music, unlabelled
distilled, augmented  the same, but the student hears the music augmented
second round          the same, but its teacher is the student of the line above

With --compare losses, it compares what the student of the second line learns:
temperatures, the weights of the tags, and the teacher's embeddings.

Every way is run with each seed. All networks have the same size. They are scored on the
test clips of --data-dir, on the tags that teacher and clips share, and the students
also by their agreement with --teacher on the test split of --music: Spearman's rho, and
the ROC-AUC on the teacher's highest tenth, means over its tags. Prints means with the
95 % intervals of the means over the seeds, and writes noisy_student.json. Run
again, it resumes; processes with other --seeds may share a --work-dir.
"""

import argparse
import csv
import dataclasses
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from tagger import models, storage
from tagger.data import building
from tagger.data.clips import open_shards
from tagger.datasets import csv_manifest, magnatagatune
from tagger.evaluation import metrics, scoring
from tagger.training import tasks, teacher_scores

ROOT = Path(__file__).parent.parent
NETWORK = "--architecture short_chunk_cnn --num-filters 8 --batch-size 16"
COLUMNS = ("ROC-AUC", "PR-AUC", "rho", "highest tenth")


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to train the network.

    Attributes:
        options: Options of train.py.
        taught: Whether there is a teacher.
        teacher: Method whose model is the teacher; "": --teacher.
    """

    options: tuple[str, ...] = ("--temperature", "3")
    taught: bool = True
    teacher: str = ""


AUGMENTED = ("--temperature", "3", "--augment", "--transforms", "gain,noise,delay")
METHODS = {
    "teachers": {
        "supervised": Method((), taught=False),
        "distilled": Method(),
        "distilled, augmented": Method(AUGMENTED),
        "second round": Method(AUGMENTED, teacher="distilled, augmented"),
    },
    "losses": {
        "temperature 1": Method(("--temperature", "1")),
        "temperature 3": Method(),
        "temperature 3, embeddings": Method(
            ("--temperature", "3", "--embedding-weight", "1")
        ),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", default="./dataset", help="labelled clips")
    add("--music", required=True, metavar="CSV", help="music with the column split")
    add("--teacher", required=True, metavar="FILE", help=".keras")
    add("--left-out", default="", help="tags that do not count, comma-separated")
    add("--every", type=int, default=6, help="every N-th track of --music is taken")
    add("--seeds", default="0,1,2")
    add("--compare", choices=METHODS, default="teachers", help="default: teachers")
    add("--network", default=NETWORK, help="options of train.py, default: %(default)s")
    add("--max-epochs", type=int, default=6, help="of each stage")
    add("--work-dir", default="noisy_student", help="for shards and checkpoints")
    add("--output", default="noisy_student.json")
    args = parser.parse_args()
    storage.load_tensorflow()
    work = Path(args.work_dir)
    build(args, work)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    methods = METHODS[args.compare]
    results = {name: [] for name in methods}
    for seed in seeds:
        for name, method in methods.items():
            train(args, work, name, method, seed)
            results[name].append(judge(args, work, name, method, seed))
            print(f"seed {seed}, {name}: {results[name][-1]}", flush=True)
    content = {"arguments": vars(args), "results": results}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")
    print(f"| mean of {len(seeds)} seeds | {' | '.join(COLUMNS)} |")
    print("|---|---|---|---|---|")
    for name, rows in results.items():
        cells = [mean_and_interval([row.get(key) for row in rows]) for key in COLUMNS]
        print(f"| {name} | {' | '.join(cells)} |")


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


def folder_of(work: Path, name: str, seed: int) -> Path:
    return work / f"seed{seed}" / name.replace(", ", "_").replace(" ", "_")


def train(
    args: argparse.Namespace, work: Path, name: str, method: Method, seed: int
) -> None:
    """Trains one network with train.py, which ends at once if that is done."""
    run = folder_of(work, name, seed)
    command = [sys.executable, ROOT / "train.py", "--train-dir", run, "--seed", seed]
    command += [*shlex.split(args.network), "--num-samples", "48128"]
    command += ["--max-epochs", args.max_epochs, "--lr", 1e-3, *method.options]
    if method.taught:
        teacher = args.teacher
        if method.teacher:
            teacher = folder_of(work, method.teacher, seed) / "model.keras"
        command += ["--data-dir", work / "music", "--teacher", teacher]
        command += ["--scores-dir", work / "scores", "--num-lr-decays", 2]
    else:
        command += ["--data-dir", work / "labelled", "--crops-per-clip", 0]
    run.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{run}.log", "a") as log:
        subprocess.run(
            [str(part) for part in command], check=True, stdout=log, stderr=log
        )


def judge(
    args: argparse.Namespace, work: Path, name: str, method: Method, seed: int
) -> dict:
    """Returns the scores of a network on labels, and its agreement with the teacher."""
    model = models.load_model(folder_of(work, name, seed) / "model.keras")
    info = models.model_info(model)
    shards = open_shards(work / "labelled")
    known = set((work / "tags.txt").read_text(encoding="utf-8").splitlines())
    result = scoring.evaluate(scoring.predictor(model, shards), shards, info)
    counted = known - set(args.left_out.split(","))
    per_tag = metrics.per_tag(result)
    per_tag = per_tag[per_tag.index.isin(counted)]
    found = {"ROC-AUC": per_tag["roc_auc"].mean(), "PR-AUC": per_tag["pr_auc"].mean()}
    if method.taught:
        music = open_shards(work / "music")
        stored = teacher_scores.Stored(args.teacher, info.segmentation)
        stored = stored.matching_stored(work / "scores", music)
        scores = stored.store(music, "test", work / "scores")
        task = tasks.Distillation(music, args.teacher, scores=scores)
        predict = scoring.predictor(model, task.shards)
        agreement = metrics.macro(task.evaluate(predict, info, "test"))
        found |= {"rho": agreement["rho"], "highest tenth": agreement["roc_auc"]}
    return {"tags": list(per_tag.index)} | {
        key: round(float(value), 4) for key, value in found.items()
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
