"""Log-mel spectrograms as defined by librosa and torchaudio.

waveform [batch, num_samples] at ±1 -> log-mel [batch, num_frames, n_mels].

Each preset reproduces what one paper's code computed; the tests compare it with the
output of the libraries themselves. We do not use `keras.layers.MelSpectrogram`: it
supports only HTK mels without normalisation, and its decibels depend on the loudest
clip of the batch.
"""

import dataclasses

import keras
import numpy as np
from keras import layers, ops

from tagger.models.presets import LogMel, filters_of, fourier_filters, preset
from tagger.text import TaggerError

LOGARITHMS = {
    # torchaudio.transforms.AmplitudeToDB, librosa.power_to_db with ref 1
    "power_db": lambda mel: 10 * ops.log10(mel),
    # librosa.amplitude_to_db with ref 1
    "amplitude_db": lambda mel: 20 * ops.log10(mel),
    "natural": ops.log,
    "log10(10000x+1)": lambda mel: ops.log10(10000 * mel + 1),
}


@keras.saving.register_keras_serializable("tagger")
class LogMelSpectrogram(layers.Layer):
    """Computes a log-mel spectrogram, in float32 regardless of the model's precision.

    waveform [batch, num_samples] -> log-mel [batch, num_frames, n_mels]. The only
    weight, `filters` [n_fft // 2 + 1, n_mels], is never trained.

    Args:
        log_mel: Key of PRESETS, or a LogMel.
        fourier: Method of the Fourier transform, see `power_spectrogram`.

    Raises:
        ValueError: the preset is unknown, or the waveform is shorter than a frame.
    """

    def __init__(self, log_mel, fourier="auto", dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        if isinstance(log_mel, dict):
            log_mel = LogMel(**log_mel)
        elif not isinstance(log_mel, LogMel):
            log_mel = preset(log_mel)
        self.log_mel = log_mel
        self.fourier = fourier

    def build(self, input_shape):
        filters = filters_of(self.log_mel)
        # The filters are a weight so that converted models keep those they were trained
        # with: torchaudio's float32 edges differ between versions.
        self.filters = self.add_weight(
            shape=filters.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(filters, dtype),
            trainable=False,
            name="filters",
        )

    def call(self, waveform):
        definition = self.log_mel
        spectrogram = power_spectrogram(
            waveform,
            definition.n_fft,
            definition.hop_length,
            definition.pad_mode,
            self.fourier,
        )
        if definition.power != 2:
            spectrogram = spectrogram ** (definition.power / 2)
        mel = ops.matmul(spectrogram, self.filters)
        logs = LOGARITHMS[definition.logarithm](ops.maximum(mel, definition.floor))
        if definition.top_db is not None:
            loudest = ops.max(logs, axis=(1, 2), keepdims=True)
            logs = ops.maximum(logs, loudest - definition.top_db)
        return logs

    def compute_output_shape(self, input_shape):
        batch, num_samples = input_shape
        frames = None if num_samples is None else self.log_mel.num_frames(num_samples)
        return (batch, frames, self.log_mel.n_mels)

    def get_config(self):
        return super().get_config() | {
            "log_mel": dataclasses.asdict(self.log_mel),
            "fourier": self.fourier,
        }


@keras.saving.register_keras_serializable("tagger")
class HarmonicSpectrogram(layers.Layer):
    """Computes decibels in bands around the harmonics of each pitch.

    waveform [batch, num_samples] -> [batch, num_frames, bands, num_harmonics], float32.
    The pitches range from C1 to the one whose highest harmonic is at half the sample
    rate. The bandwidth is learned: the only weight, `q` [1], divides the auditory
    bandwidth.

    Args:
        sample_rate: Rate of the waveform in Hz.
        num_harmonics: Number of harmonics; the first is the pitch itself.
        bands_per_semitone: Pitch resolution in bands per semitone.
        fourier: Method of the Fourier transform, see `power_spectrogram`.

    Reference:
        Won, Chun, Nieto and Serra, ICASSP 2020, section 2.
    """

    N_FFT, HOP_LENGTH = 512, 256
    LOWEST_MIDI = 24  # C1
    # Auditory bandwidth (Glasberg and Moore 1990): .1079 f + 24.7 Hz
    BANDWIDTH_SLOPE, BANDWIDTH_HZ = 0.1079, 24.7
    FLOOR = 1e-10  # of the power, -100 dB

    def __init__(
        self,
        sample_rate,
        num_harmonics=6,
        bands_per_semitone=2,
        fourier="auto",
        dtype="float32",
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.sample_rate = sample_rate
        self.num_harmonics = num_harmonics
        self.bands_per_semitone = bands_per_semitone
        self.fourier = fourier
        highest_hz = sample_rate / (2 * num_harmonics)
        highest_midi = round(69 + 12 * np.log2(highest_hz / 440))
        self.num_bands = (highest_midi - self.LOWEST_MIDI) * bands_per_semitone
        midi = np.linspace(self.LOWEST_MIDI, highest_midi, self.num_bands + 1)[:-1]
        pitch_hz = 440 * 2 ** ((midi - 69) / 12)
        # Ordered by band, then by harmonic, so that the harmonics become channels.
        self._centre_hz = np.outer(pitch_hz, 1 + np.arange(num_harmonics)).ravel()

    def build(self, input_shape):
        self.q = self.add_weight(shape=(1,), initializer="ones", name="q")

    def call(self, waveform):
        spectrogram = power_spectrogram(
            waveform, self.N_FFT, self.HOP_LENGTH, "reflect", self.fourier
        )
        centre = self._centre_hz.astype(np.float32)
        bins = np.linspace(
            0, self.sample_rate / 2, self.N_FFT // 2 + 1, dtype=np.float32
        )
        half_ear = (self.BANDWIDTH_SLOPE * centre + self.BANDWIDTH_HZ) / 2
        distance = np.abs(bins[:, None] - centre) / half_ear
        triangles = ops.maximum(0.0, 1 - ops.multiply(distance, self.q))
        power = ops.matmul(spectrogram, triangles)
        decibels = 10 * ops.log10(ops.maximum(power, self.FLOOR))
        shape = (-1, ops.shape(decibels)[1], self.num_bands, self.num_harmonics)
        return ops.reshape(decibels, shape)

    def compute_output_shape(self, input_shape):
        batch, num_samples = input_shape
        frames = None if num_samples is None else num_samples // self.HOP_LENGTH + 1
        return (batch, frames, self.num_bands, self.num_harmonics)

    def get_config(self):
        return super().get_config() | {
            "sample_rate": self.sample_rate,
            "num_harmonics": self.num_harmonics,
            "bands_per_semitone": self.bands_per_semitone,
            "fourier": self.fourier,
        }


def power_spectrogram(
    waveform, n_fft: int, hop_length: int, pad_mode: str | None, fourier: str = "auto"
):
    """Computes the squared magnitudes of a short-time Fourier transform.

    A periodic Hann window tapers each frame.

    Args:
        waveform: float32 [batch, num_samples].
        n_fft: Samples per frame.
        hop_length: Samples from one frame to the next.
        pad_mode: Padding at both ends, see LogMel.
        fourier: Method of the transform. "convolution" is one strided convolution with
            sines and cosines, which every export format supports (ONNX cannot represent
            TensorFlow's FFT). "fft" is for accelerators, whose float32 products keep
            only 11 bits (TF32) or 8 (TPU): the convolution's decibels would be wrong by
            up to .5 and 2 within 60 dB of the peak. On CPUs the two agree to 2e-3 dB in
            that range, and the FFT is 1.6 to 5 times faster
            (`benchmarks/frontends.py`). "auto" chooses the method that suits the
            devices.

    Returns:
        float32 [batch, num_frames, n_fft // 2 + 1].

    Raises:
        ValueError: the waveform is shorter than a frame, or `fourier` is unknown.
    """
    if fourier not in ("auto", "convolution", "fft"):
        raise TaggerError(
            f"fourier must be 'auto', 'convolution' or 'fft'. Received: {fourier!r}"
        )
    margin = 0 if pad_mode is None else n_fft // 2
    num_samples = waveform.shape[1]
    shortest = n_fft if pad_mode is None else margin + 1
    if isinstance(num_samples, int) and num_samples < shortest:
        raise TaggerError(
            f"A spectrogram of {n_fft}-sample frames needs at least {shortest} samples,"
            f" not {num_samples}."
        )
    if margin:
        waveform = ops.pad(waveform, [[0, 0], [margin, margin]], mode=pad_mode)
    if fourier == "auto":
        fourier = "convolution" if _is_on_cpu(waveform) else "fft"
    if fourier == "fft":
        real, imaginary = ops.stft(
            waveform, n_fft, hop_length, n_fft, window="hann", center=False
        )
        return ops.square(real) + ops.square(imaginary)
    waves = fourier_filters(n_fft)[:, None, :]  # [n_fft, 1, 2 · num_bins]
    parts = ops.conv(waveform[..., None], waves, strides=hop_length, padding="valid")
    real, imaginary = ops.split(ops.square(parts), 2, axis=-1)
    return real + imaginary


def _is_on_cpu(tensor) -> bool:
    if keras.backend.backend() == "torch":  # it does not list devices
        return tensor.device.type in ("cpu", "meta")
    return all("cpu" in device for device in keras.distribution.list_devices())
