"""The commands fit and thresholds: a model made to measure for music of your own."""

import csv as csv_module
import itertools
import os
import sys
from typing import Annotated

import numpy as np

from tagger import fitting as work
from tagger import listing, storage, weights
from tagger.cli.kinds import (
    Count,
    Force,
    Model,
    ModelOutput,
    Share,
    Streaming,
    check_distinct,
)
from tagger.cli.library import Answers, LibraryFile, ScannedModel
from tagger.cli.process import wrapped
from tagger.datasets import csv_manifest
from tagger.datasets.annotations import read_tags
from tagger.fitting import calibration
from tagger.inference import selection
from tagger.inference.engines import Precision
from tagger.inference.streaming import progress
from tagger.inference.tagger import Tagger
from tagger.library import queries
from tagger.models.metadata import DEFAULT_MODEL
from tagger.options import Option, OptionsOf
from tagger.text import TaggerError, printable, table_cell

TableOutput = Annotated[str, Option(endings=(".csv",), writes=True)]


def fit(
    source: Annotated[str, Option(metavar="DATA")],
    *,
    output: ModelOutput | None = None,
    from_: Annotated[tuple[Model, ...], Option(metavar="MODEL,MODEL")] = (
        DEFAULT_MODEL,
    ),
    csv: TableOutput | None = None,
    tag_file: Annotated[str | None, Option(metavar="FILE")] = None,
    tag_separator: Annotated[str, Option(min_length=1)] = ";",
    suggest: Count | None = None,
    library_file: LibraryFile = None,
    model: ScannedModel = None,
    options: Annotated[dict, OptionsOf("tagger.fitting.fit:FitOptions")],
    force: Force = False,
) -> None:
    """Learns your own tags on a model that already knows music.

    With --suggest, it lists what to label next instead: DATA, and the songs of a
    library that a fitted model is least sure of.

    Args:
        source: A csv of paths and tags, a folder with one subfolder per tag, or shards;
            see tagger build csv --help.
        output: Model to write: .onnx, or .keras, which explain and train --from
            need.
        from_: Model files or pretrained models whose embeddings are used; with several,
            the new tags see all their embeddings.
        csv: Write the table per tag; with --suggest: the songs to label.
        tag_file: Use only the tags in this file, in its order (one per line, or a JSON
            list); None: all, in alphabetical order.
        tag_separator: Separator between the tags in the column tags.
        suggest: Write the N songs of the library nearest to each tag's threshold to
            --csv. Correct its column tags, and give it to fit as DATA.
    """
    if suggest:
        if output or not csv:
            raise TaggerError("--suggest writes --csv, and no --output.")
        songs = Answers(library_file=library_file, model=model).songs(False)
        print(_suggested(songs, suggest, source, csv, tag_separator))
        return
    if not output:
        raise TaggerError("Give --output, the model to write: .onnx or .keras.")
    check_distinct(from_)
    tags = read_tags(tag_file) if tag_file else None
    weights.composition.check_output(output, from_)
    with storage.file_lock(output, "`output=`"):
        chosen = work.fit.FitOptions(**options)
        found = work.fit.fit(from_, source, chosen, tags, tag_separator)
        found.save(output)
    table = found.table()
    if csv:
        with storage.replacing(csv) as unfinished:
            table.rename(index=table_cell).to_csv(unfinished)
    print(printable(_report(found, table), keep="\n"))
    print(printable(f"Model: {output}"))


def _suggested(songs, number: int, source: str, path: str, separator: str) -> str:
    """Writes the songs of `source`, and those of a library that are hard to decide."""
    known = csv_manifest.load_unsplit(source, None, None, separator)
    thresholds = queries.thresholds_of(songs)
    names = [tag for tag in known.tags if tag in songs.model.tags]
    if not names:
        raise TaggerError(
            f"{songs.model} knows none of the tags of {source}. Scan the library with a"
            " model that was fitted to them, and name it with --model."
        )
    paths = [os.path.realpath(known.audio_dir / one) for one in known.paths]
    groups = itertools.repeat("") if known.groups is None else known.groups
    rows = [
        [one, separator.join(np.array(known.tags)[labels > 0]), group, split, ""]
        for one, labels, group, split in zip(
            paths, known.labels, groups, known.splits, strict=False
        )
    ]
    labelled = set(paths)
    suggested, columns = {}, {tag: songs.model.tags.index(tag) for tag in names}
    for tag, column in columns.items():
        distance = np.abs(songs.scores[:, column] - thresholds[column])
        order = [
            row for row in np.argsort(distance) if songs.paths[row] not in labelled
        ]
        for row in order[:number]:
            said = f"{tag} {songs.scores[row, column]:.2f} of {thresholds[column]:.2f}"
            suggested.setdefault(row, []).append(said)
    for row, said in suggested.items():
        guess = [
            tag for tag, n in columns.items() if songs.scores[row, n] >= thresholds[n]
        ]
        about = songs.artists[row], "train", ", ".join(said)
        rows.append([songs.paths[row], separator.join(guess), *about])
    with (
        storage.replacing(path) as unfinished,
        open(
            unfinished, "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as file,
    ):
        table = csv_module.writer(file, lineterminator="\n")
        table.writerow(["path", "tags", "artist", "split", "unsure"])
        table.writerows(rows)
    return (
        f"{printable(path)}: {len(paths):,} songs of {printable(source)}, and"
        f" {len(suggested):,} to listen to. Correct their column tags; then: tagger fit"
        f" {printable(path)} --output MODEL."
    )


def _report(found, table) -> str:
    """Formats the notes, the table per tag and the comparison with the baseline."""

    def value(row, name):
        return "–" if row[name] != row[name] else f"{row[name]:.3f}"

    def ends(row, name):
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return "" if low != low else f"{low:.2f}–{high:.2f}"

    rows = [["tag", "clips", "ROC", "95 %", "PR", "95 %"]]
    for tag, row in table.iterrows():
        aucs = [f(row, n) for n in ("roc_auc", "pr_auc") for f in (value, ends)]
        rows.append([printable(tag), f"{int(row['clips']):,}", *aucs])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map("{:<{}}".format, row, widths)).rstrip() for row in rows]
    prose = [*found.notes, found.scored.split_rule], found.verdicts()
    notes, verdicts = ([wrapped(one) for one in several] for several in prose)
    return "\n".join([*notes, *lines, *verdicts])


def thresholds(
    model: Annotated[Model, Option(metavar="MODEL")],
    files: Annotated[list[str], Option(metavar="FOLDER")],
    *,
    output: ModelOutput,
    share: Share = 0.1,
    precision: Precision = "float32",
    streaming: Streaming,
    force: Force = False,
) -> int:
    """Derives a model's thresholds from your own music, which needs no labels.

    No threshold is below .02, or below the score that silence gets.

    Args:
        files: Your music: folders or audio files.
        output: Copy of the model with the thresholds, .onnx or .keras.
        share: Share of the files that reach the threshold of a tag.

    Returns:
        Exit code: 2 if a file cannot be decoded.
    """
    paths = listing.list_audio(files)
    weights.composition.check_output(output, [model])
    with storage.file_lock(output, "`output=`"):
        tagger = Tagger(selection.open_engine(model, precision))
        with progress(len(paths), "Scoring") as bar:
            found, failed = calibration.thresholds_at_rate(
                tagger, paths, share, bar, streaming
            )
        number = len(paths) - len(failed)
        source = (
            f"reached by {100 * share:g} % of {number:,} files of {', '.join(files)}"
        )
        about = weights.pretrained.provenance_of([model], [tagger.info])
        about["thresholds"] = source
        weights.composition.with_thresholds(model, output, found, about)
    for one in failed:
        print(f"{printable(one.path)}\n  {printable(str(one.error))}", file=sys.stderr)
    width = max(map(len, map(printable, tagger.tags)))
    for tag, threshold in zip(tagger.tags, found, strict=True):
        print(f"{printable(tag):{width}}  {threshold:.3f}")
    print(f"Model: {printable(output)}; thresholds {printable(source)}")
    return 2 if failed else 0
