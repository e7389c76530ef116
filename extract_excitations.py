"""Extracts the excitations of a model's SE blocks for every clip of a split."""

import argparse

from tagger import cli


def main() -> None:
    """Parses, calls, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help=".keras, or a legacy .hdf5 of resemul",
    )
    add("--data-dir", default="./dataset", help="folder of the shards, or its parent")
    add("--split", choices=["train", "val", "test"], default="test")
    add(
        "--out",
        type=cli.output_file,
        default="./excitations.pkl",
        help=".pkl or .parquet",
    )
    add("--plot-dir", metavar="DIR", help="also draw the paper's figures there")
    args = parser.parse_args()

    cli.load_tensorflow()
    from tagger import interpretation
    from tagger.data import pipeline
    from tagger.weights import conversion

    shards = pipeline.open_shards(args.data_dir)
    table = interpretation.excitations(
        conversion.load_model(args.model), shards, args.split
    )
    interpretation.save_excitations(table, args.out)
    num_blocks = table["depth"].nunique()
    print(
        f"Excitations of {len(table) // num_blocks} clips at {num_blocks} blocks:"
        f" {args.out}"
    )
    if args.plot_dir:
        loudness = interpretation.clip_loudness(shards, args.split)
        for path in interpretation.save_figures(table, loudness, args.plot_dir):
            print(f"plot    {path}")


if __name__ == "__main__":
    cli.run(main)
