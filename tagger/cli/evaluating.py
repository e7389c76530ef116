"""The commands eval and excitations: run a model on a split of a dataset."""

import dataclasses
import sys
from typing import Annotated, Literal

from tagger import (
    data,
    evaluation,
    inference,
    interpretation,
    models,
    storage,
    weights,
)
from tagger.cli.kinds import (
    Count,
    FigureOutput,
    Force,
    Index,
    Model,
    ModelOutput,
    Shards,
)
from tagger.options import Option
from tagger.text import TaggerError, printable, table_cell

Split = Literal["train", "val", "test"]


def tag_pair(text: str) -> tuple[str, str]:
    """Checks a pair of tag names, A=B."""
    name, _, other = (part.strip() for part in text.partition("="))
    if not (name and other):
        raise TaggerError(
            f"{text!r} is not a pair of tags such as 'metal=heavy metal'."
        )
    return name, other


def _scorer(model: str, shards):
    """Returns the predict function of a model, and what the model says of itself."""
    if weights.path_of(model).suffix == ".onnx":
        opened = inference.selection.open_engine(model)
        info = opened.info
    else:
        opened = weights.load(model)
        info = models.model_info(opened)
    return evaluation.scoring.predictor(opened, shards), info


def evaluate(
    model: Annotated[Model, Option(metavar="MODEL")],
    *,
    data_dir: Shards = "./dataset",
    split: Split | None = None,
    fold: Index | None = None,
    rename: Annotated[
        tuple[str, ...],
        Option(metavar="A=B,…", check="tagger.cli.evaluating:tag_pair"),
    ] = (),
    verify: bool = False,
    batch_size: Count = 32,
    json: bool = False,
    output: Annotated[
        tuple[str, ...],
        Option(metavar="FILE", endings=(".json", ".csv"), writes=True, repeats=True),
    ] = (),
    plot: FigureOutput | None = None,
    bootstrap: Count | None = None,
    compare_with: Model | None = None,
    robustness: FigureOutput | None = None,
    reliability: FigureOutput | None = None,
    tune_thresholds: ModelOutput | None = None,
    published: bool = False,
    force: Force = False,
) -> None:
    """Evaluates a model on a split: ROC-AUC and PR-AUC, macro and per tag.

    Args:
        model: Model file (.keras, .onnx, resemul's .hdf5), pretrained model (see tagger
            models list), or hf://USER/NAME.
        split: Split to run the model on; None: test.
        fold: Score the clips of one fold of build csv --folds, whatever their split.
        rename: Tags that data and model spell differently, DATA=MODEL, such as
            'rock=hard rock,metal=heavy metal'; the same names are found by themselves.
        verify: Check every checksum and record first.
        batch_size: Segments per call of the model.
        json: Print all results as JSON, and the table to standard error.
        output: Write all results (.json), or a table per tag (.csv); may be repeated.
        plot: Plot the results per tag.
        bootstrap: Compute 95 % confidence intervals from N resamples of the clips.
        compare_with: Compare with another model on the same clips, with a p-value, and
            name the tags that differ.
        robustness: Plot the results under time stretch, pitch shift, compression and
            noise.
        reliability: Plot how often clips with a score have the tag.
        tune_thresholds: Write a copy with thresholds that maximise F1 on val.
        published: Show the results that others published on this split.
    """
    if fold is not None:
        for flag, value in (
            ("--split", split),
            ("--robustness", robustness),
            ("--tune-thresholds", tune_thresholds),
        ):
            if value:
                raise TaggerError(
                    f"Give --fold or {flag}, not both: a fold may hold clips of every"
                    " split."
                )
    split, tag_map = split or "test", dict(rename)
    if published and (split != "test" or fold is not None):
        raise TaggerError(
            "--published compares scores of the test split; omit --split and --fold."
        )
    storage.load_tensorflow()
    from tagger import plotting

    shards = data.clips.open_shards(data_dir, verify)
    predict, info = _scorer(model, shards)

    def score(predict, info, split):
        if fold is not None:
            return evaluation.scoring.evaluate_fold(
                predict, shards, info, fold, batch_size, tag_map
            )
        return evaluation.scoring.evaluate(
            predict, shards, info, split, batch_size, tag_map=tag_map
        )

    # Report mismatches before scoring.
    infos = [info]
    if compare_with:
        predict_other, other_info = _scorer(compare_with, shards)
        infos.append(other_info)
    evaluation.alignment.check_map(tag_map, infos, shards)
    if compare_with:
        evaluation.alignment.check_comparable(info, other_info, shards, tag_map)
    if published:
        manifest = shards.manifest
        evaluation.published.scores_on(manifest.dataset, manifest.split_rule)
    if robustness:
        evaluation.robustness.check(shards)
    if tune_thresholds:
        evaluation.alignment.check_match(info, shards)
        weights.composition.check_output(tune_thresholds, [model])
    scored = score(predict, info, split)
    if tune_thresholds:
        thresholds = evaluation.metrics.best_thresholds(score(predict, info, "val"))
        weights.composition.with_thresholds(model, tune_thresholds, thresholds)
        info = dataclasses.replace(info, thresholds=tuple(thresholds))

    num_resamples = bootstrap or 1000
    title = f"{model} on {scored.dataset} ({scored.split_rule})"
    errors = evaluation.reliability.per_tag(scored)
    lines = [
        evaluation.metrics.report(scored),
        f"shards  {shards.directory}",
        f"model   {model}",
    ]
    for path in output:
        _write(path, scored, errors)
        lines.append(f"{path.rpartition('.')[2]:7} {path}")
    if plot:
        per_tag = evaluation.metrics.per_tag(scored).join(
            evaluation.bootstrap.intervals_per_tag(scored, num_resamples)
        )
        above = f"{title}\n{evaluation.metrics.macro_line(scored)}"
        plotting.save(evaluation.figures.plot_scores(per_tag, above), plot)
        lines.append(f"plot    {plot}")
    if reliability:
        curve = evaluation.reliability.curve(scored)
        plotting.save(evaluation.figures.plot_reliability(curve, title), reliability)
        lines.append(f"plot    {reliability}")
    if tune_thresholds:
        lines.append(f"tuned   {tune_thresholds}")
    if published:
        lines.append(evaluation.published.compare(scored, info.architecture))
    if info.thresholds:
        f1 = evaluation.metrics.macro_f1(scored, info.thresholds)
        lines.append(f"macro F1 {f1:.4f} at the thresholds in the model")
    if bootstrap:
        lines += evaluation.bootstrap.describe(
            evaluation.bootstrap.bootstrap(scored, num_resamples)
        )
    if compare_with:
        lines += _comparison(
            scored,
            compare_with,
            score(predict_other, other_info, split),
            num_resamples,
        )
    if robustness:
        table = evaluation.robustness.measure(
            predict, shards, info, split, tag_map, num_resamples
        )
        clean = evaluation.bootstrap.bootstrap(scored, num_resamples)["roc_auc"]
        figure = evaluation.figures.plot_robustness(
            table, "roc_auc", dataclasses.asdict(clean), title
        )
        plotting.save(figure, robustness)
        columns = ["kind", "setting", "roc_auc", "pr_auc"]
        lines += [table[columns].to_string(index=False, float_format="{:.4f}".format)]
        lines.append(f"plot    {robustness}")
    if json:
        print(evaluation.metrics.as_json(scored, errors))
    lines += [
        f"split   {scored.dataset}, {scored.split_rule}",
        evaluation.reliability.describe(errors),
        evaluation.metrics.macro_line(scored),
    ]
    text = printable("\n".join(lines), keep="\n")
    print(text, file=sys.stderr if json else sys.stdout)


def _write(path: str, scored, errors) -> None:
    """Writes results as JSON, or a table per tag as CSV."""
    with storage.replacing(path) as unfinished:
        if path.endswith(".csv"):
            per_tag = evaluation.metrics.per_tag(scored).join(errors)
            per_tag.rename(index=table_cell).to_csv(unfinished)
        else:
            text = evaluation.metrics.as_json(scored, errors) + "\n"
            unfinished.write_text(text, encoding="utf-8")


def _comparison(scored, name: str, other, num_resamples: int) -> list[str]:
    """Returns the lines that compare results with those of another model."""
    line = evaluation.metrics.macro_line(other)
    pair = evaluation.bootstrap.bootstrap(scored, num_resamples, other)
    # A spread needs more resamples than a quick look at the intervals.
    tags = evaluation.bootstrap.differences_per_tag(
        scored, other, max(num_resamples, 200)
    )
    return [
        *(name, line, "difference:"),
        *evaluation.bootstrap.describe(pair),
        evaluation.bootstrap.describe_tags(tags),
    ]


def excitations(
    model: Annotated[Model, Option(metavar="MODEL")],
    *,
    data_dir: Shards = "./dataset",
    split: Split = "test",
    output: Annotated[
        str,
        Option(
            flag="--output --out",  # --out is the original's
            metavar="FILE",
            endings=(".pkl", ".parquet"),
            writes=True,
        ),
    ] = "./excitations.pkl",
    plots: Annotated[str | None, Option(metavar="DIR", writes=True)] = None,
    force: Force = False,
) -> None:
    """Extracts the excitations of a model's SE blocks for every clip of a split.

    Args:
        model: Model file (.keras, or resemul's .hdf5), pretrained model, or
            hf://USER/NAME.
        split: Split to run the model on.
        output: File to write, .pkl or .parquet.
        plots: Also write the paper's figures to this folder.
    """
    storage.load_tensorflow()
    shards = data.clips.open_shards(data_dir)
    loaded = weights.pretrained.load(model)
    table = interpretation.excitations(loaded, shards, split)
    interpretation.save_excitations(table, output)
    num_blocks = table["depth"].nunique()
    num_clips = len(table) // num_blocks
    print(f"Excitations of {num_clips} clips at {num_blocks} blocks: {output}")
    if plots:
        loudness = interpretation.clip_loudness(shards, split)
        for path in interpretation.save_figures(table, loudness, plots):
            print(f"plot    {path}")
