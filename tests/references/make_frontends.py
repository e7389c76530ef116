"""Makes `frontends.npz`: log-mel spectrograms by librosa and torchaudio.

    pip install torch torchaudio librosa
    python tests/references/make_frontends.py

The file was made with librosa 0.11, torchaudio 2.11 and torch 2.13 from the first of
the two waveforms of `drawn.draw_music`, 1 s at each preset's rate. librosa is told to
pad by reflection, as its versions before 0.10 did, with which the originals ran.
"""

import sys
from pathlib import Path

import librosa
import numpy as np
import torch
import torchaudio

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))
import drawn  # noqa: E402


def of_librosa(sample_rate, n_fft, hop_length, n_mels, power=2.0, pad_mode="reflect"):
    return librosa.feature.melspectrogram(
        y=drawn.draw_music(sample_rate, sample_rate)[0],
        sr=sample_rate,
        n_fft=n_fft,
        hop_length=hop_length,
        n_mels=n_mels,
        power=power,
        pad_mode=pad_mode,
    )


def of_torchaudio(sample_rate, n_fft, n_mels):
    waveform = torch.from_numpy(drawn.draw_music(sample_rate, sample_rate)[0])
    transform = torchaudio.transforms.MelSpectrogram(
        sample_rate, n_fft, n_mels=n_mels, f_max=sample_rate / 2
    )
    decibels = torchaudio.transforms.AmplitudeToDB()(transform(waveform))
    return decibels.numpy(), transform.mel_scale.fb.numpy()


def main() -> None:
    won2019 = of_librosa(16000, 512, 256, 96)
    arrays = {
        "won2019": librosa.amplitude_to_db(won2019),
        "pons2019": np.log10(10000 * won2019 + 1),
        "multi_scale": np.log(np.maximum(of_librosa(11025, 2048, 512, 128), 1e-20)),
        "zeros": librosa.power_to_db(
            of_librosa(16000, 512, 256, 96, pad_mode="constant"), top_db=None
        ),
        "amplitude": np.log(
            np.maximum(of_librosa(16000, 512, 256, 96, power=1.0), 1e-20)
        ),
    }
    for name, definition in {
        "won2020": (16000, 512, 96),
        "won2020_128": (16000, 512, 128),
        "won2021": (22050, 1024, 128),
    }.items():
        arrays[name], arrays[f"{name}/filters"] = of_torchaudio(*definition)
    path = TESTS / "references" / "frontends.npz"
    np.savez_compressed(path, **{n: a.astype(np.float32) for n, a in arrays.items()})
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
