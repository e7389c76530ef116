"""The interface of HEAR, checked by HEAR's own validator."""

import importlib
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, run_on_backend
from narrow import narrow_model

from tagger import hear, models
from tagger.inference.embeddings import Embedder
from tagger.models.registry import MODELS

RATES = {name: MODELS[name].facts.sample_rate for name in MODELS}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("hear") / "vgg.keras"
    models.save_model(narrow_model("vgg_pons"), path)
    return hear.load_model(path)


@pytest.mark.parametrize(
    "name", [n for n, r in RATES.items() if r in hear.SAMPLE_RATES]
)
@pytest.mark.slow
def test_every_model_passes_the_validator(name, tmp_path):
    """hearvalidator is one file that declares Python < 3.9; see .ci/run."""
    validate = pytest.importorskip(
        "hearvalidator.validate", reason="hearvalidator and torch are not installed"
    )
    models.save_model(narrow_model(name), tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="IMPORTANT"):
        validate.ValidateModel("tagger.hear", str(tmp_path / "model.keras"))()


@pytest.mark.slow
def test_the_validator_passes_with_pytorch(tmp_path):
    if not importlib.util.find_spec("hearvalidator"):
        pytest.skip("hearvalidator is not installed")
    models.save_model(narrow_model("vgg_pons"), tmp_path / "model.keras")
    code = (
        "import sys; from hearvalidator import validate\n"
        "validate.ValidateModel('tagger.hear', sys.argv[1])(); print('Looks good')"
    )
    assert "Looks good" in run_on_backend("torch", code, tmp_path / "model.keras")


def test_a_rate_that_hear_lacks_is_refused(tmp_path):
    models.save_model(narrow_model("multi_scale_cnn"), tmp_path / "model.keras")
    with pytest.raises(
        ValueError, match="takes 11025 Hz, but HEAR provides only 16000"
    ):
        hear.load_model(tmp_path / "model.keras")


def test_scenes_are_what_the_embedder_returns(model):
    random = np.random.RandomState(0)
    sounds = random.uniform(-0.5, 0.5, (2, 120_000)).astype(np.float32)
    scenes = hear.get_scene_embeddings(sounds, model)
    for framework in ("tensorflow", "torch"):
        if importlib.util.find_spec(framework):
            module = importlib.import_module(framework)
            make = getattr(module, "convert_to_tensor", None) or module.from_numpy
            found = hear.get_scene_embeddings(make(sounds), model)
            assert type(found) is type(make(sounds))
            np.testing.assert_array_equal(np.asarray(found), scenes)
    embedder = Embedder(model.embedder.model)
    # HEAR's sounds are whole; the embedder mirrors the edges of a file as Pons' code.
    expected = embedder.transform([(sound, model.sample_rate) for sound in sounds])
    np.testing.assert_allclose(scenes, expected, atol=1e-5)


def test_timestamps_do_not_drift_and_lie_in_the_middle_of_their_segments(model):
    seconds, rate = 10, model.sample_rate
    sound = np.zeros((1, seconds * rate), np.float32)
    sound[0, 6 * rate : 6 * rate + 200] = 0.9  # a click at 6 s
    rows, stamps = hear.get_timestamp_embeddings(sound, model)
    np.testing.assert_allclose(stamps[0], np.arange(0, 10_000, 50))
    differs = np.abs(rows[0] - rows[0][60]).max(axis=1) > 1e-6
    heard = stamps[0][differs]
    # The pooling of this model drops frames at the end of a segment.
    assert (heard.min() + heard.max()) / 2 == pytest.approx(6000, abs=300)
    half = 500 * model.embedder.info.segmentation.num_samples / rate
    assert 500 < heard.max() - heard.min() <= 2 * half + 50
    assert differs[np.searchsorted(stamps[0], 6000)]


def test_importing_the_package_does_not_load_hear():
    code = "import tagger, sys; assert 'tagger.hear' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
