"""Log-mel spectrograms as defined by librosa and torchaudio.

waveform [batch, num_samples] at ±1 -> log-mel [batch, num_frames, n_mels].

Each preset reproduces what one paper's code computed; the tests compare it with the
output of the libraries themselves. We do not use `keras.layers.MelSpectrogram`: it
supports only HTK mels without normalisation, and its decibels depend on the loudest
clip of the batch.
"""

import dataclasses
import functools

import keras
import numpy as np
from keras import layers, ops


@dataclasses.dataclass(frozen=True)
class LogMel:
    """Definition of a log-mel spectrogram in the terms of librosa and torchaudio.

    Attributes:
        sample_rate: Rate of the waveform in Hz.
        n_fft: Samples per frame; each frame is tapered by a periodic Hann window.
        hop_length: Samples from one frame to the next.
        n_mels: Number of mel bands.
        mel_scale: "htk" or "slaney".
        norm: Normalisation of the triangular filters: None for height 1 (torchaudio),
            "slaney" for area 1 (librosa).
        logarithm: Key of LOGARITHMS.
        floor: Smallest value passed to the logarithm.
        top_db: Dynamic range in dB: lower values are raised to the example's maximum
            minus top_db. The maximum is always the example's own, never the batch's.
            None does not limit the range.
        power: Exponent of the magnitudes: 2 for power, 1 for amplitude.
        f_min: Lower edge of the first band in Hz.
        f_max: Upper edge of the last band in Hz; None means half the sample rate.
        pad_mode: How n_fft // 2 samples are added at both ends, so that frame t is
            centred at sample t · hop_length: "reflect" or "constant" (zeros; librosa
            since 0.10). With None nothing is added, and frame t begins at that sample.
    """

    sample_rate: int
    n_fft: int
    hop_length: int
    n_mels: int
    mel_scale: str
    norm: str | None
    logarithm: str
    floor: float = 0.0
    top_db: float | None = None
    power: float = 2.0
    f_min: float = 0.0
    f_max: float | None = None
    pad_mode: str | None = "reflect"

    def __post_init__(self):
        choices = {
            "mel_scale": ("htk", "slaney"),
            "norm": (None, "slaney"),
            "logarithm": tuple(LOGARITHMS),
            "pad_mode": ("reflect", "constant", None),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"{field} must be one of {', '.join(map(repr, allowed))}. Received:"
                    f" {getattr(self, field)!r}"
                )

    def num_frames(self, num_samples: int) -> int:
        """Returns the number of frames of a waveform of `num_samples` samples."""
        padding = 0 if self.pad_mode is None else 2 * (self.n_fft // 2)
        return (num_samples + padding - self.n_fft) // self.hop_length + 1


LOGARITHMS = {
    # torchaudio.transforms.AmplitudeToDB, librosa.power_to_db with ref 1
    "power_db": lambda mel: 10 * ops.log10(mel),
    # librosa.amplitude_to_db with ref 1
    "amplitude_db": lambda mel: 20 * ops.log10(mel),
    "natural": ops.log,
    "log10(10000x+1)": lambda mel: ops.log10(10000 * mel + 1),
}

UNITS = {  # of the results
    "power_db": "dB",
    "amplitude_db": "dB",
    "natural": "natural logarithm",
    "log10(10000x+1)": "log10(10000x+1)",
}

PRESETS = {
    # Pons and Serra 2019 (package musicnn). Its code computes one spectrogram over the
    # whole file; our segments contain all samples of their frames instead (`pons.py`).
    "pons2019": LogMel(
        16000, 512, 256, 96, "slaney", "slaney", "log10(10000x+1)", pad_mode=None
    ),
    # Won, Chun and Serra 2019. Their code passed a POWER spectrogram to
    # amplitude_to_db.
    "won2019": LogMel(
        16000, 512, 256, 96, "slaney", "slaney", "amplitude_db", 1e-5, top_db=80.0
    ),
    # Won, Ferraro, Bogdanov and Serra 2020: FCN, CRNN, musicnn
    "won2020": LogMel(16000, 512, 256, 96, "htk", None, "power_db", 1e-10),
    # The same paper: short-chunk CNNs, CNN with self-attention. One of the 128 HTK
    # bands lies between two Fourier bins and is always -100 dB.
    "won2020_128": LogMel(16000, 512, 256, 128, "htk", None, "power_db", 1e-10),
    # Won, Choi and Serra 2021 (Music Tagging Transformer)
    "won2021": LogMel(22050, 1024, 512, 128, "htk", None, "power_db", 1e-10),
    # Dabral and Deshmukh (Multi-Scale Music Tagger)
    "multi_scale": LogMel(11025, 2048, 512, 128, "slaney", "slaney", "natural", 1e-20),
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
        definition = self.log_mel
        filters = mel_filters(
            definition.sample_rate,
            definition.n_fft,
            definition.n_mels,
            definition.f_min,
            definition.f_max,
            definition.mel_scale,
            definition.norm,
        )
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


def preset(name: str) -> LogMel:
    """Returns a preset by its name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in PRESETS:
        raise ValueError(
            f"Unknown log-mel preset {name!r}. Choose one of: {', '.join(PRESETS)}."
        )
    return PRESETS[name]


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
        raise ValueError(
            f"fourier must be 'auto', 'convolution' or 'fft'. Received: {fourier!r}"
        )
    margin = 0 if pad_mode is None else n_fft // 2
    num_samples = waveform.shape[1]
    shortest = n_fft if pad_mode is None else margin + 1
    if isinstance(num_samples, int) and num_samples < shortest:
        raise ValueError(
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


@functools.cache
def fourier_filters(n_fft: int) -> np.ndarray:
    """Computes the windowed cosines, then the windowed sines, of all bins.

    Returns:
        float32 [n_fft, 2 · num_bins].
    """
    sample = np.arange(n_fft)[:, None]
    cycles = sample * np.arange(n_fft // 2 + 1) % n_fft / n_fft
    window = 0.5 - 0.5 * np.cos(2 * np.pi * sample / n_fft)
    waves = [np.cos(2 * np.pi * cycles), np.sin(2 * np.pi * cycles)]
    return np.concatenate([wave * window for wave in waves], axis=1).astype(np.float32)


@functools.cache
def mel_filters(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    f_min: float = 0.0,
    f_max: float | None = None,
    mel_scale: str = "htk",
    norm: str | None = None,
) -> np.ndarray:
    """Computes triangular filters, evenly spaced in mel, over the bins of an FFT.

    They equal the transpose of `librosa.filters.mel`, and
    `torchaudio.functional.melscale_fbanks` to 2e-5, the error of torchaudio's float32
    edges. See LogMel for the arguments.

    Returns:
        float32 [n_fft // 2 + 1, n_mels].
    """
    f_max = sample_rate / 2 if f_max is None else f_max
    edges = mel_edges_hz(n_mels, f_min, f_max, mel_scale)
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling))
    if norm == "slaney":
        triangles *= 2 / (edges[2:] - edges[:-2])
    return triangles.astype(np.float32)


def mel_edges_hz(
    n_mels: int, f_min: float, f_max: float, mel_scale: str = "htk"
) -> np.ndarray:
    """Returns the edges in Hz of bands evenly spaced in mel: [n_mels + 2].

    Band i peaks at edge i + 1.
    """
    to_mel, to_hz = (
        (hz_to_mel_htk, mel_to_hz_htk)
        if mel_scale == "htk"
        else (hz_to_mel_slaney, mel_to_hz_slaney)
    )
    return to_hz(np.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2))


def hz_to_mel_htk(hz):
    """Converts Hz to mel by O'Shaughnessy's formula, as in HTK."""
    return 2595 * np.log10(1 + np.asarray(hz) / 700)


def mel_to_hz_htk(mel):
    """Converts mel to Hz: the inverse of `hz_to_mel_htk`."""
    return 700 * (10 ** (np.asarray(mel) / 2595) - 1)


# Slaney's Auditory Toolbox: 3 mel per 200 Hz up to 1 kHz, above it 27 mel per log(6.4).
_SLANEY_KNEE_HZ = 1000.0
_SLANEY_MEL_PER_HZ = 3 / 200
_SLANEY_MEL_PER_LOG = 27 / np.log(6.4)


def hz_to_mel_slaney(hz):
    """Converts Hz to mel: linearly below 1 kHz, logarithmically above."""
    hz = np.asarray(hz, dtype=np.float64)
    above = np.log(np.maximum(hz, _SLANEY_KNEE_HZ) / _SLANEY_KNEE_HZ)
    return (
        np.minimum(hz, _SLANEY_KNEE_HZ) * _SLANEY_MEL_PER_HZ
        + above * _SLANEY_MEL_PER_LOG
    )


def mel_to_hz_slaney(mel):
    """Converts mel to Hz: the inverse of `hz_to_mel_slaney`."""
    mel = np.asarray(mel, dtype=np.float64)
    knee = _SLANEY_KNEE_HZ * _SLANEY_MEL_PER_HZ
    above = np.exp(np.maximum(mel - knee, 0) / _SLANEY_MEL_PER_LOG)
    return np.minimum(mel, knee) / _SLANEY_MEL_PER_HZ * above
