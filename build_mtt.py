"""Builds MagnaTagATune: mp3 files and annotations_final.csv -> sharded TFRecords."""

import argparse
from pathlib import Path

from tagger import cli


def main() -> None:
    """Parses, calls, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, count = parser.add_argument, cli.at_least_one
    add("--data-dir", default="./dataset", help="holds annotations_final.csv and mp3/")
    add("--output-dir", help="folder of the shards (default: DATA_DIR/tfrecord)")
    add("--sample-rate", type=count, default=22050, help="Hz")
    add("--num-samples", dest="segment_samples", type=count, default=59049)
    add("--num-audios-per-shard", type=count, default=100)
    add("--num-workers", type=count, help="default: one per core")
    add("--max-skipped", type=float, default=0.01, help="share that may be skipped")
    add("--num-tags", type=count, default=50, help="most frequent ones")
    add("--tag-order", choices=["ascending", "descending"], default="ascending")
    add("--split", choices=["directory", "random"], default="directory")
    add("--seed", type=int, default=0, help="of the random split")
    add("--merge-synonyms", action="store_true", help="merge 29 groups of synonyms")
    add(
        "--keep-untagged",
        action="store_true",
        help="keep clips without a tag",
    )
    args = parser.parse_args()

    from tagger import building, records
    from tagger.datasets import magnatagatune

    args.output_dir = args.output_dir or Path(args.data_dir) / records.SHARD_FOLDER
    args.audio_dir = Path(args.data_dir) / magnatagatune.AUDIO_FOLDER
    args.annotations = magnatagatune.load_annotations(
        **cli.arguments_of(magnatagatune.load_annotations, args)
    )
    manifest = building.build(**cli.arguments_of(building.build, args))
    print(building.summary(manifest, args.output_dir))


if __name__ == "__main__":
    cli.run(main, "Run the same command to go on.")
