"""What commands and options were called before, and are called now: for version 0.1."""

COMMANDS = {
    "augment": "The gallery of the documentation shows what --augment does.",
    "average": "It is called tagger models average now.",
    "card": "It is called tagger models share MODEL hf://USER/NAME --dry-run now.",
    "convert": "It is called tagger models convert now.",
    "demo": "It is called tagger build demo now.",
    "export": "It is called tagger models export now.",
    "tagger models": "To describe a model: tagger models show NAME.",
    "pretrained": "tagger models list names them, tagger models fetch NAME downloads.",
    "share": "It is called tagger models share now.",
}

_SAME = "The same command continues what it began."
_NAMES = "tagger models convert --tag-file names the tags of a model for good."

# (Function of the command; "" for all, flag) -> sentence.
OPTIONS = {
    ("tag", "--taggram"): "It is called --plot now.",
    ("tag", "--resume"): _SAME,
    ("tag", "--data-dir"): _NAMES,
    ("explain", "--data-dir"): _NAMES,
    ("serve", "--data-dir"): _NAMES,
    ("scan", "--force"): "It is called --prune folders now.",
    ("write", "--map"): "It is called --fields now.",
    ("write", "--show-map"): "It is called --show-fields now.",
    ("write", "--dry-run"): "Nothing is written without --yes.",
    ("find", "--rate"): "It is called --share now.",
    ("write", "--rate"): "It is called --share now.",
    ("thresholds", "--rate"): "It is called --share now.",
    ("thresholds", "--from-music"): "Give the folders after the model.",
    ("fit", "--tags"): "It is called --tag-file now.",
    ("build_csv", "--tags"): "It is called --tag-file now.",
    ("convert", "--tags"): "It is called --tag-file now.",
    ("convert", "--model"): "It is called --architecture now.",
    ("train", "--model"): "It is called --architecture now.",
    ("build_mtt", "--split"): "The splits are those of --variant.",
    ("build_msd", "--split"): "It is called --split-rule now.",
    ("build_jamendo", "--split"): "It is called --split-number now.",
    ("evaluate", "--map"): "It is called --rename now.",
    ("evaluate", "--csv"): "It is called --output FILE.csv now.",
    ("evaluate", "--compare"): "It is called --published now.",
    ("excitations", "--plot-dir"): "It is called --plots now.",
    ("", "--output-dir"): "It is called --output now.",
    ("", "--set"): "Give the option itself, such as --num-filters 64.",
}
