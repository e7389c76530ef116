"""Who is tagged with what: one file per dataset, its facts on top."""

from tagger.datasets import magnatagatune

# name -> function(data_dir, ...) -> Annotations
DATASETS = {"magnatagatune": magnatagatune.load_annotations}
