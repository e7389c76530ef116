"""The commands eval and excitations: run a model on a split of a dataset."""

import argparse
import dataclasses
import sys

from tagger import (
    data,
    evaluation,
    inference,
    interpretation,
    models,
    storage,
    weights,
)
from tagger.cli.arguments import (
    add_force,
    at_least_one,
    check_outputs,
    figure_file,
    model_name,
    model_output,
    not_below_zero,
    output_file,
    tag_map,
)
from tagger.storage import load_tensorflow
from tagger.text import TaggerError, printable, table_cell

MODEL_HELP = "model file (.keras, or resemul's .hdf5) or name of a pretrained model"


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", type=model_name, help=MODEL_HELP)
    add("--data-dir", default="./dataset", help="folder with the shards, or its parent")
    add(
        "--split",
        choices=["train", "val", "test"],
        default="test",
        help="split to run the model on (default: test)",
    )


def add_eval(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of eval."""
    _add_data(parser)
    parser.set_defaults(split=None)  # to tell whether it was given with --fold
    add, count = parser.add_argument, at_least_one
    add("--verify", action="store_true", help="check every checksum and record first")
    add(
        "--fold",
        type=not_below_zero,
        metavar="N",
        help="score the clips of one fold of build csv --folds, whatever their split",
    )
    add(
        "--map",
        dest="tag_map",
        type=tag_map,
        default={},
        metavar="DATA=MODEL,…",
        help="tags that data and model spell differently, such as 'rock=hard"
        " rock,metal=heavy metal'; tags with the same name are found by themselves",
    )
    add("--batch-size", type=count, help="segments per call of the model (default: 32)")
    add(
        "--json",
        nargs="?",
        const="-",
        type=output_file,
        metavar="FILE",
        help="write all results as JSON; without FILE, to standard output",
    )
    add("--csv", type=output_file, metavar="FILE", help="write a table per tag")
    add(
        "--plot",
        type=figure_file,
        metavar="FILE",
        help="plot the results per tag: .png, .svg or .pdf",
    )
    add(
        "--bootstrap",
        type=count,
        metavar="N",
        help="compute 95 %% confidence intervals from N resamples of the clips",
    )
    add(
        "--compare-with",
        type=model_name,
        metavar="MODEL2",
        help="compare with another model on the same clips, with a p-value",
    )
    add(
        "--robustness",
        type=figure_file,
        metavar="FILE",
        help="plot the results under time stretch, pitch shift, compression and noise",
    )
    add(
        "--tune-thresholds",
        type=model_output,
        metavar="FILE",
        help="write a copy, .onnx or .keras, with thresholds that maximise F1 on val",
    )
    add(
        "--compare",
        choices=["published"],
        help="show the results that others published on this dataset",
    )
    add_force(parser)


def _scorer(model: str, shards):
    """Returns the predict function of a model, and what the model says of itself."""
    if weights.path_of(model).suffix == ".onnx":
        opened = inference.selection.open_engine(model)
        info = opened.info
    else:
        opened = weights.load(model)
        info = models.model_info(opened)
    return evaluation.scoring.predictor(opened, shards), info


def evaluate(args: argparse.Namespace) -> None:
    """Scores a model on a split and prints the requested results."""
    check_outputs(args, "json", "csv", "plot", "robustness", "tune_thresholds")
    if args.fold is not None:
        for flag in ("split", "robustness", "tune_thresholds"):
            if getattr(args, flag):
                raise TaggerError(
                    f"Give --fold or --{flag.replace('_', '-')}, not both: a fold may"
                    " hold clips of every split."
                )
    args.split = args.split or "test"
    load_tensorflow()
    from tagger import plotting

    shards = data.clips.open_shards(args.data_dir, args.verify)
    predict, info = _scorer(args.model, shards)
    batch_size = args.batch_size or evaluation.scoring.BATCH_SIZE

    def score(predict, info, split):
        if args.fold is not None:
            return evaluation.scoring.evaluate_fold(
                predict, shards, info, args.fold, batch_size, args.tag_map
            )
        return evaluation.scoring.evaluate(
            predict, shards, info, split, batch_size, tag_map=args.tag_map
        )

    # Report mismatches before scoring.
    infos = [info]
    if args.compare_with:
        predict_other, other_info = _scorer(args.compare_with, shards)
        infos.append(other_info)
    evaluation.alignment.check_map(args.tag_map, infos, shards)
    if args.compare_with:
        evaluation.alignment.check_comparable(info, other_info, shards, args.tag_map)
    if args.compare:
        evaluation.published.scores_on(shards.manifest.dataset)
    if args.robustness:
        evaluation.robustness.check(shards)
    if args.tune_thresholds:
        evaluation.alignment.check_match(info, shards)
        weights.composition.check_output(args.tune_thresholds, [args.model])
    scored = score(predict, info, args.split)
    if args.tune_thresholds:
        thresholds = evaluation.metrics.best_thresholds(score(predict, info, "val"))
        weights.composition.with_thresholds(
            args.model, args.tune_thresholds, thresholds
        )
        info = dataclasses.replace(info, thresholds=tuple(thresholds))

    num_resamples = args.bootstrap or 1000
    data_title = f"{args.model} on {scored.dataset} ({scored.split_rule})"
    lines = [
        evaluation.metrics.report(scored),
        f"shards  {shards.directory}",
        f"model   {args.model}",
    ]
    if args.csv:
        with storage.replacing(args.csv) as unfinished:
            evaluation.metrics.per_tag(scored).rename(index=table_cell).to_csv(
                unfinished
            )
        lines.append(f"csv     {args.csv}")
    if args.plot:
        per_tag = evaluation.metrics.per_tag(scored).join(
            evaluation.bootstrap.intervals_per_tag(scored, num_resamples)
        )
        title = f"{data_title}\n{evaluation.metrics.macro_line(scored)}"
        plotting.save(evaluation.figures.plot_scores(per_tag, title), args.plot)
        lines.append(f"plot    {args.plot}")
    if args.tune_thresholds:
        lines.append(f"tuned   {args.tune_thresholds}")
    if args.compare:
        lines.append(evaluation.published.compare(scored, info.architecture))
    if info.thresholds:
        f1 = evaluation.metrics.macro_f1(scored, info.thresholds)
        lines.append(f"macro F1 {f1:.4f} at the thresholds in the model")
    if args.bootstrap:
        lines += evaluation.bootstrap.describe(
            evaluation.bootstrap.bootstrap(scored, num_resamples)
        )
    if args.compare_with:
        other_scored = score(predict_other, other_info, args.split)
        line = evaluation.metrics.macro_line(other_scored)
        lines.append(f"{args.compare_with}: {line}; difference:")
        pair = evaluation.bootstrap.bootstrap(scored, num_resamples, other_scored)
        lines += evaluation.bootstrap.describe(pair)
    if args.robustness:
        table = evaluation.robustness.measure(
            predict, shards, info, args.split, args.tag_map, num_resamples
        )
        clean = evaluation.bootstrap.bootstrap(scored, num_resamples)["roc_auc"]
        figure = evaluation.figures.plot_robustness(
            table, "roc_auc", dataclasses.asdict(clean), data_title
        )
        plotting.save(figure, args.robustness)
        columns = ["kind", "setting", "roc_auc", "pr_auc"]
        lines += [table[columns].to_string(index=False, float_format="{:.4f}".format)]
        lines.append(f"plot    {args.robustness}")
    if args.json == "-":
        print(evaluation.metrics.as_json(scored))
    elif args.json:
        with storage.replacing(args.json) as unfinished:
            unfinished.write_text(
                evaluation.metrics.as_json(scored) + "\n", encoding="utf-8"
            )
        lines.append(f"json    {args.json}")
    lines += [
        f"split   {scored.dataset}, {scored.split_rule}",
        evaluation.metrics.macro_line(scored),
    ]
    text = printable("\n".join(lines), keep="\n")
    print(text, file=sys.stderr if args.json == "-" else sys.stdout)


def add_excitations(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of excitations."""
    _add_data(parser)
    parser.add_argument(
        "--out",
        type=output_file,
        default="./excitations.pkl",
        help="file to write, .pkl or .parquet (default: %(default)s)",
    )
    parser.add_argument(
        "--plot-dir", metavar="DIR", help="also write the paper's figures to DIR"
    )
    add_force(parser)


def excitations(args: argparse.Namespace) -> None:
    """Writes the excitations of every clip and block, and the paper's figures."""
    check_outputs(args, "out", "plot_dir")
    load_tensorflow()
    shards = data.clips.open_shards(args.data_dir)
    model = weights.pretrained.load(args.model)
    table = interpretation.excitations(model, shards, args.split)
    interpretation.save_excitations(table, args.out)
    num_blocks = table["depth"].nunique()
    num_clips = len(table) // num_blocks
    print(f"Excitations of {num_clips} clips at {num_blocks} blocks: {args.out}")
    if args.plot_dir:
        loudness = interpretation.clip_loudness(shards, args.split)
        for path in interpretation.save_figures(table, loudness, args.plot_dir):
            print(f"plot    {path}")
