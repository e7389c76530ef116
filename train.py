"""Trains a tagger in stages of falling learning rate; run again, it goes on."""

import argparse
import dataclasses

from tagger import cli
from tagger.training.recipes import MONITORS, PRECISIONS, STRATEGIES


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; a model's or recipe's option is there only if it was given."""
    parser = argparse.ArgumentParser(
        description=__doc__, argument_default=argparse.SUPPRESS
    )
    add, count = parser.add_argument, cli.at_least_one
    add("--data-dir", default="./dataset", help="folder of the shards, or its parent")
    add("--train-dir", default="./log", help="for checkpoints and event logs")
    add("--model", default="sample_cnn", help="default: sample_cnn; all: tagger models")
    add("--initial-stage", type=int, default=0, help="stage to start with")
    add("--num-audios-per-shard", type=count, default=None, help="must be as built")
    add("--num-segments-per-audio", type=count, default=None, help="must be as built")
    add("--verify", action="store_true", default=False, help="check all shards first")
    add("--num-read-threads", type=count, default=8, help="shards read at once")
    add("--seed", type=int, default=0, help="of weights, dropout, noise and order")
    add(
        "--checkpoint-minutes",
        type=float,
        default=10.0,
        metavar="X",
        help="a run that is killed loses no more work than these (default: 10)",
    )

    group = parser.add_argument_group("noisy student", "learns a teacher's scores too")
    add = group.add_argument
    add("--teacher", metavar="MODEL", help="model whose scores unlabelled music gets")
    add("--unlabelled", metavar="DIR", help="shards with a student split")
    student = cli.OptionGroup(group)
    student.add("--student", choices=["expansion", "distillation"])
    student.add("--labelled-loss", choices=["bce", "skeptical"])
    student.add(
        "--labelled-share", type=float, metavar="X", help="of a batch (default: 0.5)"
    )
    student.add("--cache-scores", action="store_true", help="the teacher scores once")
    student.add("--rounds", type=count, help="students, each the next one's teacher")

    group = parser.add_argument_group("devices")
    add = group.add_argument
    add("--strategy", choices=STRATEGIES, help="default: none, the first device")
    add("--hosts", metavar="A:P,B:P", help="multiworker: address:port of every machine")
    add(
        "--host",
        type=int,
        metavar="N",
        help="multiworker: this machine's place, from 0",
    )

    group = parser.add_argument_group(
        "model", "each model has some; defaults: python -m tagger models NAME"
    )
    model = cli.OptionGroup(group)
    model.add("--block", choices=["se", "rese", "res", "basic"], help="sample_cnn's")
    model.add(
        "--no-multi", dest="multi", action="store_false", help="no level aggregation"
    )
    model.add("--alpha", type=float, help="amplifying ratio of SE blocks")
    model.add("--num-filters", type=count, help="width of the convolutions")
    model.add("--dropout", dest="dropout_rate", type=float, help="where: models NAME")
    model.add("--weight-decay", type=float, help="L2 on the kernels")
    model.add("--front-end", choices=["pons", "lee"], help="self_attention's")
    model.add("--back-end", choices=["attention", "cnn"], help="self_attention's")
    model.add("--size", choices=["teacher", "student"], help="the Transformer's")
    model.add("--channels", type=count, help="of the encoder")
    model.add("--num-layers", type=count, help="of the encoder")
    model.add("--num-heads", type=count, help="of the attention")
    model.add("--dense-units", type=count, help="of the layer before the last")

    group = parser.add_argument_group("recipe", "defaults: those of the model's recipe")
    recipe = cli.OptionGroup(group)
    recipe.add("--batch-size", type=count)
    recipe.add(
        "--crops-per-clip", type=int, help="random ones an epoch sees; 0: all segments"
    )
    recipe.add("--lr", dest="learning_rate", type=float, help="of stage 0")
    recipe.add("--max-epochs", type=count, help="most epochs of a stage")
    recipe.add("--patience", type=count, help="epochs without gain that end a stage")
    recipe.add("--momentum", type=float, help="resemul's Nesterov momentum")
    recipe.add("--lr-decay", type=float, help="resemul's factor per stage")
    recipe.add(
        "--num-lr-decays", dest="num_stages", type=count, help="resemul's stages"
    )
    group = parser.add_argument_group("for every recipe")
    common = cli.OptionGroup(group)
    common.add(
        "--monitor",
        choices=MONITORS,
        help="what chooses the best epoch; default: as published",
    )
    common.add("--augment", action="store_true", help="noise the segments")
    common.add("--precision", choices=PRECISIONS, help="default: float32")
    common.add("--xla", action="store_true", help="compile; JAX always does")
    common.add("--clip-norm", type=float, metavar="X", help="of the whole gradient")
    common.add(
        "--accumulation-steps", type=count, metavar="N", help="batches to a step"
    )
    args = parser.parse_args(argv)
    if hasattr(args, "teacher") != hasattr(args, "unlabelled"):
        parser.error("--teacher and --unlabelled come together")
    args.model_options, args.recipe_options, args.common_options = model, recipe, common
    args.student_options = student
    return args


def main() -> None:
    """Parses, calls, prints."""
    args = parse()
    if getattr(args, "strategy", "none") == "multiworker":
        cli.supervise()
    cli.load_tensorflow()
    from tagger import models
    from tagger.data import pipeline
    from tagger.training import distribution, noisy_student, trainer

    found = distribution.choose(**cli.arguments_of(distribution.choose, args))
    entry = models.entry(args.model)
    factory, recipe = entry.factory, trainer.RECIPES[entry.recipe]
    options = args.model_options.for_function(factory, args, f"model {args.model}")
    recipe = recipe(
        **args.recipe_options.for_function(recipe, args, f"recipe {entry.recipe}")
    )
    common = args.common_options.for_function(trainer.TrainingRecipe, args, "training")
    recipe = dataclasses.replace(recipe, **common)
    shards = pipeline.open_shards(args.data_dir, args.verify)
    shards.check_counts(args.num_audios_per_shard, args.num_segments_per_audio)
    run = cli.arguments_of(trainer.train, args) | {"devices": found}
    run |= {"options": options, "recipe": recipe}
    if not hasattr(args, "teacher"):
        args.student_options.for_function(
            trainer.train, args, "training without a --teacher"
        )
        best = trainer.train(args.model, objective=shards, **run)
    else:
        unlabelled = pipeline.open_shards(args.unlabelled, args.verify)
        run |= args.student_options.for_function(
            noisy_student.train, args, "the student"
        )
        best = noisy_student.train(
            args.model,
            shards=shards,
            unlabelled=unlabelled,
            teacher=args.teacher,
            **run,
        )
    print(f"Best model: {best}")


if __name__ == "__main__":
    cli.run(main, "Run the same command to go on.")
