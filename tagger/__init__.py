"""Music auto-tagging in Keras 3: audio in, one score per tag out.

The modules and packages, each of which imports only from those above it:

    text             escapes names for terminals, pictures and tables
    options          reads options of functions and dataclasses from their source
    validation       checks values from outside
    storage          local paths and URLs (gs://…), atomic writes, locks
    containers       opens audio files with FFmpeg's limits
    segmentation     cuts clips into segments
    audio            reads and writes audio files
    listing          lists the audio files in folders
    plotting         what all figures share
    augmentations    augments waveforms for the noisy student
    datasets/        annotations (tags and splits), one file per dataset
    models/          one file per paper, shared layers, frontends, model files
    data/            records, shards and their manifest, building, clips, batches
    weights/         downloads pretrained models, converts the originals' weights
    evaluation/      clip scores, ROC-AUC, PR-AUC, confidence intervals, robustness
    inference/       tags and embeddings of audio files, exported models
    training/        recipes, tasks, losses, staged training, several devices
    fitting/         tags of one's own on the embeddings of trained models
    hear             the interface of HEAR, a benchmark of embeddings
    interpretation/  excitations, attention and attributions of a model
    library/         a collection scanned once: search, similar songs, files' metadata
    web/             the page that tags dropped songs and asks the library, the HTTP API
    cli/             the command line: arguments and printing

The glossary, with one word for each thing:

    clip          one tagged recording
    segment       the piece of a clip that a model takes
    segmentation  the rule that cuts a clip: length, hop, remainder, edges
    window        the taper of a Fourier transform, nothing else
    sample        one amplitude value
    example       one training item
    frame         one spectrogram column
    tag           the name of a label
    labels        the 0/1 array
    scores        the sigmoid outputs
    excitation    the factor by which an SE block multiplies a channel
    augmentation  the chain of random transforms; noise is one of them
    embedding     the input of the last layer
    process       one of several that train together (`--process-id`)
    host          a network address
"""

import os

import lazy_loader

__version__ = "0.1.0"

# On CPUs with AMX, oneDNN before August 2026 (TensorFlow 2.21 ships 3.7.3) multiplies
# the memory after the channels of a bfloat16 tensor by zero, so that a stale NaN there
# becomes a NaN in the result (oneDNN #5717, fixed by #5723). This cap leaves out AMX,
# and keeps AVX-512 with its float16, which TensorFlow uses wherever the CPU has it.
# oneDNN reads it at its first computation; a value set by the user is kept.
ONEDNN_CAP = "AVX512_CORE_FP16"
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", ONEDNN_CAP)

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "inference.embeddings": ["Embedder"],
        "inference.tagger": ["Tagger"],
    },
)
