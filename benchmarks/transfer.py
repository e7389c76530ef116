"""What do pretrained models bring to little music of one's own?

    python benchmarks/transfer.py --data-dir dataset

Takes a data folder in MTT's layout: directories 0-b are train, c is val, d-f are test;
clip_info_final.csv names the artists. Compares, on the test clips: log-mel statistics,
`tagger fit` with one and with two base models, and after --train also
fine-tuning (`train.py --from`) and training from scratch. Then it fits 5, 10, 20, 50
and all positive clips per tag. Every number is the mean over the seeds, with a 95 %
interval over the test clips (seed 0). Prints Markdown, and writes transfer.json. Run
again, it reuses embeddings and finished training runs.
"""

import argparse
import csv
import functools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tagger import models, storage
from tagger.data.clips import open_shards
from tagger.evaluation import bootstrap, metrics, scoring
from tagger.evaluation.metrics import Evaluation
from tagger.fitting import baseline, heads, labelled_clips
from tagger.fitting import fit as fitting
from tagger.inference.embedding_cache import EmbeddingCache
from tagger.weights import pretrained

ROOT = Path(__file__).parent.parent
SIZES = (5, 10, 20, 50, None)  # positive clips per tag; None: all
SCRATCH = (
    "--architecture",
    "sample_cnn",
    "--num-filters",
    "16",
    "--num-lr-decays",
    "2",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", default="./dataset")
    add("--from", dest="bases", default="musicnn_mtt,musicnn_msd")
    add(
        "--left-out", default="", help="tags to leave out of the means, comma-separated"
    )
    add("--num-seeds", type=int, default=3)
    add("--train", action="store_true", help="also fine-tune and train from scratch")
    add("--max-epochs", type=int, default=20, help="of each stage of --train")
    add("--work-dir", default="transfer", help="for the csv, shards and checkpoints")
    add("--output", default="transfer.json")
    args = parser.parse_args()
    storage.tensorflow()
    work = Path(args.work_dir)
    work.mkdir(parents=True, exist_ok=True)
    music = Music(args, work)
    first, *others = args.bases.split(",")
    rows = {}
    for name, several in music.representations([first], has_baselines=True).items():
        rows[name or f"fit, {first}"] = music.mean_of(several)
    for base in others:
        rows[f"fit, {base}"] = music.mean_of(music.representations([base])[""])
    if others:
        joined = music.representations([first, *others])[""]
        rows[f"fit, {' and '.join([first, *others])}"] = music.mean_of(joined)
    if args.train:
        info = models.files.read_info(pretrained.path_of(first))
        shards = music.shards(info.sample_rate)
        rows[f"train.py --from {first}"] = music.trained(
            "fine-tuned", shards, ("--from", first), args
        )
        rows["train.py, sample_cnn of 16 filters, from scratch"] = music.trained(
            "scratch", music.shards(22050), SCRATCH, args
        )
    print(table("test clips", rows))
    curve = {}
    for size in SIZES:
        label = "all" if size is None else f"at most {size}"
        curve[label] = music.mean_of(music.representations([first])[""], size=size)
    print(table(f"positive clips per tag, {first}", curve))
    content = {"arguments": vars(args), "rows": rows, "curve": curve}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")


class Music:
    """The labelled clips, train and test, and their embeddings."""

    def __init__(self, args: argparse.Namespace, work: Path):
        self.work, self.num_seeds = work, args.num_seeds
        self.csv_path = write_csv(Path(args.data_dir), work / "tracks.csv")
        self.cache = EmbeddingCache()
        self.left_out = set(filter(None, args.left_out.split(",")))
        self.train = labelled_clips.read_clips(self.csv_path)
        # The same csv with the test clips in the place of the train clips.
        text = self.csv_path.read_text(encoding="utf-8").splitlines()
        held_out = [line for line in text[1:] if line.endswith(",test")]
        path = work / "test.csv"
        lines = [text[0], *(line[: -len("test")] + "train" for line in held_out)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.test = labelled_clips.read_clips(path, tags=self.train.tags)
        self._held = {}

    def representations(self, bases: list[str], has_baselines=False) -> dict:
        """Returns name -> backbones, embedded: "" and the baselines."""
        if tuple(bases) not in self._held:
            info = models.files.read_info(pretrained.path_of(bases[0]))
            found = {"": [fitting.backbone_of(base) for base in bases]}
            if has_baselines:
                found[baseline.NAME] = [baseline.backbone(info)]
            every = [one for several in found.values() for one in several]
            embed = functools.partial(labelled_clips.embed, report=[])
            self.train = embed(self.train, self.cache, every, info, 0)
            self.test = embed(self.test, self.cache, every, info, 0)
            self._held[tuple(bases)] = found
        return self._held[tuple(bases)]

    def mean_of(self, backbones: list, size=None) -> dict:
        """Fits heads for every seed, and returns the mean of their test scores."""
        results, seconds = [], []
        test = self.test.examples(self.cache, backbones)
        for seed in range(self.num_seeds):
            start = time.perf_counter()
            clips = chosen(self.train, size, seed)
            clips = labelled_clips.learnable(clips, 1, [])
            head = heads.fit(clips.examples(self.cache, backbones))
            seconds.append(time.perf_counter() - start)
            columns = [self.test.tags.index(tag) for tag in clips.tags]
            results.append(
                self.evaluation(clips.tags, test.labels[:, columns], test.scores(head))
            )
        return summary(results, seconds)

    def evaluation(self, tags, labels, scores) -> Evaluation:
        kept = [
            number
            for number, tag in enumerate(tags)
            if tag not in self.left_out and labels[:, number].any()
        ]
        return Evaluation(
            *("csv", "test", "directories d-f"),
            tuple(tags[number] for number in kept),
            np.arange(len(labels)).astype(str),
            labels[:, kept],
            scores[:, kept].astype(np.float32),
            0.0,
        )

    def shards(self, sample_rate: int) -> Path:
        """Builds shards with the csv's own split, unless they exist."""
        folder = self.work / f"shards{sample_rate}"
        run(
            *("-m", "tagger", "build", "csv", self.csv_path),
            *("--sample-rate", sample_rate, "--output", folder),
        )
        return folder

    def trained(self, name: str, shards: Path, options, args) -> dict:
        """Runs train.py for every seed, and returns the mean of the test scores."""
        results, seconds = [], []
        opened = open_shards(shards)
        for seed in range(self.num_seeds):
            folder = self.work / f"{name}{seed}"
            start = time.perf_counter()
            run(
                *(ROOT / "train.py", *options, "--data-dir", shards),
                *("--train-dir", folder, "--seed", seed),
                *("--max-epochs", args.max_epochs, "--crops-per-clip", 1),
            )
            seconds.append(time.perf_counter() - start)
            model = models.load_model(folder / "model.keras")
            predict = scoring.predictor(model, opened)
            scored = scoring.evaluate(predict, opened, models.model_info(model))
            results.append(self.evaluation(scored.tags, scored.labels, scored.scores))
        return summary(results, seconds)


def write_csv(data_dir: Path, path: Path) -> Path:
    """Writes the clips of a folder in MTT's layout with artist and split."""
    with open(data_dir / "annotations_final.csv", newline="") as file:
        clips = list(csv.DictReader(file, delimiter="\t"))
    with open(data_dir / "clip_info_final.csv", newline="") as file:
        facts = {row["clip_id"]: row for row in csv.DictReader(file, delimiter="\t")}
    tags = [tag for tag in clips[0] if tag not in ("clip_id", "mp3_path")]
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "tags", "artist", "split"])
        for clip in clips:
            about, first = facts[clip["clip_id"]], clip["mp3_path"][0]
            split = "train" if first <= "b" else "val" if first == "c" else "test"
            given = ";".join(tag for tag in tags if clip[tag] == "1")
            place = (data_dir / "mp3" / clip["mp3_path"]).resolve()
            rows.writerow([place, given, about.get("group") or about["artist"], split])
    return path


def chosen(clips, size: int | None, seed: int):
    """Draws clips so that every tag has at most `size` of them, rare tags first."""
    if size is None:
        return clips
    order = np.random.default_rng(seed).permutation(len(clips))
    taken, counts = np.zeros(len(clips), bool), np.zeros(len(clips.tags), int)
    for tag in np.argsort(clips.labels.sum(axis=0), kind="stable"):
        for clip in order:
            if counts[tag] >= size:
                break
            if clips.labels[clip, tag] and not taken[clip]:
                taken[clip] = True
                counts += clips.labels[clip]
    return clips.chosen(taken)


def summary(results: list[Evaluation], seconds: list[float]) -> dict:
    """Returns means over the seeds and the interval over the clips of the first."""
    macros = [metrics.macro(result) for result in results]
    ends = bootstrap.bootstrap(results[0], 1000)
    return {
        name: {
            "mean": float(np.mean([macro[name] for macro in macros])),
            "seeds": [macro[name] for macro in macros],
            "low": ends[name].low,
            "high": ends[name].high,
        }
        for name in ("roc_auc", "pr_auc")
    } | {"seconds": float(np.median(seconds)), "num_tags": len(results[0].tags)}


def table(title: str, rows: dict[str, dict]) -> str:
    lines = [
        f"| {title} | tags | ROC-AUC | PR-AUC | seconds |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [
            f"{row[auc]['mean']:.3f} ({row[auc]['low']:.3f}–{row[auc]['high']:.3f})"
            for auc in ("roc_auc", "pr_auc")
        ]
        lines.append(
            f"| {name} | {row['num_tags']} | {' | '.join(cells)} |"
            f" {row['seconds']:.0f} |"
        )
    return "\n".join([*lines, ""])


def run(*command) -> None:
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
