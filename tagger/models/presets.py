"""Log-mel spectrograms as each paper defines them, and the filters they are made of.

NumPy alone: graphs are filled with these filters where Keras is not installed.
"""

import dataclasses
import functools

import numpy as np

from tagger.text import TaggerError


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
            "logarithm": tuple(UNITS),
            "pad_mode": ("reflect", "constant", None),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise TaggerError(
                    f"{field} must be one of {', '.join(map(repr, allowed))}. Received:"
                    f" {getattr(self, field)!r}"
                )

    def num_frames(self, num_samples: int) -> int:
        """Returns the number of frames of a waveform of `num_samples` samples."""
        padding = 0 if self.pad_mode is None else 2 * (self.n_fft // 2)
        return (num_samples + padding - self.n_fft) // self.hop_length + 1


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


def preset(name: str) -> LogMel:
    """Returns a preset by its name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in PRESETS:
        raise TaggerError(
            f"Unknown log-mel preset {name!r}. Choose one of: {', '.join(PRESETS)}."
        )
    return PRESETS[name]


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


def filters_of(definition: LogMel) -> np.ndarray:
    """Returns the filters of a log-mel spectrogram, see `mel_filters`."""
    return mel_filters(
        definition.sample_rate,
        definition.n_fft,
        definition.n_mels,
        definition.f_min,
        definition.f_max,
        definition.mel_scale,
        definition.norm,
    )


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
