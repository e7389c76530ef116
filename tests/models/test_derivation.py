"""Models made of other models."""

import numpy as np
import pytest
from narrow import narrow_options

from tagger import models
from tagger.models import derivation


def member(tags, seed, name="sample_cnn"):
    import keras

    keras.utils.set_random_seed(seed)
    options = narrow_options(name) | {"num_tags": len(tags), "tags": tags}
    return models.build_model(name, **options)


@pytest.fixture(scope="module")
def members():
    return member(("rock", "piano"), 1), member(("choir", "rock", "sad"), 2)


def test_an_average_scores_every_tag_by_all_that_know_it(members, tmp_path):
    average = models.average(members)
    waveforms = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 59049)).astype("f4")
    first, second = (model.predict_on_batch(waveforms) for model in members)
    info = models.model_info(average)
    assert info.tags == ("rock", "piano", "choir", "sad")
    expected = np.stack(
        [(first[:, 0] + second[:, 1]) / 2, first[:, 1], second[:, 0], second[:, 2]], 1
    )
    found = average.predict_on_batch(waveforms)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    models.save_model(average, tmp_path / "average.keras")
    loaded = models.load_model(tmp_path / "average.keras")
    np.testing.assert_allclose(loaded.predict_on_batch(waveforms), found, atol=1e-6)
    embeddings = [derivation.embedding_network(model) for model in members]
    np.testing.assert_allclose(
        derivation.embedding_network(loaded, "embedding").predict_on_batch(waveforms),
        np.concatenate([part.predict_on_batch(waveforms) for part in embeddings], 1),
        atol=1e-5,
    )


def test_an_average_needs_tag_names_and_members_that_are_none(members):
    options = narrow_options("sample_cnn")
    with pytest.raises(ValueError, match="sample_cnn names no tags. Give trained"):
        models.average([members[0], models.build_model("sample_cnn", **options)])
    average = models.average(members)
    with pytest.raises(ValueError, match="average is an average of models"):
        models.average([members[0], average])
    network = derivation.embedding_network(average, "embedding")
    with pytest.raises(ValueError, match="average is an average of"):
        models.with_scores(network, np.zeros((2, 1)), [0], ["x"], appended=[average])


def test_the_command_average_says_what_it_was_made_of(members, tmp_path, run_script):
    paths = [tmp_path / "a.keras", tmp_path / "b.keras"]
    for path, member, licence in zip(paths, members, ("MIT", "ISC"), strict=True):
        models.save_model(member, path)
        copy = models.load_model(path)
        models.serialization.add_provenance(copy, {"licence": licence})
        models.save_model(copy, path)
    names, output = ",".join(map(str, paths)), tmp_path / "both.keras"
    done = run_script("-m", "tagger", "average", names, "--output", output)
    assert done.stdout == f"{output}: 4 tags, 2 models\n", done.stderr
    provenance = models.metadata.read_info(output).provenance
    assert provenance["from"] == "a.keras, b.keras"
    assert provenance["licence of the base"] == "MIT, ISC"
    done = run_script("-m", "tagger", "average", paths[0], "--output", output)
    assert done.returncode == 2 and "Add --force" in done.stderr
    done = run_script(
        "-m", "tagger", "average", paths[0], "--output", output, "--force"
    )
    assert done.returncode == 2 and "two" in done.stderr
