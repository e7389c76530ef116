"""Models made of other models."""

import numpy as np
import pytest
from narrow import narrow_options

from tagger import models
from tagger.inference.engines import KerasEngine, OnnxEngine
from tagger.models import derivation
from tagger.models.metadata import OUTPUTS
from tagger.weights import composition


def member(tags, seed, name="sample_cnn"):
    import keras

    keras.utils.set_random_seed(seed)
    options = narrow_options(name) | {"num_tags": len(tags), "tags": tags}
    return models.build_model(name, **options)


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Returns two models and their files; one of these holds a graph."""
    folder = tmp_path_factory.mktemp("members")
    loaded = member(("rock", "piano"), 1), member(("choir", "rock", "sad"), 2)
    paths = [folder / "first.keras", folder / "second.keras"]
    models.save_model(loaded[0], paths[0])
    models.export.save(loaded[1], paths[1])
    return loaded, paths


@pytest.mark.parametrize(
    "ending", ["onnx", pytest.param("keras", marks=pytest.mark.slow)]
)
def test_an_average_scores_every_tag_by_all_that_know_it(members, ending, tmp_path):
    loaded, paths = members
    waveforms = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 59049)).astype("f4")
    first, second = (model.predict_on_batch(waveforms) for model in loaded)
    path = tmp_path / f"both.{ending}"
    info = composition.average(paths, path)
    assert info.tags == ("rock", "piano", "choir", "sad") and info.name == "both"
    expected = np.stack(
        [(first[:, 0] + second[:, 1]) / 2, first[:, 1], second[:, 0], second[:, 2]], 1
    )
    embeddings = [derivation.embedding_network(model) for model in loaded]
    joined = np.concatenate([one.predict_on_batch(waveforms) for one in embeddings], 1)
    engines = [OnnxEngine(path)]
    if ending == "keras":
        engines.append(KerasEngine(models.load_model(path)))
    for engine in engines:
        assert engine.info == info
        scores, embedding = engine.run(waveforms, OUTPUTS)
        np.testing.assert_allclose(scores, expected, atol=1e-6)
        np.testing.assert_allclose(embedding, joined, atol=1e-5)


@pytest.mark.slow
def test_an_average_needs_tag_names_and_members_that_are_none(members, tmp_path):
    paths, options = members[1], narrow_options("sample_cnn")
    nameless, both = tmp_path / "nameless.keras", tmp_path / "both.onnx"
    models.save_model(models.build_model("sample_cnn", **options), nameless)
    with pytest.raises(ValueError, match="nameless.keras names no tags. Give trained"):
        composition.average([paths[1], nameless], both)
    composition.average([paths[1]] * 2, both)
    with pytest.raises(ValueError, match="both is an average of models"):
        composition.average([paths[1], both], tmp_path / "more.onnx")
    with pytest.raises(ValueError, match="holds no network for Keras, so what is made"):
        composition.average([paths[1], both], tmp_path / "more.keras")
    assert not (tmp_path / "more.onnx").exists()


@pytest.mark.parametrize("ending", ["onnx", "keras"])
def test_a_copy_with_thresholds_keeps_scores_and_digest(members, ending, tmp_path):
    path, waveforms = members[1][1], np.zeros((1, 59049), np.float32)
    copy, again = (tmp_path / f"{name}.{ending}" for name in ("copy", "again"))
    models.files.copy_with(path, copy, [0.25, 0.5, 0.75], {"thresholds": "by hand"})
    models.files.copy_with(copy, again, [0.1, 0.1, 0.1])
    info = models.files.read_info(copy)
    assert info.thresholds == (0.25, 0.5, 0.75) and info.name == "copy"
    assert info.provenance == {"network": "sample_cnn", "thresholds": "by hand"}
    assert models.files.digest(copy) == models.files.digest(again)
    expected = members[0][1].predict_on_batch(waveforms)
    engines = [OnnxEngine(copy)]
    if ending == "keras":
        engines.append(KerasEngine(models.load_model(copy)))
        assert models.files.digest(copy) == models.files.digest(path)
    for engine in engines:
        assert engine.info == info
        np.testing.assert_allclose(engine.run(waveforms)[0], expected, atol=1e-6)


def test_a_copy_holds_what_its_name_says(members, tmp_path):
    paths = members[1]
    with pytest.raises(
        ValueError, match="first.keras' holds no graph. Run tagger models exp"
    ):
        models.files.copy_with(paths[0], tmp_path / "copy.onnx")
    models.files.copy_with(paths[1], tmp_path / "copy.onnx")
    with pytest.raises(ValueError, match="no network for Keras, so the copy must end"):
        models.files.copy_with(tmp_path / "copy.onnx", tmp_path / "copy.keras")


@pytest.mark.slow
def test_the_command_average_says_what_it_was_made_of(members, tmp_path, run_script):
    paths = [tmp_path / "a.keras", tmp_path / "b.keras"]
    for path, held, licence in zip(paths, members[1], ("MIT", "ISC"), strict=True):
        models.files.copy_with(held, path, provenance={"licence": licence})
    command = ("-m", "tagger", "models", "average")
    output = tmp_path / "both.keras"
    done = run_script(*command, *paths, "--output", output)
    assert done.stdout == f"{output}: 4 tags, 2 models\n", done.stderr
    provenance = models.files.read_info(output).provenance
    assert provenance["from"] == "a.keras, b.keras"
    assert provenance["licence of the base"] == "MIT, ISC"
    done = run_script(*command, paths[0], "--output", output)
    assert done.returncode == 2 and "Add --force" in done.stderr
    done = run_script(*command, paths[0], "--output", output, "--force")
    assert done.returncode == 2 and "two" in done.stderr
