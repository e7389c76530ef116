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
    args = parser.parse_args()

    cli.load_tensorflow()
    from tagger import conversion, evaluation, inputs, models, plotting

    shards = inputs.open_shards(args.data_dir, args.verify)
    model = conversion.load_model(args.model)
    predict = evaluation.predictor(model, shards)
    info = models.model_info(model)
    batch_size = args.batch_size or evaluation.BATCH_SIZE
    scored = evaluation.evaluate(predict, shards, info, args.split, batch_size)

    lines = [scored.report(), f"shards  {shards.directory}", f"model   {args.model}"]
    if args.csv:
        scored.per_tag().to_csv(args.csv)
        lines.append(f"csv     {args.csv}")
    if args.plot:
        title = f"{scored.macro_line()}\n{scored.dataset}, {scored.split_rule}"
        bars = plotting.plot_scores(scored.per_tag(), title)
        plotting.save(bars, args.plot)
        lines.append(f"plot    {args.plot}")
    if args.json == "-":
        print(scored.as_json())
    elif args.json:
        Path(args.json).write_text(scored.as_json() + "\n")
        lines.append(f"json    {args.json}")
    lines += [f"split   {scored.dataset}, {scored.split_rule}", scored.macro_line()]
    print("\n".join(lines), file=sys.stderr if args.json == "-" else sys.stdout)


if __name__ == "__main__":
    cli.run(main)
