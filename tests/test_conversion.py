"""Conversion is strict: every array used, every shape equal, else both are listed."""

import numpy as np
import pytest
from conftest import REFERENCES
from test_models import narrow_reference

from tagger import conversion, models

LEGACY = REFERENCES / "rese_multi.hdf5"


def test_legacy_hdf5_of_a_class_named_tfrecordmodel_scores_as_it_did():
    model = conversion.load_model(LEGACY)
    _, waveform, scores, _ = narrow_reference("rese", True)
    np.testing.assert_allclose(model.predict(waveform, verbose=0), scores, atol=1e-5)
    info = models.model_info(model)
    assert (info.sample_rate, info.num_samples, info.tags) == (22050, 59049, None)


def test_options_are_read_from_the_shapes():
    weights, *_ = narrow_reference("se", False)
    options = conversion._sample_cnn_options(weights)
    assert options == {
        "num_tags": 5, "block": "se", "multi": False, "alpha": 16, "num_filters": 4
    }  # fmt: skip


def test_layers_counted_from_later_in_a_session_are_counted_from_one():
    weights, waveform, scores, _ = narrow_reference("rese", True)

    def later(name):
        layer, weight = name.split("/")
        kind, _, number = layer.rpartition("_")
        return (
            f"{kind}_{int(number) + 96}/{weight}"  # also past the turn from 99 to 100
        )

    renamed = {later(name): array for name, array in weights.items()}
    model = conversion.convert_sample_cnn(conversion._number_from_one(renamed))
    np.testing.assert_allclose(model.predict(waveform, verbose=0), scores, atol=1e-5)


def test_missing_left_over_and_misshapen_arrays_are_listed_on_both_sides():
    weights, *_ = narrow_reference("basic", True)
    del weights["conv1d_5/bias:0"]
    weights["extra_1/kernel:0"] = np.zeros((2, 2))
    weights["conv1d_3/kernel:0"] = weights["conv1d_3/kernel:0"][:, :1]
    with pytest.raises(ValueError) as caught:
        conversion.convert_sample_cnn(weights)
    message = str(caught.value)
    assert "conv1d_5/bias:0: file lacks it, model (8,)" in message
    assert "extra_1/kernel:0: file (2, 2), model has no such" in message
    assert "conv1d_3/kernel:0: file (3, 1, 4), model (3, 4, 4)" in message


def test_other_weights_and_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="are no sample-level CNN of resemul"):
        conversion.convert_sample_cnn({"lstm_1/kernel:0": np.zeros(3)})
    (tmp_path / "text.hdf5").write_text("no model")
    with pytest.raises(ValueError, match="is no Keras 2 model file"):
        conversion.load_model(tmp_path / "text.hdf5")
    with pytest.raises(FileNotFoundError, match="There is no model file"):
        conversion.load_model(tmp_path / "nothing.hdf5")
