"""Given the originals' weights, our models return the originals' numbers.

Small references lie in `references/`, with the scripts that made them. The large ones,
among them real weights and real music, are only on the developers' machines.
"""

import json

import keras
import numpy as np
import pytest
from conftest import REFERENCES
from drawn import draw_features, draw_music, draw_weights
from keras import ops
from narrow import scores_of

from tagger import interpretation, models
from tagger.models.layers import SqueezeExcitation
from tagger.segmentation import stream
from tagger.weights import conversion, pretrained

BLOCKS = ("basic", "se", "res", "rese")


def num_trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


# --- Narrow sample-level CNNs of resemul ----------------------------------------------


def narrow_reference(block, multi):
    """Returns weights, input, scores and excitations of the original code."""
    prefix = f"{block}_{multi}|"
    with np.load(REFERENCES / "sample_cnn.npz") as held:
        arrays = {
            n.removeprefix(prefix): held[n] for n in held.files if n.startswith(prefix)
        }
    weights = {name: a.astype(np.float32) for name, a in arrays.items() if "/" in name}
    waveform = np.random.RandomState(0).standard_normal((2, 59049)).astype(np.float32)
    waveform *= np.float32([[0.3], [0.02]])
    gates = [arrays[f"excitation{d}"] for d in range(9) if f"excitation{d}" in arrays]
    return weights, waveform, arrays["scores"], gates


def excitations(model, waveform):
    gates = [
        layer.output for layer in model.layers if isinstance(layer, SqueezeExcitation)
    ]
    return keras.Model(model.input, gates).predict(waveform, verbose=0) if gates else []


@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("block", BLOCKS)
def test_converted_sample_cnn_reproduces_the_originals_scores_and_excitations(
    block, multi
):
    weights, waveform, scores, gates = narrow_reference(block, multi)
    model = conversion.convert(weights, "sample_cnn")
    ours = model.predict(waveform, verbose=0)
    print(f"sample_cnn|{block} {multi}: {np.abs(ours - scores).max():.1e}")
    # float32 sums in another order
    np.testing.assert_allclose(ours, scores, atol=1e-5)
    ours = excitations(model, waveform)
    assert len(ours) == len(gates) == (9 if "se" in block else 0)
    for mine, theirs in zip(ours, gates, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


# --- Every other original, weights and music drawn from a seed ------------------------

with np.load(REFERENCES / "originals.npz") as _held:
    CASES = [n.removesuffix("/scores") for n in _held.files if n.endswith("/scores")]


def original(case):
    """Returns weights, input and scores of a case."""
    with np.load(REFERENCES / "originals.npz") as held:
        shapes = json.loads(str(held[f"{case}/shapes"]))
        weights = draw_weights(shapes)
        for name in held.files:
            if name.startswith(f"{case}/") and name.endswith(".fb"):
                weights[name.removeprefix(f"{case}/")] = held[name]
        scores, length = held[f"{case}/scores"], held[f"{case}/length"]
    if length.size == 2:
        return weights, draw_features(*length), scores
    rate = models.MODELS[case.split("|")[0]].facts.sample_rate
    return weights, draw_music(int(length), rate), scores


@pytest.mark.parametrize("case", CASES)
def test_converted_model_reproduces_the_originals_scores(case):
    weights, x, scores = original(case)
    options = {"num_samples": x.shape[1]} if x.ndim == 2 else {}
    model = conversion.convert(weights, case.split("|")[0], **options)
    network = model if x.ndim == 2 else models.feature_network(model)
    assert np.ptp(scores) > 0.1
    ours = scores_of(network, x)
    print(f"{case}: {np.abs(ours - scores).max():.1e}")  # for docs/facts, with -rP
    # float32 sums in another order; decibels of near silence amplify them
    np.testing.assert_allclose(ours, scores, atol=1e-4)


# --- Large references -----------------------------------------------------------------

# The helper module of the references leaves its json files open.
large = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def marked(*cases, usual=None):
    """Marks cases: those of `usual` (all if None) as slow, the others as nightly."""
    return [
        pytest.param(
            *case,
            marks=[
                *large,
                pytest.mark.slow
                if usual is None or case[0] in usual
                else pytest.mark.nightly,
            ],
        )
        for case in cases
    ]


@pytest.fixture
def load_reference(shared, monkeypatch):
    """Returns the references' reading functions and their folder."""
    monkeypatch.syspath_prepend(shared / "reference")
    import load_reference

    return load_reference, shared / "reference"


RESEMUL = [
    *(f"resemul_{block}_{m}" for block in BLOCKS for m in ("multi", "nomulti")),
    "resemul_basic_nomulti_f32",
    "resemul_res_multi_f32",
    "resemul_rese_nomulti_f16",
    "resemul_se_multi_f16",
]


@pytest.mark.parametrize(
    "name", marked(*((name,) for name in RESEMUL), usual=["resemul_rese_multi"])
)
def test_full_size_sample_cnns_reproduce_the_originals_on_real_music(
    load_reference, name
):
    reference, root = load_reference
    folder = root / "random" / name
    weights, cases, meta = reference.load_case(folder)
    model = conversion.convert(weights, "sample_cnn")
    assert model.count_params() == meta["n_params"]
    for (_, waveform, scores, _), case in zip(cases, meta["cases"], strict=True):
        ours = model.predict(waveform, verbose=0)
        np.testing.assert_allclose(ours, scores, atol=case["suggested_atol_outputs"])
        gates = excitations(model, waveform)
        if gates:
            with np.load(folder / "excitations.npz") as held:
                for mine, source in zip(gates, meta["excitation_layers"], strict=True):
                    np.testing.assert_allclose(mine, held[source], atol=1e-4)  # float32
        for path in folder.glob("*.hdf5"):
            legacy = pretrained.load(path).predict(waveform, verbose=0)
            np.testing.assert_array_equal(legacy, ours)


RANDOM = {
    "mtt_teacher": "music_tagging_transformer",
    "mtt_student": "music_tagging_transformer",
    "mtsa_pons_won": "self_attention",
    "mtsa_pons_pons": "self_attention",
    "mtsa_lee_won": "self_attention",
    "mtsa_lee_lee": "sample_cnn_lee",
    "mscnn": "multi_scale_cnn",
    "short_chunk": "short_chunk_cnn",
    "short_chunk_c64": "short_chunk_cnn",
    "short_chunk_res": "short_chunk_resnet",
    "short_chunk_res_c64": "short_chunk_resnet",
    "sample_cnn": "sample_cnn_lee",
    "sample_cnn_se": "sample_cnn_se_won2020",
    "fcn": "fcn",
    "crnn": "crnn",
    "musicnn": "musicnn",
    "harmonic_cnn": "harmonic_cnn",
    "cnnsa": "cnn_self_attention",
}


@pytest.mark.parametrize(
    ("folder", "name"), marked(*RANDOM.items(), usual=["musicnn", "sample_cnn", "fcn"])
)
def test_full_size_models_reproduce_the_originals_on_real_music(
    load_reference, folder, name, tmp_path
):
    reference, root = load_reference
    weights, cases, meta = reference.load_case(root / "random" / folder)
    model = conversion.convert(weights, name)
    assert num_trainable(model) == meta["n_params"]
    model.save(tmp_path / "model.keras")
    any_length = models.load_model(tmp_path / "model.keras")
    for (_, x, scores, _), case in zip(cases, meta["cases"], strict=True):
        if folder == "mscnn":  # [batch, 1, mel, time], and logits
            x, scores = x[:, 0], 1 / (1 + np.exp(-scores))
        if x.ndim == 3:
            ours = models.feature_network(model).predict(np.swapaxes(x, 1, 2))
        elif x.shape[1] == model.input_shape[1]:
            ours = model.predict(x, verbose=0)
        else:
            ours = any_length.predict(x, verbose=0)
        np.testing.assert_allclose(ours, scores, atol=case["suggested_atol_outputs"])
        log_mel = root / "random" / folder / f"logmel{case['suffix']}.npy"
        if log_mel.exists():  # [batch, mel, time], or [batch, harmonic, band, time]
            features = np.load(log_mel).astype(np.float32).T
            features = np.moveaxis(features, -1, 0)
            ours = models.feature_network(any_length).predict(features, verbose=0)
            tolerance = case["suggested_atol_outputs_from_logmel"]
            np.testing.assert_allclose(ours, scores, atol=tolerance)


TRAINED = {
    "sota_mtat_musicnn": "musicnn",
    "sota_jamendo_crnn": "crnn",
    "sota_msd_fcn": "fcn",
    "tf_MTT_musicnn": "musicnn_pons",
    "tf_MTT_vgg": "vgg_pons",
}


@pytest.mark.parametrize(("folder", "name"), marked(*TRAINED.items()))
def test_trained_weights_score_whole_clips_as_the_originals(
    load_reference, folder, name
):
    reference, root = load_reference
    model = conversion.convert(reference.load_weights(root / "trained" / folder), name)
    meta = json.loads((root / "trained" / folder / "meta.json").read_text())
    segmentation = models.model_info(model).segmentation
    for clip in ("joram", "trwj"):
        scores = np.load(root / f"trained/{folder}/outputs_{clip}.npy")
        (case,) = (case for case in meta["cases"] if clip in str(case))
        waveform = np.load(root / f"audio/{clip}_16000.npy") / np.float32(32768)
        blocks = iter(np.array_split(waveform, 5))
        segments = np.stack(list(stream(blocks, segmentation)))
        ours = model.predict(segments, verbose=0)
        tolerance = case["suggested_atol_outputs"]
        if name.endswith("_pons"):
            # The original rounded its spectrogram to float16, ours is float32.
            np.testing.assert_allclose(ours, scores, atol=2e-4)
            patches = np.load(root / f"preprocessing/{clip}_musicnn_patches.npy")
            ours = models.feature_network(model).predict(patches, verbose=0)
        np.testing.assert_allclose(ours, scores, atol=tolerance)


@pytest.mark.parametrize(
    ("folder", "stem"),
    marked(
        ("random/mtsa_pons_won", "pons_won_same_weights"),
        ("attention/vismodel_c8", "vismodel_c8"),
    ),
)
def test_attention_and_contribution_are_won_2019s(
    load_reference, folder, stem, monkeypatch
):
    reference, root = load_reference
    weights, cases, _ = reference.load_case(root / folder)
    model = conversion.convert(weights, "self_attention")
    log_mel = ops.convert_to_tensor(np.swapaxes(cases[0][1][:1], 1, 2))
    monkeypatch.setattr(model.get_layer("frontend"), "call", lambda waveform: log_mel)
    waveform = np.zeros(model.input_shape[1], np.float32)
    atol = json.loads((root / "attention/meta.json").read_text())["suggested_atol"]
    found = interpretation.attention(model, waveform)
    first, last = found.layers
    with np.load(root / f"attention/{stem}_heatmaps.npz") as heats:
        for head in range(8):
            # The original sums over the queries of a head.
            heat = found.heat(first, head, "all")
            np.testing.assert_allclose(heat, heats[f"att_1_{head}"] / 257, atol=atol)
            heat = found.heat(last, head)
            np.testing.assert_allclose(heat, heats[f"att_2_{head}"], atol=atol)
        heat = found.heat(first, queries="all")
        np.testing.assert_allclose(heat, heats["att_1"], atol=atol)
        np.testing.assert_allclose(found.heat(last), heats["att_2"], atol=atol)
    with np.load(root / f"attention/{stem}_contribution.npz") as scores:
        for number, name in enumerate(found.layers, 1):
            ours = interpretation.contribution(model, waveform, name)
            np.testing.assert_allclose(ours, scores[f"layer{number}"], atol=atol)
            if stem.startswith("pons_won"):
                path = root / f"attention/pons_won_layer{number}_probs_item0.npz"
                with np.load(path) as held:
                    ours = found.layers[name]
                    np.testing.assert_allclose(ours, held["probs"], atol=atol)
