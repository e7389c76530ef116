"""Who is tagged with what: one file per dataset, its facts on top."""

from tagger.datasets import magnatagatune

# name -> function(data_dir, ...) -> Annotations
DATASETS = {"magnatagatune": magnatagatune.load_annotations}
# name -> the command that makes its shards
BUILD_COMMANDS = {"magnatagatune": "python build_mtt.py"}
