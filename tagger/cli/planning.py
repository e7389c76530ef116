"""What a command line of train asks for, before it is run; needs no TensorFlow.

The options of a model are the arguments of its factory, those of a recipe its fields
and those of its stages: `options_of_model`, `options_of_recipe` and
`options_of_teacher` return those that go with what was given so far.
"""

import dataclasses
from pathlib import Path

from tagger import options, training
from tagger.models import registry
from tagger.options import Signature
from tagger.text import TaggerError, suggest_names
from tagger.training import recipes
from tagger.training.recipes import RECIPES, TrainingRecipe

DEFAULT = "sample_cnn"
# The names of the original train.py (Kim, Lee and Nam 2018), and one of ours.
FLAGS = {
    "learning_rate": "--lr",
    "num_stages": "--num-lr-decays",
    "dropout_rate": "--dropout",
    "backbone_rate": "--backbone-learning-rate",
}
FINE_TUNING = ("freeze", "backbone_rate")
# What the fields of a stage mean for a whole recipe, see `recipes.override`.
OF_FIRST_STAGE = {
    "learning_rate": "Learning rate of stage 0; the others keep their proportion to it",
    "max_epochs": "Maximum number of epochs of stage 0; the others keep their"
    " proportion to it",
}


def architecture(text: str) -> str:
    """Checks the name of a model to train."""
    known = [*registry.MODELS, *registry.ARCHITECTURES]
    if ":" in text:
        registry.entry(text)
    elif text not in known:
        raise TaggerError(f"there is no model {text!r}. {suggest_names(text, known)}")
    return text


def own_architecture(text: str) -> str:
    """Checks the name of one of our models."""
    if text not in registry.MODELS:
        hint = suggest_names(text, registry.MODELS)
        raise TaggerError(f"there is no architecture {text!r}. {hint}")
    return text


def recipe(text: str) -> str:
    """Checks the name of a recipe."""
    if text not in RECIPES:
        raise TaggerError(
            f"There is no recipe {text!r}. {suggest_names(text, RECIPES)}"
        )
    return text


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a command line asks for, as far as it decides which other options exist.

    Attributes:
        given: Arguments of `train`, with those that --config adds.
        held: The run.json of --config; empty without it.
        model: Model to train.
        options: Its options, as far as its name or --config implies them.
        recipe_name: Name of the recipe.
        recipe: The recipe, before any option changes it.
    """

    given: dict
    held: dict
    model: str
    options: dict
    recipe_name: str
    recipe: TrainingRecipe


# What run.json notes of the command, for people and for --config -> argument of train.
NOTED = {
    "model": "architecture",
    "base": "from_",
    "teacher": "teacher",
    "unlabelled": "unlabelled",
    "student": "student",
    "data_dir": "data_dir",
}


def plan_of(given: dict) -> Plan:
    """Returns what the given arguments of `train` ask for.

    Raises:
        ValueError: --config names no run, or not all that the run needs.
    """
    held, implied = {}, {}
    if given.get("config"):
        path, then = Path(given["config"]), "Give the run.json of a run."
        if not path.exists():
            raise FileNotFoundError(f"There is no file {str(path)!r}. {then}")
        held = training.runs.read_description(path, then)
        given, implied = _with_config(given, held)
    name, usual = given.get("architecture", DEFAULT), None
    if name in registry.ARCHITECTURES:
        (name, settings), usual = registry.ARCHITECTURES[name], "won2019"
        implied = settings | implied
    usual = usual or registry.entry(name).recipe
    if "from_" in given:
        usual = "transfer"
    elif "teacher" in given and "unlabelled" not in given:
        usual = "distillation"
    chosen = given.get("recipe")
    found = RECIPES[chosen or usual]
    if held and not chosen:
        chosen = held.get("arguments", {}).get("recipe", usual)
        stages = tuple(recipes.Stage(**stage) for stage in held["recipe"]["stages"])
        found = TrainingRecipe(**held["recipe"] | {"stages": stages})
    return Plan(given, held, name, implied, chosen or usual, found)


def _with_config(given: dict, held: dict) -> tuple[dict, dict]:
    """Returns the arguments of a run to repeat, changed by those given, and options.

    Raises:
        ValueError: the file does not name a model that the run needs.
    """
    noted = held.get("arguments") or {"model": held["model"]["name"]}
    unwanted = set()
    if "from_" in given:
        unwanted = {"model", "options", "teacher", "unlabelled", "student"}
    elif given.get("architecture", noted.get("model")) != noted.get("model"):
        unwanted = {"base", "options"}
    taken = {
        argument: noted[name]
        for name, argument in NOTED.items()
        if name in noted and name not in unwanted
    }
    for name, argument in (
        ("from", "from_"), ("teacher", "teacher"), ("unlabelled", "unlabelled")
    ):  # fmt: skip
        known = {"from": "base"}.get(name, name)
        if name in held and known not in unwanted and argument not in taken | given:
            raise TaggerError(f"{given['config']} does not say which. Give --{name}.")
    implied = {} if "options" in unwanted else noted.get("options")
    if implied is None:  # a run of before: what differs from the defaults
        usual = registry.default_options(held["model"]["name"])
        stated = {name: held["model"].get(name, usual[name]) for name in usual}
        implied = {name: one for name, one in stated.items() if one != usual[name]}
    return taken | given, implied


def options_of_model(given: dict) -> list[Signature]:
    """Returns the options of the model to train; with --from it has its own."""
    plan = plan_of(given)
    return [] if "from_" in plan.given else [model_options(plan.model, plan.options)]


def model_options(name: str, changes: dict) -> Signature:
    """Returns the options of a model's factory, with other defaults."""
    stated = registry.options_of(name).with_defaults(changes)
    return dataclasses.replace(stated, title=f"options of {name}")


def options_of_architecture(given: dict) -> list[Signature]:
    """Returns the options of the architecture that models convert writes."""
    return [model_options(given["architecture"], {})] if "architecture" in given else []


def options_of_recipe(given: dict) -> list[Signature]:
    """Returns the options of the recipe, with its values as defaults."""
    plan = plan_of(given)
    values = recipes.settings(plan.recipe)
    if "from_" not in plan.given:
        values = {n: value for n, value in values.items() if n not in FINE_TUNING}
    known = {}
    for source in ("Stage", "override", "TrainingRecipe"):
        known |= options.read(f"tagger.training.recipes:{source}").parameters
    for name, what in OF_FIRST_STAGE.items():
        known[name] = dataclasses.replace(known[name], help=what)
    found = Signature("recipe", f"options of the recipe {plan.recipe_name}", known)
    return [found.only(values).with_defaults(values)]


def options_of_teacher(given: dict) -> list[Signature]:
    """Returns the options of learning from a teacher."""
    given = plan_of(given).given
    if "teacher" not in given:
        return []
    kind = "NoisyStudent" if "unlabelled" in given else "Distillation"
    return [options.read(f"tagger.training.tasks:{kind}").only(TEACHING[kind])]


# The tasks that learn from a teacher, and their options.
TEACHING = {
    "NoisyStudent": ("labelled_loss", "labelled_share"),
    "Distillation": ("temperature", "embedding_weight", "scores_dir"),
}


def owner_of_model(flag: str) -> str:
    """Returns the sentence that says which architectures have a flag."""
    name = {flag: name for name, flag in FLAGS.items()}.get(flag, "")
    name = name or flag.removeprefix("--").replace("-", "_")
    names = (name, name.removeprefix("no_"))
    found = [
        model
        for model in registry.MODELS
        if not registry.options_of(model).parameters.keys().isdisjoint(names)
    ]
    return f"It is an option of {', '.join(found)}; see --architecture." * bool(found)


def owner_of(flag: str) -> str:
    """Returns the sentence that says whose option a flag is."""
    name = {flag: name for name, flag in FLAGS.items()}.get(flag, "")
    name = name or flag.removeprefix("--").replace("-", "_")
    if name in FINE_TUNING:
        return "It goes with --from."
    for kind, needed in (
        ("NoisyStudent", "--teacher and --unlabelled"), ("Distillation", "--teacher")
    ):  # fmt: skip
        if name in TEACHING[kind]:
            return f"It goes with {needed}."
    if hint := owner_of_model(flag):
        return hint
    found = [one for one, recipe in RECIPES.items() if name in recipes.settings(recipe)]
    return f"It is an option of the recipe {' or '.join(found)}." if found else ""
