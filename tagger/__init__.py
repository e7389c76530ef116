"""Music auto-tagging in Keras 3: from audio to scores over tags.

The map, left to right as data runs:

    datasets        who is tagged with what
    audio           files -> waveforms
    building        annotations + audio -> shards
    workers         many tasks over processes, here or on a cluster
    storage         where files lie: on a disk or behind a URL
    records         the record and the manifest
    inputs          shards -> tf.data
    models          waveform -> scores: one file per paper
    frontends       log-mel spectrograms
    layers          what several models share
    model_info      what a model tells of itself
    recipes         what a training does, as data
    devices         one, several, several machines
    training        a recipe's stages, one after the other
    checkpoints     what a stage keeps on disk
    noisy_student   training with unlabelled music
    augmentations   waveform -> noised waveform
    evaluation      clip scores, ROC-AUC, PR-AUC
    robustness      the same under changes of the sound
    conversion      the originals' weights
    interpretation  what the network heard
    plotting        the pictures
    streaming       files of any length -> windows -> rows of scores
    tagging         files in, tags out
    tag_results     … as lines of JSON, CSV, JAMS
    embeddings      files in, vectors out
    pretrained      trained models to be had
    export          a model for other runtimes
    onnx_models     … and back, without Keras
    page            a page to drop songs on
    cli             the command lines

The glossary, one word for one thing: a *clip* is one tagged recording; a *segment* the
piece a model takes; a *sample* one amplitude value; an *example* a training item; a
*frame* one spectrogram column; a *tag* a label's name; *labels* the 0/1 array; *scores*
the sigmoid outputs; an *excitation* the output of a squeeze-and-excitation gate.
"""

import os

__version__ = "0.1.0"

# On CPUs with AMX, oneDNN before August 2026 (TensorFlow 2.21 ships 3.7.3) multiplies
# what lies behind the channels of a bfloat16 tensor by zero: a stale NaN there becomes
# a NaN in the result (oneDNN #5717, fixed by #5723). The cap keeps AVX-512's bfloat16;
# oneDNN reads it when it first computes, and a value that the user has set stays.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")


def __getattr__(name: str):
    # Deferred: `import tagger` must not pay for TensorFlow.
    if name == "Tagger":
        from tagger.inference.tagger import Tagger

        return Tagger
    raise AttributeError(f"module 'tagger' has no attribute {name!r}")
