"""The commands tag, embed and explain: audio files -> tags, embeddings, pictures."""

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from tqdm import tqdm

from tagger import inference, interpretation, listing, storage, weights
from tagger.cli.kinds import (
    Count,
    FigureOutput,
    Force,
    Model,
    Output,
    Seconds,
    Streaming,
    check_output,
)
from tagger.inference import selection, streaming, writers
from tagger.inference.engines import KerasEngine, Precision
from tagger.inference.tagger import Aggregate, Tagger
from tagger.models.metadata import DEFAULT_MODEL, PENULTIMATE, ModelInfo
from tagger.options import Option
from tagger.text import TaggerError, printable

REACHED = "✓"
OWN = "model"  # --threshold model
Files = Annotated[list[str], Option(metavar="FILE")]


def list_files(names: list[str]) -> list[str]:
    """Returns the audio files given by name, by folder or on standard input."""
    listed = []
    for name in names:
        listed += _paths_in(sys.stdin) if name == "-" else [name]
    return listing.list_audio(listed)


def _paths_in(lines: Iterable[str]) -> list[str]:
    paths = (line.strip() for line in lines)
    listed = [path for path in paths if path and not path.startswith("#")]
    if any("\0" in path for path in listed):
        raise TaggerError(
            "The list of files holds a zero byte. Give one path per line."
        )
    return listed


def reading(streaming: streaming.StreamOptions, precision: str) -> dict[str, str | int]:
    """Returns the options of a model's engine that change results, if they are set."""
    given = {"excerpts": streaming.num_excerpts}
    if precision != "float32":
        given["precision"] = precision
    return {name: value for name, value in given.items() if value}


def load_tagger(model: str) -> Tagger:
    """Returns the Tagger of a model in Keras, for what looks into the layers."""
    storage.load_tensorflow()
    engine = KerasEngine(weights.load(model))
    engine.source = model
    return Tagger(engine)


# --- tag ------------------------------------------------------------------------------


def threshold_of(text: str) -> float | str:
    """Checks a threshold: a number from 0 to 1, or "model"."""
    if text == OWN:
        return text
    with contextlib.suppress(ValueError):
        if 0 <= (number := float(text)) <= 1:
            return number
    raise TaggerError(f"{text!r} is neither a number from 0 to 1 nor {OWN!r}.")


def results_path(text: str) -> str:
    """Checks where results go: a file, or a folder of JAMS files."""
    if text.endswith((".jsonl", ".json", ".csv")):
        check_output(text, (".jsonl", ".json", ".csv"))
    elif not text.endswith("/") and not os.path.isdir(text):
        raise TaggerError(
            f"{text!r} must end in .jsonl or .csv, or in / for a folder of JAMS files."
        )
    return text


def tag(
    files: Files,
    *,
    model: Model = DEFAULT_MODEL,
    top: Count = 10,
    threshold: Annotated[
        str | None,
        Option(metavar="X|model", check="tagger.cli.songs:threshold_of"),
    ] = None,
    hop: Seconds | None = None,
    aggregate: Aggregate = "mean",
    plot: FigureOutput | None = None,
    json: bool = False,
    output: Annotated[
        str | None,
        Option(
            metavar="FILE|DIR/",
            check="tagger.cli.songs:results_path",
            writes=True,
            continues=True,
        ),
    ] = None,
    precision: Precision = "float32",
    streaming: Streaming,
    force: Force = False,
) -> int:
    """Tags audio files.

    With --output, the same command continues an interrupted run, and adds new files.

    Args:
        files: Audio files of any length and format, folders of them, or - for a list on
            standard input (one path per line; # starts a comment).
        top: Number of tags to print per file.
        threshold: Keep only tags that score X or more; "model": that reach the model's
            own threshold.
        aggregate: How to combine the scores of a file's segments.
        plot: Plot the scores over time, of one file.
        json: Print one line of JSON per file, with all tags (or those of --threshold).
        output: Also write JSON Lines (.jsonl), a table (.csv), or one JAMS file per
            audio file (DIR/).
        force: Replace what --output and --plot hold.

    Returns:
        Exit code: 2 if a file cannot be decoded.
    """
    paths = list_files(files)
    if plot and len(paths) != 1:
        raise TaggerError(
            f"--plot shows exactly one file, but {len(paths)} were given."
        )
    if plot and streaming.num_excerpts:
        raise TaggerError("--plot shows whole files. Omit --excerpts.")
    with writers.lock(output) if output else contextlib.nullcontext():
        tagger = Tagger(selection.open_engine(model, precision))
        thresholds = results = None
        if threshold is not None:
            thresholds = tagger.thresholds(None if threshold == OWN else threshold)
        if output:
            settings = {"hop": hop, "aggregate": aggregate, "threshold": threshold}
            settings |= reading(streaming, precision)
            source = writers.ResultSource(model, tagger.tags, settings)
            results = writers.open_results(output, source, force)
            paths = [path for path in paths if not results.has(path)]
            results.check_targets(paths)
            if plot and not paths:
                raise TaggerError(
                    f"{output} already holds the tags of this file, so there is nothing"
                    " to plot. Omit --output, or add --force."
                )
            if not paths:
                print(f"{output} already holds the tags of all files.", file=sys.stderr)
        held = tagger.thresholds() if tagger.info.thresholds else {}
        has_error = False
        with (
            contextlib.closing(results) if results else contextlib.nullcontext(),
            inference.streaming.progress(len(paths), "Tagging") as bar,
        ):
            for found in tagger.taggrams(paths, hop, bar, streaming):
                result = tagger.described(found, aggregate, thresholds)
                result["model"] = model
                has_error |= found.error is not None
                if results:
                    results.write(result)
                line = writers.as_line(result) if json else None
                tqdm.write(line or _table(result, top, held))
                if plot and found.value:
                    _draw(tagger, found.value, found.path, aggregate, top, plot)
    if sys.stdout.isatty() and not json:
        print(_legend(tagger.info), file=sys.stderr)
    return 2 if has_error else 0


def _draw(
    tagger: Tagger, taggram, path: str, aggregate: str, top: int, plot: str
) -> None:
    """Plots the scores of a file over time."""
    from tagger import plotting

    # The tags of the printed table, and also those below the threshold.
    tags = list(tagger.named(taggram.aggregated(aggregate)))[:top]
    figure = interpretation.figures.plot_taggram(
        taggram.scores[:, tagger.tag_numbers(tags)],
        tags,
        taggram.seconds,
        taggram.segment_seconds,
        f"{os.path.basename(path)}: taggram",
    )
    plotting.save(figure, plot)


def _legend(info: ModelInfo) -> str:
    """Returns what the printed scores mean."""
    if info.thresholds:
        return f"{REACHED} The score reaches the tag's threshold in the model."
    return (
        "Scores rank tags; they are not probabilities. For thresholds from music of"
        " your own: tagger thresholds MODEL FOLDER --output FILE.onnx."
    )


def _table(row: dict, top: int, thresholds: dict[str, float]) -> str:
    """Returns a file's highest scores as text; a mark means: reaches the threshold."""
    path = printable(row["path"])
    if "error" in row:
        return f"{path}\n  {printable(row['error'])}"
    rows = list(row["tags"].items())[:top]
    width = max((len(printable(tag)) for tag, _ in rows), default=0)
    lines = [path]
    for tag, score in rows:
        line = f"  {printable(tag):{width}}  {score:.3f}"
        if tag in thresholds:
            line += f"  {REACHED if score >= thresholds[tag] else ' '}"
        lines.append(f"{line}  {'█' * round(20 * score)}".rstrip())
    return "\n".join(lines)


# --- embed ----------------------------------------------------------------------------


def embed(
    files: Files,
    *,
    output: Annotated[
        str, Option(endings=(".npy", ".parquet"), writes=True, continues=True)
    ],
    model: Model = DEFAULT_MODEL,
    layer: str = PENULTIMATE,
    precision: Precision = "float32",
    streaming: Streaming,
) -> int:
    """Computes embeddings of audio files.

    The same command adds what the file does not hold yet.

    Args:
        files: Audio files of any length and format, folders of them, or - for a list on
            standard input (one path per line; # starts a comment).
        output: File to write: .npy, with a .npy.json beside it, or .parquet.
        layer: Layer whose output is the embedding; penultimate is the input of the last
            layer.

    Returns:
        Exit code: 2 if a file cannot be decoded.
    """
    paths = list_files(files)
    about = {"model": model, "layer": layer, **reading(streaming, precision)}
    with storage.file_lock(output, "`output=`"):
        held = inference.embedding_files.EmbeddingFile(about)
        if os.path.exists(output):
            held = inference.embedding_files.EmbeddingFile.load(output)
            if held.about != about:
                raise TaggerError(
                    f"{output} holds embeddings with {held.about}, not {about}. Give"
                    " the same options, or another --output."
                )
        engine = selection.open_engine(model, precision, layer)
        number, embedder = len(held.rows), inference.embeddings.Embedder(engine)
        failed = False
        try:
            for one in held.extend(embedder, paths, streaming):
                failed, text = True, printable(str(one.error))
                print(f"{printable(one.path)}\n  {text}", file=sys.stderr)
        finally:  # an interruption loses nothing
            if len(held.rows) > number:
                held.save(output)
    count = f"{len(held.rows):,} embedding{'s' * (len(held.rows) != 1)}"
    print(f"{printable(output)}: {count}")
    return 2 if failed else 0


# --- explain --------------------------------------------------------------------------


def explain(
    file: str,
    *,
    model: Model = DEFAULT_MODEL,
    tags: tuple[str, ...] | None = None,
    second_file: Annotated[str | None, Option(metavar="FILE")] = None,
    start: Annotated[float | None, Option(ge=0)] = None,
    hop: Seconds | None = None,
    output: Output = "explained",
    force: Force = False,
) -> None:
    """Explains why a file gets its tags: pictures, sounds and one page.

    Args:
        file: Audio file of any length and format.
        tags: Tags to explain, separated by commas; quote a tag that contains a comma;
            None: the 3 highest.
        second_file: Second clip, shown next to the first; for models with attention.
        start: Start of the segment to explain in seconds; None: where the tags score
            highest.
        output: Folder to write to.
    """
    storage.load_tensorflow()
    with storage.writer_lock(Path(output), "`output=`"):
        page, *files = interpretation.report.explain(
            load_tagger(model), file, output, tags, second_file, start, hop
        )
    print(*files, f"open {page}", sep="\n")
