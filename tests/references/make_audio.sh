#!/usr/bin/env bash
# Makes mono.mp3, stereo.mp3 and ffmpeg_decoded.npz. Needs the ffmpeg program (5.1.9 made
# what is here) and NumPy. The sounds are FFmpeg's own test sources, so free of rights.
set -euo pipefail
cd "$(dirname "$0")"
tone='sine=frequency=440:duration=2:sample_rate=44100'
noise='anoisesrc=color=pink:seed=1:amplitude=0.3:duration=2:sample_rate=44100'
ffmpeg -v error -y -f lavfi -i "$tone" -f lavfi -i "$noise" -filter_complex amix=inputs=2 \
    -ac 1 -ar 16000 -b:a 32k mono.mp3
ffmpeg -v error -y -f lavfi -i "$tone" -f lavfi -i "$noise" \
    -filter_complex "[0:a][1:a]join=inputs=2:channel_layout=stereo" -b:a 64k stereo.mp3
python3 - <<'PYTHON'
import subprocess

import numpy as np


def decode(path, rate, sample_format, dtype):
    command = f"ffmpeg -v error -i {path} -f {sample_format} -ac 1 -ar {rate} -"
    return np.frombuffer(subprocess.run(command.split(), capture_output=True, check=True).stdout, dtype)


arrays = {}
for rate in (16000, 22050):
    arrays[f"mono_{rate}_float32"] = decode("mono.mp3", rate, "f32le", "<f4")
    # int16: for float samples FFmpeg mixes stereo sqrt(2) louder than the mean.
    arrays[f"stereo_{rate}_int16"] = decode("stereo.mp3", rate, "s16le", "<i2")
np.savez_compressed("ffmpeg_decoded.npz", **arrays)
PYTHON
