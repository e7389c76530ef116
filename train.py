"""Trains a tagger in stages of falling learning rate; run again, it goes on."""

import argparse

from tagger import cli


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; names and defaults are those of the recipe and of the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, count = parser.add_argument, cli.at_least_one
    add("--data-dir", default="./dataset", help="folder of the shards, or its parent")
    add("--train-dir", default="./log", help="for checkpoints and event logs")
    add("--block", choices=["se", "rese", "res", "basic"], default="se")
    add("--no-multi", dest="multi", action="store_false", help="no level aggregation")
    add("--alpha", type=float, default=16, help="amplifying ratio of SE blocks")
    add("--num-filters", type=count, default=128, help="of the first layer")
    add("--dropout", dest="dropout_rate", type=float, default=0.5)
    add("--weight-decay", type=float, default=0.0, help="L2 on the convolutions")
    add("--batch-size", type=count, default=23)
    add("--momentum", type=float, default=0.9, help="Nesterov momentum of SGD")
    add("--lr", dest="learning_rate", type=float, default=0.01, help="of stage 0")
    add("--lr-decay", type=float, default=0.2, help="learning rate factor per stage")
    add("--num-lr-decays", dest="num_stages", type=count, default=5, help="stages")
    add("--patience", type=count, default=2, help="epochs without gain")
    add("--max-epochs", type=count, default=100, help="most epochs of a stage")
    add("--initial-stage", type=int, default=0, help="stage to start with")
    add("--num-audios-per-shard", type=count, help="must be the manifest's")
    add("--num-segments-per-audio", type=count, help="must be the manifest's")
    add("--num-read-threads", type=count, default=8, help="shards read at once")
    add("--seed", type=int, default=0, help="of weights, dropout and order")
    return parser.parse_args(argv)


def main() -> None:
    """Parses, calls, prints."""
    args = parse()
    cli.load_tensorflow()
    from tagger import inputs, models, training

    shards = inputs.open_shards(args.data_dir)
    shards.check_counts(args.num_audios_per_shard, args.num_segments_per_audio)
    name = "sample_cnn"
    factory, recipe = models.MODELS[name].factory, training.recipe_of(name)
    best = training.train(
        name,
        cli.arguments_of(factory, args),
        recipe(**cli.arguments_of(recipe, args)),
        shards,
        args.train_dir,
        initial_stage=args.initial_stage,
        seed=args.seed,
        num_read_threads=args.num_read_threads,
    )
    print(f"Best model: {best}")


if __name__ == "__main__":
    cli.run(main, "Run the same command to go on.")
