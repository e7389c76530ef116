"""The commands fit and thresholds: a model made to measure for music of your own."""

import argparse
import dataclasses
import sys

from tagger import listing, storage, weights
from tagger.cli.arguments import (
    add_force,
    add_tag_list,
    at_least_one,
    at_least_two,
    check_outputs,
    model_name,
    model_names,
    model_output,
    not_below_zero,
    output_file,
    share,
)
from tagger.cli.tagging import add_engine, stream_options
from tagger.datasets.annotations import read_tags
from tagger.fitting import calibration
from tagger.inference import selection, streaming
from tagger.inference.tagger import Tagger
from tagger.models.metadata import DEFAULT_MODEL
from tagger.text import printable, table_cell


def add_fit(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of fit."""
    add = parser.add_argument
    add(
        "source",
        metavar="DATA",
        help="csv of paths and tags, a folder with one subfolder per tag, or shards;"
        " see tagger build csv --help",
    )
    add(
        "--from",
        dest="bases",
        type=model_names,
        default=[DEFAULT_MODEL],
        metavar="MODEL[,MODEL]",
        help="model file or pretrained model whose embeddings are used; with several,"
        f" the new tags see all their embeddings (default: {DEFAULT_MODEL})",
    )
    add(
        "--output",
        type=model_output,
        required=True,
        metavar="FILE",
        help="model to write: .onnx, or .keras, which explain, serve and train --from"
        " need",
    )
    add("--csv", type=output_file, metavar="FILE", help="write the table per tag")
    add_tag_list(add)
    add(
        "--append",
        dest="appends",
        action="store_true",
        help="keep the base model's own tags beside the new ones",
    )
    add(
        "--layer",
        default="penultimate",
        metavar="NAME",
        help="layer of the base model whose output is the embedding (default:"
        " penultimate, the input of the last layer)",
    )
    add(
        "--min-clips",
        type=at_least_one,
        default=1,
        metavar="N",
        help="leave out tags with fewer clips (default: 1)",
    )
    add(
        "--folds",
        dest="num_folds",
        type=at_least_two,
        default=5,
        metavar="K",
        help="number of folds of the cross-validation, if the data names none; no"
        " artist is in two (default: 5)",
    )
    add(
        "--leave-out-fold",
        dest="left_out_fold",
        type=not_below_zero,
        metavar="N",
        help="do not use the clips of this fold, which eval --fold N can then score",
    )
    add(
        "--max-skipped",
        type=share,
        default=0.1,
        metavar="X",
        help="maximum share of files that may be impossible to decode (default: 0.1)",
    )
    add(
        "--no-baselines",
        dest="has_baselines",
        action="store_false",
        help="do not measure log-mel statistics for comparison",
    )
    add(
        "--seed",
        type=not_below_zero,
        default=0,
        help="random seed of the folds (default: 0)",
    )
    add_force(parser)


def fit(args: argparse.Namespace) -> None:
    """Fits new tags, writes the model and prints how good it is."""
    check_outputs(args, "output", "csv")
    tags = read_tags(args.tags) if args.tags else None
    weights.composition.check_output(args.output, args.bases)
    from tagger.fitting import fit as fitting

    fields = dataclasses.fields(fitting.FitOptions)
    options = fitting.FitOptions(
        **{field.name: getattr(args, field.name) for field in fields}
    )
    with storage.file_lock(args.output, "`output=`"):
        found = fitting.fit(args.bases, args.source, options, tags, args.tag_separator)
        found.save(args.output)
    table = found.table()
    if args.csv:
        with storage.replacing(args.csv) as unfinished:
            table.rename(index=table_cell).to_csv(unfinished)
    print(printable(_report(found, table), keep="\n"))
    print(printable(f"Model: {args.output}"))


def _report(found, table) -> str:
    """Formats the notes, the table per tag and the comparison with the baselines."""

    def aucs(row, suffix=""):
        roc_auc, pr_auc = row[f"roc_auc{suffix}"], row[f"pr_auc{suffix}"]
        return "–" if roc_auc != roc_auc else f"{roc_auc:.3f} / {pr_auc:.3f}"

    def ends(row, name):
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return "" if low != low else f"{low:.2f}–{high:.2f}"

    heading = ["tag", "clips", "ROC / PR-AUC", "ROC 95 %", "PR 95 %", *found.baselines]
    rows = [heading]
    for tag, row in table.iterrows():
        rows.append(
            [
                printable(tag),
                f"{int(row['clips']):,}",
                aucs(row),
                ends(row, "roc_auc"),
                ends(row, "pr_auc"),
                *(aucs(row, f", {name}") for name in found.baselines),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map("{:<{}}".format, row, widths)).rstrip() for row in rows]
    rule = found.scored.split_rule
    return "\n".join([*found.notes, rule, *lines, *found.verdicts()])


# --- thresholds -----------------------------------------------------------------------


def add_thresholds(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of thresholds."""
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        type=model_name,
        help="model file (.onnx, .keras) or name of a pretrained model",
    )
    add(
        "--from-music",
        dest="files",
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="your music: folders or audio files; it needs no labels",
    )
    add(
        "--rate",
        type=share,
        default=0.1,
        metavar="X",
        help="share of the files that reach the threshold of a tag (default: 0.1)",
    )
    add(
        "--output",
        type=model_output,
        required=True,
        metavar="FILE",
        help="copy of the model with the thresholds, .onnx or .keras",
    )
    add_engine(parser)
    add_force(parser)


def thresholds(args: argparse.Namespace) -> int:
    """Derives thresholds from unlabelled music; returns 2 if a file failed."""
    check_outputs(args, "output")
    paths = listing.list_audio(args.files)
    weights.composition.check_output(args.output, [args.model])
    with storage.file_lock(args.output, "`output=`"):
        tagger = Tagger(selection.open_engine(args.model, args.precision))
        with streaming.progress(len(paths), "Scoring") as bar:
            found, failed = calibration.thresholds_at_rate(
                tagger, paths, args.rate, bar, stream_options(args)
            )
        number = len(paths) - len(failed)
        source = (
            f"reached by {100 * args.rate:g} % of {number:,} files of"
            f" {', '.join(args.files)}"
        )
        about = weights.pretrained.provenance_of([args.model], [tagger.info])
        about["thresholds"] = source
        weights.composition.with_thresholds(args.model, args.output, found, about)
    for one in failed:
        print(f"{printable(one.path)}\n  {printable(str(one.error))}", file=sys.stderr)
    width = max(map(len, map(printable, tagger.tags)))
    for tag, threshold in zip(tagger.tags, found, strict=True):
        print(f"{printable(tag):{width}}  {threshold:.3f}")
    print(f"Model: {printable(args.output)}; thresholds {printable(source)}")
    return 2 if failed else 0
