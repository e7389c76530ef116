"""Evaluates a model on a split: ROC-AUC and PR-AUC, macro and per tag."""

import argparse
import sys
from pathlib import Path

from tagger import cli


def main() -> None:
    """Parses, calls, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, count = parser.add_argument, cli.at_least_one
    add("model", metavar="MODEL", help=".keras, or a legacy .hdf5 of resemul")
    add("--data-dir", default="./dataset", help="folder of the shards, or its parent")
    add("--verify", action="store_true", help="check every checksum and record first")
    add("--split", choices=["train", "val", "test"], default="test")
    add("--batch-size", type=count, help="segments per call of the model")
    add("--json", nargs="?", const="-", metavar="FILE", help="stdout without FILE")
    add("--csv", type=cli.output_file, metavar="FILE", help="the table per tag")
    add("--plot", type=cli.figure_file, metavar="FILE", help=".png, .svg or .pdf")
    add("--bootstrap", type=count, metavar="N", help="95 %% intervals of N resamples")
    add("--against", metavar="MODEL2", help="difference to it on the same clips")
    add("--robustness", type=cli.figure_file, metavar="FILE", help="plot under changes")
    add("--tune-thresholds", type=cli.keras_file, metavar="FILE", help="a .keras copy"
        " with the thresholds of best F1 on val")  # fmt: skip
    add("--compare", choices=["published"], help="with what others printed")
    args = parser.parse_args()

    cli.load_tensorflow()
    from tagger import models, plotting
    from tagger.data import pipeline
    from tagger.evaluation import robustness, scoring
    from tagger.weights import conversion

    shards = pipeline.open_shards(args.data_dir, args.verify)
    model = conversion.load_model(args.model)
    predict = scoring.predictor(model, shards)
    info = models.model_info(model)
    batch_size = args.batch_size or scoring.BATCH_SIZE

    def score(predict, info, split):
        return scoring.evaluate(predict, shards, info, split, batch_size)

    # What does not fit shows before the scoring.
    if args.against:
        other = conversion.load_model(args.against)
        scoring.check_match(models.model_info(other), shards)
    if args.compare:
        scoring.published_on(shards.manifest.dataset)
    if args.robustness:
        robustness.check(shards)
    scored = score(predict, info, args.split)
    if args.tune_thresholds:
        thresholds = scoring.best_thresholds(score(predict, info, "val"))
        models.set_thresholds(model, thresholds)
        models.save_model(model, args.tune_thresholds)
        info = models.model_info(model)

    lines = [scored.report(), f"shards  {shards.directory}", f"model   {args.model}"]
    if args.csv:
        scored.per_tag().to_csv(args.csv)
        lines.append(f"csv     {args.csv}")
    if args.plot:
        title = f"{scored.macro_line()}\n{scored.dataset}, {scored.split_rule}"
        bars = plotting.plot_scores(scored.per_tag(), title)
        plotting.save(bars, args.plot)
        lines.append(f"plot    {args.plot}")
    if args.tune_thresholds:
        lines.append(f"tuned   {args.tune_thresholds}")
    if args.compare:
        lines.append(scoring.compare_published(scored, info.name))
    if info.thresholds:
        f1 = scored.at_thresholds(info.thresholds)
        lines.append(f"macro F1 {f1:.4f} at the thresholds in the model")
    num_resamples = args.bootstrap or 1000
    if args.bootstrap:
        lines += scoring.describe(scoring.bootstrap(scored, num_resamples))
    if args.against:
        other_scored = score(
            scoring.predictor(other, shards), models.model_info(other), args.split
        )
        lines.append(f"{args.against}: {other_scored.macro_line()}; difference to it:")
        pair = scoring.bootstrap(scored, num_resamples, other_scored)
        lines += scoring.describe(pair)
    if args.robustness:
        table = robustness.measure(predict, shards, info, args.split)
        title = f"{args.model}, {scored.dataset}, {scored.split_rule}"
        macro = scored.macro()["roc_auc"]
        figure = plotting.plot_robustness(table, "roc_auc", macro, title)
        plotting.save(figure, args.robustness)
        lines += [table.to_string(index=False, float_format="{:.4f}".format)]
        lines.append(f"plot    {args.robustness}")
    if args.json == "-":
        print(scored.as_json())
    elif args.json:
        Path(args.json).write_text(scored.as_json() + "\n")
        lines.append(f"json    {args.json}")
    lines += [f"split   {scored.dataset}, {scored.split_rule}", scored.macro_line()]
    print("\n".join(lines), file=sys.stderr if args.json == "-" else sys.stdout)


if __name__ == "__main__":
    cli.run(main)
