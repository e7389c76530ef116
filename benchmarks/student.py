"""Judges a student on artists that it was never trained on.

    python benchmarks/student.py --student student/model.keras --teacher \
        teacher.keras --music music/tfrecord --corpus dataset

Prints a table per part and writes student.json; every interval is a 95 % interval over
artists, because songs of one artist are alike:

agreement  with the teacher on the test split of --music: mean over the tags of
           Spearman's rho, and of the ROC-AUC on the teacher's highest tenth
zero-shot  ROC-AUC on the labels of --corpus (MTT's layout, directories d-f) for the
           tags that student and corpus share, beside the teacher's and the difference
fit        `tagger fit` on embeddings of the student and of other models
similar    for test clips, how often the clip with the nearest embedding, among other
           recordings, is by the same artist, and how many pairs of recordings `similar`
           takes for one
networks   weights and CPU time, per segment of 3 s, of the networks that were
           considered, with random weights, and of musicnn_mtt and the student; one
           thread
"""

import argparse
import csv
import json
import runpy
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import transfer as transfer_benchmark

from tagger import models, storage
from tagger.data.clips import open_shards
from tagger.evaluation import bootstrap, metrics, scoring
from tagger.evaluation.agreement import rank_correlations
from tagger.evaluation.metrics import Evaluation
from tagger.inference.embeddings import Embedder
from tagger.inference.engines import OnnxEngine
from tagger.inference.tagger import Tagger
from tagger.library.similarity import SAME_COSINE
from tagger.models import export
from tagger.training import tasks, teacher_scores
from tagger.weights import pretrained

HERE = Path(__file__).parent
NUM_RESAMPLES = 1000
RHO, ROC_AUC = "rho", "ROC-AUC"
LENGTH = {"num_samples": 48128}
CONSIDERED = [
    ("musicnn_pons", {}),
    ("short_chunk_cnn", {"num_filters": 8} | LENGTH),
    ("short_chunk_cnn", {"num_filters": 16} | LENGTH),
    ("short_chunk_cnn", {"num_filters": 16, "widths": (1, 1, 2, 4, 4, 8, 16)} | LENGTH),
    ("short_chunk_cnn", {"num_filters": 32} | LENGTH),
    ("short_chunk_resnet", {"num_filters": 16} | LENGTH),
    (
        "short_chunk_resnet",
        {"num_filters": 16, "widths": (1, 1, 2, 2, 4, 4, 8)} | LENGTH,
    ),
]


def main() -> None:
    """Runs the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--student", required=True, metavar="FILE", help=".keras")
    add("--teacher", required=True, metavar="FILE", help=".keras")
    add("--music", metavar="DIR", help="shards of benchmarks/student/music.csv")
    add("--scores-dir", metavar="DIR", help="scores that train.py --scores-dir stored")
    add("--corpus", metavar="DIR", help="labelled clips in MTT's layout")
    add("--networks", action="store_true", help="measure the networks considered")
    add("--bases", default="musicnn_mtt", help="other models for fit, comma-separated")
    add("--work-dir", default="student_benchmark")
    add("--output", default="student.json")
    args = parser.parse_args()
    storage.load_tensorflow()
    work = Path(args.work_dir)
    work.mkdir(parents=True, exist_ok=True)
    found = {}
    if args.music:
        found["agreement"] = agreement(args, work)
    if args.corpus:
        found["zero-shot"] = zero_shot(args)
        found["fit"] = fit(args, work)
        found["similar"] = similar(args)
    if args.networks:
        found["networks"] = networks(args, work)
    content = {"arguments": vars(args), **found}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")


# --- Agreement ------------------------------------------------------------------------


def agreement(args: argparse.Namespace, work: Path) -> dict:
    """Compares the rankings of the test clips by student and teacher."""
    shards = open_shards(args.music)
    student = models.load_model(args.student)
    info = models.model_info(student)
    parent = Path(args.scores_dir or work)
    stored = teacher_scores.Stored(args.teacher, info.segmentation)
    found = stored.matching_stored(parent, shards).store(shards, "test", parent)
    task = tasks.Distillation(shards, args.teacher, scores=found)
    predict = scoring.predictor(student, task.shards)
    result = task.evaluate(predict, info, "test")
    grouping = runpy.run_path(str(HERE / "student/groups.py"))
    rows = grouping["read"]("music.csv")
    number_of = {row["path"]: number for number, row in enumerate(rows)}
    group_of = grouping["groups"](rows)
    artists = [group_of[number_of[clip_id]] for clip_id in result.clip_ids]
    ends = agreement_intervals(result, artists)
    per_tag = metrics.per_tag(result)
    print(f"\n| agreement, {len(artists)} songs of {len(set(artists))} groups | |")
    print("|---|---|")
    for name, column in ((RHO, "rho"), (ROC_AUC, "roc_auc")):
        print(f"| {name} | {per_tag[column].mean():.3f} {interval(ends[name])} |")
    lowest = per_tag["rho"].sort_values()
    print("\nLowest:", ", ".join(f"{t} {v:.2f}" for t, v in lowest[:8].items()))
    print("Highest:", ", ".join(f"{t} {v:.2f}" for t, v in lowest[:-9:-1].items()))
    return {
        "num_songs": len(artists),
        "macro": metrics.macro(result),
        "intervals": ends,
        "per_tag": per_tag[["rho", "roc_auc"]].to_dict("index"),
    }


def agreement_intervals(result: Evaluation, artists: list[str]) -> dict:
    """Returns the ends of the intervals of rho and ROC-AUC."""
    weights = artist_weights(artists)
    numbers = np.arange(len(artists))
    rho = []
    for counts in weights[:200]:  # ranks must be computed anew for every draw
        drawn = np.repeat(numbers, counts)
        pair = result.teacher_scores[drawn], result.scores[drawn]
        rho.append(np.nanmean(rank_correlations(*pair)))
    aucs = [
        bootstrap.resampled_aucs(labels, scores, weights)[:, 0]
        for labels, scores in zip(result.labels.T, result.scores.T, strict=True)
    ]
    return {RHO: ends_of(rho), ROC_AUC: ends_of(np.nanmean(aucs, axis=0))}


def artist_weights(artists: list[str], seed: int = 0) -> np.ndarray:
    """Returns how often each song is drawn when artists are: [NUM_RESAMPLES, songs]."""
    names, of_song = np.unique(artists, return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(names), size=(NUM_RESAMPLES, len(names)))
    counts = np.stack([np.bincount(draw, minlength=len(names)) for draw in draws])
    return counts[:, of_song]


def ends_of(drawn) -> tuple[float, float]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def interval(ends: tuple[float, float], sign: str = "") -> str:
    return f"({ends[0]:{sign}.3f} to {ends[1]:{sign}.3f})"


# --- Labels ---------------------------------------------------------------------------


def zero_shot(args: argparse.Namespace) -> dict:
    """Scores the labels of the corpus' test clips by student and teacher."""
    clips, artists = test_clips(Path(args.corpus))
    weights = artist_weights(artists)
    files = {"teacher": args.teacher, "student": args.student}
    taggers = {name: Tagger.from_pretrained(path) for name, path in files.items()}
    known = [set(map(str.lower, tagger.tags)) for tagger in taggers.values()]
    tags = [
        tag
        for tag in clips[0]["labels"]
        if all(tag in names for names in known)
        and any(clip["labels"][tag] for clip in clips)
    ]
    labels = np.array([[clip["labels"][tag] for tag in tags] for clip in clips])
    everyone = np.ones((1, len(labels)), int)
    drawn, rows = {}, {}
    paths = [clip["path"] for clip in clips]
    for name, tagger in taggers.items():
        columns = [list(map(str.lower, tagger.tags)).index(tag) for tag in tags]
        scores = np.stack([one.get().aggregated() for one in tagger.taggrams(paths)])[
            :, columns
        ]
        drawn[name] = np.stack(
            [
                bootstrap.resampled_aucs(one, score, weights)[:, 0]
                for one, score in zip(labels.T, scores.T, strict=True)
            ]
        )
        rows[name] = [
            float(bootstrap.resampled_aucs(one, score, everyone)[0, 0])
            for one, score in zip(labels.T, scores.T, strict=True)
        ]
    print(f"\n| zero-shot ROC-AUC, {len(clips)} clips | clips | teacher | student |")
    print("|---|---|---|---|")
    for number, tag in enumerate(tags):
        both = " | ".join(f"{rows[name][number]:.3f}" for name in taggers)
        print(f"| {tag} | {labels[:, number].sum()} | {both} |")
    means = {name: float(np.mean(values)) for name, values in rows.items()}
    difference = np.nanmean(drawn["student"] - drawn["teacher"], axis=0)
    print(f"| mean | | {means['teacher']:.3f} | {means['student']:.3f} |")
    gap = means["student"] - means["teacher"]
    print(f"\nDifference {gap:+.3f} {interval(ends_of(difference), '+')}")
    return {
        "tags": tags,
        **rows,
        "difference": gap,
        "interval": ends_of(difference),
    }


def test_clips(corpus: Path) -> tuple[list[dict], list[str]]:
    """Returns path and labels of the clips in directories d-f, and their artists."""
    clips, artists = [], []
    with open(corpus / "annotations_final.csv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    with open(corpus / "clip_info_final.csv", newline="") as file:
        facts = {row["clip_id"]: row for row in csv.DictReader(file, delimiter="\t")}
    for row in rows:
        if row["mp3_path"][0] not in "def":
            continue
        path = str(corpus / "mp3" / row["mp3_path"])
        labels = {
            name: int(value)
            for name, value in row.items()
            if name not in ("clip_id", "mp3_path")
        }
        about = facts[row["clip_id"]]
        clips.append({"path": path, "labels": labels})
        artists.append(about.get("group") or about["artist"])
    return clips, artists


def fit(args: argparse.Namespace, work: Path) -> dict:
    """Fits the corpus' tags on embeddings of the student and of other models."""
    options = SimpleNamespace(data_dir=args.corpus, num_seeds=3, left_out="")
    music = transfer_benchmark.Music(options, work)
    rows = {}
    for base in [*args.bases.split(","), args.student]:
        several = music.representations([base])[""]
        rows[f"fit, {Path(base).name}"] = music.mean_of(several)
    print(f"\n{transfer_benchmark.table('test clips', rows)}")
    return rows


def similar(args: argparse.Namespace) -> dict:
    """Compares the neighbours of the corpus' clips by embeddings of each model."""
    corpus, rows = Path(args.corpus), {}
    with open(corpus / "clip_info_final.csv", newline="") as file:
        clips = list(csv.DictReader(file, delimiter="\t"))
    paths = [corpus / "mp3" / clip["mp3_path"] for clip in clips]
    recordings = np.array([clip["source_file"] for clip in clips])
    artists = np.array([clip["artist"] for clip in clips])
    is_other = recordings[:, None] != recordings
    # The student has heard the clips of train and val.
    is_asked = np.array([clip["mp3_path"][0] in "def" for clip in clips])
    is_asked &= artists != ""
    print("\n| nearest clip | same artist | pairs above .98 |\n|---|---|---|")
    for base in [*args.bases.split(","), args.student]:
        embeddings = Embedder.from_pretrained(base).transform(paths)
        centred = embeddings - embeddings.mean(axis=0)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        cosines = np.where(is_other, unit @ unit.T, -1)
        nearest = cosines.argmax(axis=1)
        share = float((artists[nearest] == artists)[is_asked].mean())
        num_same = int(np.triu(cosines >= SAME_COSINE, 1).sum())
        rows[Path(base).name] = {"same artist": share, "pairs": num_same}
        print(f"| {Path(base).name} | {share:.3f} | {num_same} |")
    return rows


# --- Cost -----------------------------------------------------------------------------


def networks(args: argparse.Namespace, work: Path) -> dict:
    """Measures the networks that were considered, and two trained ones."""
    built = {
        ", ".join([name, *(f"{key} {one}" for key, one in options.items())]): (
            models.build_model(name, num_tags=92, **options)
        )
        for name, options in CONSIDERED
    }
    for name in ("musicnn_mtt", args.student):
        built[f"trained: {Path(name).name}"] = pretrained.load(name)
    rows = {}
    print("\n| network | weights | CPU ms per segment |\n|---|---|---|")
    for label, model in built.items():
        path = export.export(model, work / "network.onnx", "onnx", force=True)
        rows[label] = {"weights": model.count_params(), "CPU ms": cpu_ms(path)}
        taken = f"{rows[label]['weights']:,} | {rows[label]['CPU ms']:.1f}"
        print(f"| {label} | {taken} |", flush=True)
    return rows


def cpu_ms(path: Path, batch_size: int = 16) -> float:
    """Returns the CPU milliseconds of one thread for a segment, the least of ten."""
    engine = OnnxEngine(path, num_threads=1)
    num_samples = engine.info.segmentation.num_samples
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (batch_size, num_samples))
    segments, taken = noise.astype(np.float32), []
    for _ in range(11):  # the first prepares
        start = time.process_time()
        engine.run(segments)
        taken.append(1000 * (time.process_time() - start) / batch_size)
    return min(taken[1:])


if __name__ == "__main__":
    main()
