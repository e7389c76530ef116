"""Trains a tagger in stages of falling learning rate; run again, it goes on."""

import argparse

from tagger import cli


def main() -> None:
    """Parses, calls, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data-dir", default="./dataset", help="folder of the shards, or its parent")
    add("--train-dir", default="./log", help="for checkpoints and event logs")
    add("--block", choices=["se", "rese", "res", "basic"], default="se")
    add("--no-multi", action="store_true", help="no multi-level feature aggregation")
    add("--alpha", type=float, default=16, help="amplifying ratio of SE blocks")
    add(
        "--num-filters", type=int, default=128, help="channels of the first convolution"
    )
    add("--batch-size", type=int, default=23)
    add("--momentum", type=float, default=0.9, help="Nesterov momentum of SGD")
    add("--lr", type=float, default=0.01, help="learning rate of stage 0")
    add("--lr-decay", type=float, default=0.2, help="learning rate factor per stage")
    add("--dropout", type=float, default=0.5)
    add("--weight-decay", type=float, default=0.0, help="L2 on the convolutions")
    add("--initial-stage", type=int, default=0, help="stage to start with")
    add("--patience", type=int, default=2, help="epochs without gain that end a stage")
    add("--num-lr-decays", type=int, default=5, help="number of stages")
    add("--max-epochs", type=int, default=100, help="most epochs of a stage")
    add("--num-audios-per-shard", type=int, help="checked against the manifest")
    add("--num-segments-per-audio", type=int, help="checked against the manifest")
    add("--num-read-threads", type=int, default=8, help="shards read at once")
    add("--seed", type=int, default=0)
    args = parser.parse_args()

    cli.load_tensorflow()
    from tagger import inputs, training

    shards = inputs.open_shards(args.data_dir)
    shards.check_counts(args.num_audios_per_shard, args.num_segments_per_audio)
    best = training.train(
        "sample_cnn",
        dict(
            block=args.block,
            multi=not args.no_multi,
            alpha=args.alpha,
            dropout_rate=args.dropout,
            weight_decay=args.weight_decay,
            num_filters=args.num_filters,
        ),
        training.resemul(
            learning_rate=args.lr,
            lr_decay=args.lr_decay,
            num_stages=args.num_lr_decays,
            patience=args.patience,
            batch_size=args.batch_size,
            momentum=args.momentum,
            max_epochs=args.max_epochs,
        ),
        shards,
        args.train_dir,
        initial_stage=args.initial_stage,
        seed=args.seed,
        num_read_threads=args.num_read_threads,
    )
    print(f"Best model: {best}")


if __name__ == "__main__":
    cli.run(main)
