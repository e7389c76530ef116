"""Compares log-mel spectrograms with librosa, torchaudio and hand arithmetic."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from conftest import REFERENCES
from drawn import draw_music

from tagger.models import presets
from tagger.models.frontends import LogMelSpectrogram
from tagger.models.presets import PRESETS, LogMel, mel_filters


@pytest.fixture(scope="module")
def held():
    with np.load(REFERENCES / "frontends.npz") as file:
        return dict(file)


def music(definition):
    return draw_music(definition.sample_rate, definition.sample_rate)


def spectrogram(definition, waveform, filters=None, fourier="convolution"):
    """Returns [n_mels, num_frames] of the first waveform."""
    layer = LogMelSpectrogram(definition, fourier)
    layer.build(waveform.shape)
    if filters is not None:
        layer.filters.assign(filters)
    return np.asarray(layer(waveform))[0].T


def test_mel_scales_have_the_values_computed_by_hand():
    # HTK: 2595 log10(1 + 1000 / 700) = 999.986; Slaney: 1000 Hz is 15, 6400 Hz is 42.
    assert presets.hz_to_mel_htk(1000) == pytest.approx(999.9856)
    assert presets.mel_to_hz_htk(999.9856) == pytest.approx(1000, abs=1e-3)
    mel = [0, 3, 15, 42]
    np.testing.assert_allclose(presets.hz_to_mel_slaney([0, 200, 1000, 6400]), mel)
    np.testing.assert_allclose(presets.mel_to_hz_slaney(mel), [0, 200, 1000, 6400])


def test_a_filter_is_the_triangle_drawn_by_hand():
    # Two bands of HTK mels from 0 to 4000 Hz (2146.1 mel): edges at 715.4, 1430.7 mel,
    # that is 0, 620.5, 1791.0 and 4000 Hz. Bins of 8 samples at 8000 Hz: 1000 Hz apart.
    filters = mel_filters(8000, 8, 2)
    rising, falling = (1000 - 620.5) / (1791.0 - 620.5), (1791 - 1000) / (1791 - 620.5)
    np.testing.assert_allclose(filters[1], [falling, rising], atol=1e-3)
    np.testing.assert_allclose(
        filters[:, 1], [0, rising, 2000 / 2209, 1000 / 2209, 0], atol=1e-3
    )
    norm = mel_filters(8000, 8, 2, norm="slaney")
    np.testing.assert_allclose(
        norm[:, 1], filters[:, 1] * 2 / (4000 - 620.5), rtol=1e-4
    )


@pytest.mark.parametrize("name", ["won2020", "won2020_128", "won2021"])
def test_filters_are_torchaudios(held, name):
    p = PRESETS[name]
    filters = mel_filters(p.sample_rate, p.n_fft, p.n_mels)
    # torchaudio computes the edges in float32
    np.testing.assert_allclose(filters, held[f"{name}/filters"], atol=2e-5)


@pytest.mark.parametrize("fourier", ["convolution", "fft"])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_what_the_libraries_compute(held, name, fourier):
    definition = PRESETS[name]
    waveform = music(definition)
    if definition.pad_mode is None:  # see layers.AudioInput.edge_samples
        margin = definition.n_fft // 2
        waveform = np.pad(waveform, ((0, 0), (margin, margin)), mode="reflect")
    ours = spectrogram(definition, waveform, held.get(f"{name}/filters"), fourier)
    expected = held[name]
    assert ours.shape == expected.shape
    # float32 Fourier transforms: 1e-3 dB within 60 dB of the loudest cell
    heard = expected > expected.max() - 60 if "db" in definition.logarithm else ...
    np.testing.assert_allclose(ours[heard], expected[heard], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("zeros", {"pad_mode": "constant", "logarithm": "power_db", "floor": 1e-10}),
        ("amplitude", {"power": 1.0, "logarithm": "natural", "floor": 1e-20}),
    ],
)
def test_pad_mode_and_power_are_librosas(held, name, changes):
    definition = dataclasses.replace(PRESETS["won2019"], top_db=None, **changes)
    ours, expected = spectrogram(definition, music(definition)), held[name]
    heard = expected > expected.max() - 60
    np.testing.assert_allclose(ours[heard], expected[heard], atol=1e-3)  # float32


def test_presets_agree_with_real_music(shared):
    folder = shared / "reference"
    cases = {
        "won2019": ("joram_16000", slice(None), "joram_mtsa_won2019"),
        "multi_scale": ("joram_11025", slice(None), "joram_multiscale"),
        "won2020": ("joram_16000", slice(48000, 208000), "joram_sota_fcn96"),
        "won2020_128": ("joram_16000", slice(48000, 208000), "joram_sota_short128"),
        "won2021": ("joram_22050", slice(66150, 286650), "joram_mtt"),
    }
    banks = {"won2020": "sota96_fb", "won2020_128": "sota128_fb", "won2021": "mtt_fb"}
    with np.load(folder / "preprocessing/filterbanks.npz") as filters:
        for name, (clip, samples, stored) in cases.items():
            waveform = np.load(folder / f"audio/{clip}.npy")[samples] / np.float32(
                32768
            )
            bank = filters[banks[name]] if name in banks else None
            expected = np.load(folder / f"preprocessing/{stored}.npy")
            heard = expected > expected.max() - 60
            ours = spectrogram(PRESETS[name], waveform[None], bank)
            np.testing.assert_allclose(ours[heard], expected[heard], atol=1e-3)


@pytest.mark.parametrize("name", ["won2019", "won2020"])
def test_decibels_do_not_depend_on_batch_neighbours(name):
    waveform = music(PRESETS[name])  # the second is 20 dB below the first
    layer = LogMelSpectrogram(name)
    together, alone = np.asarray(layer(waveform))[1:], np.asarray(layer(waveform[1:]))
    # float32 sums depend on the batch; decibels amplify them 80 dB below the peak
    np.testing.assert_allclose(together, alone, atol=5e-3)


def test_one_htk_band_of_128_is_empty():
    decibels = spectrogram(PRESETS["won2020_128"], music(PRESETS["won2020_128"]))
    assert (decibels.max(axis=1) == -100).sum() == 1


def test_a_layer_is_rebuilt_from_its_configuration():
    layer = LogMelSpectrogram("won2021", "fft", name="frontend")
    config = json.loads(json.dumps(layer.get_config()))
    again = LogMelSpectrogram.from_config(config)
    assert again.log_mel == layer.log_mel and again.fourier == "fft"
    assert again.dtype_policy.name == "float32"


def test_shapes_are_known_before_any_number():
    for length in (59049, None):
        output = LogMelSpectrogram("won2020")(keras.Input((length,)))
        assert output.shape == (None, 231 if length else None, 96)


def test_bad_definitions_and_waveforms_say_what_is_wrong():
    with pytest.raises(
        ValueError, match="Unknown log-mel preset 'x'. Choose one of: p"
    ):
        LogMelSpectrogram("x")
    with pytest.raises(ValueError, match="mel_scale must be one of 'htk', 'slaney'"):
        LogMel(16000, 512, 256, 96, "bark", None, "natural")
    with pytest.raises(ValueError, match="needs at least 257 samples, not 200"):
        LogMelSpectrogram("won2020")(np.zeros((1, 200), np.float32))
    with pytest.raises(ValueError, match="fourier must be 'auto'"):
        LogMelSpectrogram("won2020", "dct")(np.zeros((1, 2000), np.float32))


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_the_frontend_runs_in_litert_without_special_operations(tmp_path):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("exports from the TensorFlow backend")
    waveform = keras.Input((16000,))
    model = keras.Model(waveform, LogMelSpectrogram("won2020")(waveform))
    model.export(tmp_path / "model", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "model"))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    x = draw_music(16000, 16000)[:1]
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    ours = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(ours, model.predict(x, verbose=0), atol=1e-2)  # -100 dB
