"""Decodes damaged audio files in this process, and reports each on a line.

    python decode_mutants.py FOLDER FIRST LAST

The file of case N is made from the seed N and a file of FOLDER. The test that runs this
script limits its memory and time.
"""

import random
import struct
import sys
import tempfile
import time
from pathlib import Path

INTERESTING = [struct.pack(kind, value) for kind, value in (
    ("<I", 0), ("<I", 0xFFFFFFFF), ("<I", 0x7FFFFFFF), (">I", 0x7FFFFFFF), ("<I", 8),
    (">I", 1 << 24), ("<H", 0xFFFF), ("<H", 0), ("B", 0xFF), ("<Q", 1 << 62),
)]  # fmt: skip


def mutant(content, others, random_source):
    """Returns content with one to eight damages of random kinds at random places."""
    content = bytearray(content)
    for _ in range(random_source.choice([1, 1, 2, 3, 8])):
        kind = random_source.randrange(7)
        # Half of the damages hit the first kilobyte, where the headers are.
        end = min(len(content), 1024) if random_source.random() < 0.5 else len(content)
        at = random_source.randrange(max(end, 1))
        if kind == 0 and content:
            content[at % len(content)] ^= 1 << random_source.randrange(8)
        elif kind in (1, 2):
            value = random_source.choice(INTERESTING)
            content[at : at + len(value)] = value
        elif kind == 3:
            del content[at : at + random_source.choice([1, 4, 100, 5000])]
        elif kind == 4:
            content[at:at] = random_source.randbytes(random_source.choice([1, 4, 300]))
        elif kind == 5:
            piece = content[at : at + 2000]
            content[at:at] = piece * random_source.choice([1, 10, 50])
        else:
            other = random_source.choice(others)
            start = random_source.randrange(len(other))
            content[at : at + 1000] = other[start : start + 1000]
    return bytes(content)


def main(folder, first, last):
    """Decodes the cases FIRST to LAST - 1."""
    from tagger import audio

    paths = sorted(Path(folder).iterdir())
    contents = [path.read_bytes() for path in paths]
    with tempfile.TemporaryDirectory() as work:
        for case in range(first, last):
            random_source = random.Random(case)
            number = random_source.randrange(len(paths))
            path = Path(work) / f"mutant{paths[number].suffix}"
            path.write_bytes(mutant(contents[number], contents, random_source))
            print(case, paths[number].suffix, end=" ", flush=True)
            started, num_samples = time.perf_counter(), 0
            try:
                for block in audio.stream_audio(path, 22050):
                    num_samples += len(block)
                result = "decoded"
            except audio.AudioDecodeError:
                result = "refused"
            except BaseException as error:
                result = f"FAILED:{type(error).__name__}"
            spent = time.perf_counter() - started - num_samples / 22050
            print(f"{result} {spent:.1f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
