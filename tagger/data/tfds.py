"""The two JSON files with which tensorflow-datasets reads our shards.

`tfds.builder_from_directory` needs `features.json` and `dataset_info.json`.
"""

from tagger.data.manifest import Manifest
from tagger.data.records import kinds_of


def metadata(manifest: Manifest) -> dict[str, dict]:
    """Returns file name -> content of the files of `tfds.builder_from_directory`."""

    def tensor(kind: str, shape: list[int], encoding: str) -> dict:
        dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
        return {"tensor": {"dtype": kind, "encoding": encoding, "shape": dimensions}}

    shapes = {"segments": [-1, *manifest.segment_shape], "labels": [len(manifest.tags)]}
    core = "tensorflow_datasets.core.features"
    features = {}
    for name, kind in kinds_of(manifest.segment_dtype).items():
        if kind == "text":
            features[name] = {
                "pythonClassName": f"{core}.text_feature.Text",
                "text": {},
            }
        elif kind == "integer":
            features[name] = {
                "pythonClassName": f"{core}.scalar.Scalar",
                **tensor("int64", [], "none"),
            }
        else:
            features[name] = {
                "pythonClassName": f"{core}.tensor_feature.Tensor",
                **tensor(kind, shapes[name], "bytes"),
            }
    splits = []
    for split in manifest.splits:
        if split == "student":
            continue  # TFDS expects labels in every record
        shards = [manifest.shards[name] for name in manifest.shard_names(split)]
        splits.append(
            {
                "name": split,
                "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
                "shardLengths": [str(shard.num_clips) for shard in shards],
                "numBytes": str(sum(shard.num_bytes for shard in shards)),
            }
        )
    return {
        "features.json": {
            "pythonClassName": f"{core}.features_dict.FeaturesDict",
            "featuresDict": {"features": features},
        },
        "dataset_info.json": {
            "name": manifest.dataset,
            "version": "1.0.0",
            "fileFormat": "tfrecord",
            "splits": splits,
        },
    }
