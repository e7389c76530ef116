"""Demo music: short synthetic clips in MagnaTagATune's layout, reproducible by seed.

Each clip mixes one to three of six instruments at a tempo and a level. The clips are in
16 directories as in MTT, so that every script runs on them as on the real data; the
names of their files begin with `demo-`, by which the manifest of a build calls them
"demo". Sounds are sums of harmonics or filtered noise, made with NumPy. Scores on them
are not worth publishing.
"""

import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tagger.audio import write_audio
from tagger.datasets import magnatagatune
from tagger.text import TaggerError

SAMPLE_RATE = 16000  # like MTT's mp3 files
CLIP_SECONDS = 13.5  # five segments of 59049 samples at 22050 Hz
INSTRUMENTS = ("guitar", "drums", "flute", "violin", "organ", "synth bass")
TEMPI_BPM = {"slow": (48, 66), "": (90, 110), "fast": (160, 200)}
LEVELS_DB = {
    "quiet": (-38, -32),
    "": (-26, -22),
    "loud": (-15, -11),
}  # root mean square
TAGS = (*INSTRUMENTS, "slow", "fast", "quiet", "loud")

MAJOR, MINOR = (0, 4, 7, 12), (0, 3, 7, 12)
CHORD_ROOTS = (0, 5, 7, 9)  # semitones above the tonic


def synthesize(
    data_dir: str | os.PathLike, num_clips: int = 320, seed: int = 0
) -> None:
    """Writes `annotations_final.csv` and one mp3 per clip; existing clips are kept.

    Args:
        data_dir: Folder to create or to complete.
        num_clips: Number of clips in all splits, dealt to the 16 directories in turn.
        seed: Seed of the music.

    Raises:
        ValueError: the folder holds other annotations, or `num_clips` < 16.
    """
    if num_clips < len(magnatagatune.DIRECTORY_SPLITS):
        raise TaggerError(
            f"{num_clips} clips do not fill the 16 directories of MTT's layout. Ask for"
            " at least 16."
        )
    folder = Path(data_dir)
    rows = [["clip_id", *TAGS, "mp3_path"]]
    plans = []
    for clip in range(num_clips):
        directory = "0123456789abcdef"[clip % 16]
        plan = _plan(np.random.RandomState([seed, clip]))
        heard = "_".join(sorted(plan["tags"])).replace(" ", "_")
        prefix = f"{directory}/{magnatagatune.DEMO_PREFIX}"
        name = f"{prefix}{seed}-{clip:04d}-{heard}.mp3"
        plans.append((folder / magnatagatune.AUDIO_FOLDER / name, plan, clip))
        rows.append([clip, *(int(tag in plan["tags"]) for tag in TAGS), name])

    annotations = folder / magnatagatune.ANNOTATIONS_NAME
    text = "".join("\t".join(f'"{cell}"' for cell in row) + "\n" for row in rows)
    if annotations.exists() and annotations.read_text() != text:
        raise TaggerError(
            f"{annotations} does not belong to {num_clips} demo clips with seed {seed}."
            " Choose another `data_dir=`."
        )
    for path, plan, clip in tqdm(plans, "Synthesising", unit="clip", disable=None):
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        waveform = _play(plan, np.random.RandomState([seed, clip, 1]))
        unfinished = path.with_suffix(".part.mp3")
        write_audio(unfinished, waveform, SAMPLE_RATE)
        unfinished.replace(path)
    annotations.write_text(text)


def _plan(random: np.random.RandomState) -> dict:
    """Draws the instruments, the tempo, the level and the chord of a clip."""
    count = random.choice([1, 2, 3], p=[0.4, 0.4, 0.2])
    instruments = random.choice(INSTRUMENTS, count, replace=False)
    tempo = random.choice(list(TEMPI_BPM), p=[0.4, 0.2, 0.4])
    level = random.choice(list(LEVELS_DB), p=[0.35, 0.3, 0.35])
    return {
        "instruments": instruments,
        "beat_seconds": 60 / random.uniform(*TEMPI_BPM[tempo]),
        "level_db": random.uniform(*LEVELS_DB[level]),
        "tonic": random.randint(50, 62),  # MIDI note
        "chord": MAJOR if random.rand() < 0.5 else MINOR,
        "tags": {*instruments, tempo, level} - {""},
    }


def _play(plan: dict, random: np.random.RandomState) -> np.ndarray:
    """Renders a plan to float32 [num_samples]."""
    music = np.zeros(int(CLIP_SECONDS * SAMPLE_RATE))
    beat = plan["beat_seconds"]
    for instrument in plan["instruments"]:
        part = np.zeros_like(music)
        for number, start in enumerate(
            np.arange(random.uniform(0, beat), CLIP_SECONDS, beat)
        ):
            root = plan["tonic"] + CHORD_ROOTS[number // 4 % len(CHORD_ROOTS)]
            if instrument == "drums":
                notes = [_drum(number, random)]
            elif instrument == "synth bass":
                notes = [_synth_bass(_hertz(root - 24), beat)]
            else:
                voices = {"guitar": 2, "organ": 3}.get(instrument, 1)
                pitches = root + random.choice(plan["chord"], voices, replace=False)
                octave = {"flute": 24, "violin": 12}.get(instrument, 0)
                notes = [
                    TONES[instrument](_hertz(p + octave), beat, random) for p in pitches
                ]
            for note in notes:
                at = int(start * SAMPLE_RATE)
                note = note[: len(part) - at]
                part[at : at + len(note)] += note
        music += part / _rms(part) * random.uniform(0.7, 1.3)
    music *= 10 ** (plan["level_db"] / 20) / _rms(music)
    # Few peaks exceed full scale; tanh limits them smoothly instead of clipping.
    return np.tanh(music).astype(np.float32)


def _hertz(midi_note: float) -> float:
    return 440 * 2 ** ((midi_note - 69) / 12)


def _rms(signal: np.ndarray) -> float:
    return np.sqrt(np.mean(signal**2))


def _seconds(duration: float) -> np.ndarray:
    return np.arange(int(duration * SAMPLE_RATE)) / SAMPLE_RATE


def _harmonics(phase: np.ndarray, levels: list) -> np.ndarray:
    """Sums levels[k] · sin((k + 1) · phase); a level is a number or an envelope."""
    total, below, here = 0, 0, np.sin(phase)
    twice_cosine = 2 * np.cos(phase)
    for level in levels:
        total += level * here
        # sin((k + 1) x) = 2 cos x · sin k x - sin((k - 1) x): no sine per harmonic
        below, here = here, twice_cosine * here - below
    return total


def _below_nyquist(hertz: float, most: int) -> range:
    return range(1, min(most, int(0.45 * SAMPLE_RATE / hertz)) + 1)


def _attack_release(t: np.ndarray, attack: float, release: float) -> np.ndarray:
    return np.minimum(1, t / attack) * np.minimum(1, (t[-1] - t) / release)


def _guitar(hertz: float, beat: float, random: np.random.RandomState) -> np.ndarray:
    t = _seconds(min(2.0, 2 * beat))
    envelopes = [np.exp(-t * (2 + 0.8 * k)) / k for k in _below_nyquist(hertz, 10)]
    return _harmonics(2 * np.pi * hertz * t, envelopes) * _attack_release(
        t, 0.003, 0.02
    )


def _flute(hertz: float, beat: float, random: np.random.RandomState) -> np.ndarray:
    t = _seconds(beat)
    phase = 2 * np.pi * hertz * t + 0.6 * np.sin(2 * np.pi * 5 * t)
    breath = 0.05 * random.standard_normal(len(t))
    tone = _harmonics(phase, [1, 0.12, 0.05]) + breath
    return tone * _attack_release(t, 0.06, 0.05)


def _violin(hertz: float, beat: float, random: np.random.RandomState) -> np.ndarray:
    t = _seconds(beat)
    phase = 2 * np.pi * hertz * t + 1.5 * np.sin(
        2 * np.pi * 6 * t + random.uniform(0, 6)
    )
    tone = _harmonics(phase, [1 / k for k in _below_nyquist(hertz, 14)])
    return tone * _attack_release(t, 0.08, 0.05)


def _organ(hertz: float, beat: float, random: np.random.RandomState) -> np.ndarray:
    t = _seconds(beat)
    drawbars = [1, 0.8, 0.7, 0.6, 0, 0.4, 0, 0.4][: len(_below_nyquist(hertz, 8))]
    return _harmonics(2 * np.pi * hertz * t, drawbars) * _attack_release(t, 0.01, 0.01)


def _synth_bass(hertz: float, beat: float) -> np.ndarray:
    t = _seconds(0.9 * beat)
    # A closing low-pass: the higher the harmonic, the sooner it is gone.
    levels = [k % 2 / k * np.exp(-t * 1.2 * (k - 1)) for k in _below_nyquist(hertz, 15)]
    return _harmonics(2 * np.pi * hertz * t, levels) * _attack_release(t, 0.005, 0.02)


def _drum(number: int, random: np.random.RandomState) -> np.ndarray:
    t = _seconds(0.25)
    noise = random.standard_normal(len(t))
    hi_hat = 0.4 * np.diff(noise, prepend=0) * np.exp(-60 * t)
    if number % 2:
        return hi_hat + noise * np.exp(-25 * t)  # snare
    sweep = 2 * np.pi * (50 * t + 100 / 30 * (1 - np.exp(-30 * t)))
    return hi_hat + 3 * np.sin(sweep) * np.exp(-12 * t)  # kick


TONES = {"guitar": _guitar, "flute": _flute, "violin": _violin, "organ": _organ}
