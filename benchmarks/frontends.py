"""Compares the Fourier transform as a convolution and as an FFT: time and accuracy.

    python benchmarks/frontends.py

The first table gives the milliseconds for each preset's log-mel of 16 segments of 10 s
(medians of `--repeats`), and the largest difference between the two ways in cells
within 60 dB of the loudest. The second computes the same sums in NumPy with factors
rounded as accelerators round them (TF32 keeps 11 bits, bfloat16 keeps 8) and compares
them with float64. It shows why `fourier="auto"` uses the FFT on accelerators.
"""

import argparse
import statistics
import time

import numpy as np

from tagger import cli, storage

SECONDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--audio", metavar="FILE", help="music to measure on (default: random notes)")
    add("--repeats", type=int, default=7)
    args = parser.parse_args()

    storage.load_tensorflow()
    import keras

    from tagger.models import frontends, presets

    print(f"{'preset':14}{'convolution':>12}{'fft':>8}{'ratio':>7}{'dB apart':>10}")
    for name, definition in presets.PRESETS.items():
        x = np.stack(16 * [music(definition.sample_rate, args.audio)])
        seconds, outputs = {"convolution": [], "fft": []}, {}
        layers = {way: frontends.LogMelSpectrogram(name, way) for way in seconds}
        networks = {}
        for way, layer in layers.items():
            waveform = keras.Input(x.shape[1:])
            networks[way] = keras.Model(waveform, layer(waveform))
        for repeat in range(args.repeats + 1):
            for way, network in networks.items():
                started = time.perf_counter()
                outputs[way] = network.predict_on_batch(x)
                if repeat:
                    seconds[way].append(time.perf_counter() - started)
        convolution, fft = (1e3 * statistics.median(s) for s in seconds.values())
        heard = outputs["fft"] > outputs["fft"].max() - 60
        apart = np.abs(outputs["convolution"] - outputs["fft"])[heard].max()
        print(
            f"{name:14}{convolution:12.1f}{fft:8.1f}{convolution / fft:7.2f}"
            f"{apart:10.5f}"
        )

    print(f"\n{'bits':>4}{'mean dB':>10}{'within 60 dB':>14}{'worst':>8}")
    definition = presets.PRESETS["won2020"]
    frames = np.lib.stride_tricks.sliding_window_view(
        music(definition.sample_rate, args.audio), definition.n_fft
    )[:: definition.hop_length]
    waves = presets.fourier_filters(definition.n_fft)
    filters = presets.mel_filters(16000, 512, 96)
    exact = decibels(frames.astype(np.float64), waves.astype(np.float64), filters)
    for bits in (24, 11, 8):
        apart = np.abs(
            decibels(rounded(frames, bits), rounded(waves, bits), filters) - exact
        )
        heard = exact > exact.max() - 60
        print(
            f"{bits:4}{apart.mean():10.4f}{apart[heard].max():14.4f}{apart.max():8.1f}"
        )


def music(sample_rate: int, path: str | None) -> np.ndarray:
    num_samples = SECONDS * sample_rate
    if path:
        from tagger.audio import load_audio

        return np.resize(load_audio(path, sample_rate), num_samples)
    random = np.random.RandomState(0)
    waveform = 1e-4 * random.standard_normal(num_samples)
    for start in range(0, num_samples, sample_rate // 4):
        seconds = np.arange(num_samples - start) / sample_rate
        pitch_hz = 440 * 2 ** (random.randint(-24, 24) / 12)
        waveform[start:] += (
            0.2 * np.exp(-4 * seconds) * np.sin(2 * np.pi * pitch_hz * seconds)
        )
    return waveform.astype(np.float32)


def decibels(frames: np.ndarray, waves: np.ndarray, filters: np.ndarray) -> np.ndarray:
    real, imaginary = np.split((frames @ waves) ** 2, 2, axis=1)
    return 10 * np.log10(np.maximum((real + imaginary) @ filters, 1e-10))


def rounded(values: np.ndarray, bits: int) -> np.ndarray:
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2.0**bits) / 2.0**bits, exponent).astype(
        np.float32
    )


if __name__ == "__main__":
    cli.run(main)
