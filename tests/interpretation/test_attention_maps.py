"""Attention and tag-wise contribution (Won, Chun and Serra 2019)."""

import keras
import numpy as np
import pytest
from drawn import draw_music
from narrow import narrow_options

from tagger import interpretation, models

SHORT = {
    "self_attention": {"num_samples": 16320},
    "cnn_self_attention": {"num_samples": 24000},
    "music_tagging_transformer": {"num_samples": 55125},
}


@pytest.fixture(params=SHORT, scope="module")
def attentive(request):
    """Returns a model with attention, and a waveform for it."""
    keras.utils.set_random_seed(0)
    name = request.param
    model = models.build_model(name, num_tags=3, **narrow_options(name) | SHORT[name])
    model.get_layer("input_norm").moving_variance.assign([400.0])
    for layer in interpretation.attention_maps.attention_layers(model):
        # With the drawn weights, every moment attends to all others equally.
        layer.query.kernel.assign(8 * layer.query.kernel)
    info = models.model_info(model)
    return model, draw_music(info.segmentation.num_samples, info.sample_rate)[0]


def test_every_query_shares_out_its_attention(attentive):
    model, waveform = attentive
    found = interpretation.attention(model, waveform)
    assert list(found.layers) == ["encoder1_attention", "encoder2_attention"]
    for name, attention in found.layers.items():
        assert attention.shape == (2, *2 * (len(found.seconds),))
        np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-5)
        assert np.ptp(attention) > 0.01
        summed = sum(found.heat(name, head, "all") for head in range(2))
        np.testing.assert_allclose(found.heat(name, None, "all"), summed, atol=1e-5)
        np.testing.assert_array_equal(found.heat(name, 1), attention[1, 0])


def test_steps_span_the_waveform(attentive):
    model, waveform = attentive
    sample_rate = models.model_info(model).sample_rate
    seconds = interpretation.attention(model, waveform).seconds
    step = (seconds[2] - seconds[1]) * sample_rate
    assert seconds[0] == 0 and np.ptp(np.diff(seconds[1:])) < 1e-9
    step_samples = {"self_attention": 256, "cnn_self_attention": 8 * 256,
                    "music_tagging_transformer": 4 * 512}  # fmt: skip
    assert step == pytest.approx(step_samples[model.name])
    # The last, incomplete step of a pooling is dropped, or becomes a step of its own.
    assert abs(seconds[-1] * sample_rate - len(waveform)) <= step


@pytest.mark.parametrize(
    ("name", "num_samples", "at"),
    [("cnn_self_attention", 80000, 20), ("music_tagging_transformer", 55125, 6)],
)
def test_a_step_lies_amid_what_it_hears(name, num_samples, at):
    import tensorflow as tf

    options = narrow_options(name) | {"num_samples": num_samples, "num_filters": 4}
    model = models.build_model(name, num_tags=3, **options)
    waveform = np.zeros(num_samples, np.float32)
    frontend, token = model.get_layer("frontend"), model.get_layer("class_token")
    log_mel = tf.random.normal(frontend(waveform[None]).shape, seed=0)
    with tf.GradientTape() as tape:
        tape.watch(log_mel)
        sequence = keras.Model(frontend.output, token.input)(log_mel)
        heard = tf.reduce_sum(tf.square(sequence[:, at]))
    rows = np.abs(tape.gradient(heard, log_mel)[0]).max(axis=1)
    frames = np.flatnonzero(rows > 0)
    seconds = interpretation.attention(model, waveform).seconds
    hop_seconds = frontend.log_mel.hop_length / frontend.log_mel.sample_rate
    middle = (seconds[at] + seconds[at + 1]) / 2 / hop_seconds
    # A maximum passes on the gradient of only one frame of a pair.
    assert (frames[0] + frames[-1]) / 2 == pytest.approx(middle, abs=1)


@pytest.mark.parametrize("name", ["encoder1_attention", "encoder2_attention"])
def test_contribution_is_that_of_a_forward_pass_per_moment(
    attentive, name, monkeypatch
):
    model, waveform = attentive
    ours = interpretation.contribution(model, waveform, name, batch_size=7)
    layer = model.get_layer(name)
    call = layer.call
    for at in (0, 1, ours.shape[1] // 2, ours.shape[1] - 1):
        one = np.eye(ours.shape[1], dtype=np.float32)[at]
        monkeypatch.setattr(
            layer, "call", lambda x, training=None, one=one: call(x, attention=one)
        )
        scores = model(waveform[None], training=False)[0]
        np.testing.assert_allclose(ours[:, at], scores, atol=1e-6)  # float32
    assert np.ptp(ours, axis=1).max() > 1e-4


def test_the_last_layer_is_the_default(attentive):
    model, waveform = attentive
    np.testing.assert_array_equal(
        interpretation.contribution(model, waveform),
        interpretation.contribution(model, waveform, "encoder2_attention"),
    )


def test_half_and_half_has_both_starts():
    first, second = np.arange(5), 10 + np.arange(5)
    joined = interpretation.half_and_half(first, second)
    assert joined.tolist() == [0, 1, 10, 11, 12]
    with pytest.raises(ValueError, match="have 5 and 4 samples"):
        interpretation.half_and_half(first, second[1:])


def test_what_there_is_not_is_said():
    model = models.build_model("fcn", num_tags=3, **narrow_options("fcn"))
    have = "Model fcn has no attention layers. Choose one of: self_attention .*, cnn"
    for function in (interpretation.attention, interpretation.contribution):
        with pytest.raises(ValueError, match=have):
            function(model, np.zeros(16000, np.float32))
    short = models.build_model(
        "self_attention", num_tags=3, **narrow_options("self_attention")
    )
    with pytest.raises(ValueError, match=r"takes a waveform of 65280 .*\(16000,\)"):
        interpretation.attention(short, np.zeros(16000, np.float32))
    with pytest.raises(ValueError, match="one axis"):
        interpretation.attention(short, np.zeros((1, 65280), np.float32))
    waveform = np.zeros(65280, np.float32)
    with pytest.raises(ValueError, match="no layer 'encoder9'. Choose one of: enc"):
        interpretation.contribution(short, waveform, "encoder9")
    found = interpretation.attention(short, waveform)
    with pytest.raises(ValueError, match="no head 2. Choose one of 0 to 1"):
        found.heat("encoder1_attention", 2)
    with pytest.raises(ValueError, match="'class' or 'all', not 'cls'"):
        found.heat("encoder1_attention", queries="cls")
    with pytest.raises(ValueError, match="no layer 'x'"):
        found.heat("x")
