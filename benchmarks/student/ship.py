"""Adds an evaluated student to the package, with its ONNX graph.

    tagger thresholds student/model.keras music --share .1 \
        --output student/shipped.keras
    python benchmarks/student/ship.py student/shipped.keras --judged student.json

Writes what the student was made from, and how it was judged, into its provenance.
"""

import argparse
import json
import tempfile
import zipfile
from pathlib import Path

from tagger import models, storage
from tagger.weights import pretrained

NAME = "student"


# Settings that Keras 3.12 does not know yet; they have the values of its defaults.
LATER = {
    *("renorm", "renorm_clipping", "renorm_momentum", "quantization_config"),
    *("input_axes", "output_axes"),
}


def _leave_out_later(path: Path) -> None:
    """Rewrites a `.keras` file so that Keras 3.12 reads it."""

    def known(value):
        if isinstance(value, list):
            return [known(one) for one in value]
        if isinstance(value, dict):
            return {key: known(one) for key, one in value.items() if key not in LATER}
        return value

    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    members["config.json"] = json.dumps(known(json.loads(members["config.json"])))
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


def main() -> None:
    """Writes the file in tagger/weights/shipped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student", metavar="FILE", help=".keras, with thresholds")
    parser.add_argument(
        "--judged", required=True, help="what benchmarks/student.py wrote"
    )
    args = parser.parse_args()
    storage.load_tensorflow()
    judged = json.loads(Path(args.judged).read_text())
    agreement, num_songs = (judged["agreement"][key] for key in ("macro", "num_songs"))
    about = {
        "from": "the scores of musicnn_mtt, vgg_mtt, musicnn_msd and vgg_msd",
        "licence of the base": "ISC",
        "licence": pretrained.PRETRAINED[NAME].licence,
        "data": "25.6 hours of openly licensed music, the train split of"
        " benchmarks/student/music.csv",
        "agreement with the teacher": f"on {num_songs} songs of other packages and"
        f" persons: Spearman's rho {agreement['rho']:.3f}, ROC-AUC on its highest"
        f" tenth {agreement['roc_auc']:.3f}, means over the tags",
        "limits": "It learned from music of games: little singing, jazz or hip-hop. It"
        " has seen no labels, and repeats the mistakes of its teacher.",
    }
    path = pretrained.SHIPPED_FOLDER / f"{NAME}.keras"
    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "student.keras"
        models.export.save(models.load_model(args.student), held)
        _leave_out_later(held)
        models.files.copy_with(held, path, provenance=about)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
