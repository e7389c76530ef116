"""Compares each layer that the models share with its definition."""

import keras
import numpy as np
import pytest
from keras import ops

from tagger.models.blocks import convolution
from tagger.models.layers import (
    ClassToken,
    FirstPosition,
    LearnedPositions,
    SelfAttention,
    SinusoidPositions,
    TagScores,
    VerticalConv2D,
)
from tagger.segmentation import Segmentation


def sequence(length=6, channels=8, seed=0):
    random = np.random.RandomState(seed)
    return random.standard_normal((2, length, channels)).astype(np.float32)


def test_attention_is_softmax_of_scaled_products_per_head():
    x = sequence()
    layer = SelfAttention(2)
    output, attention = layer(x, return_attention=True)
    assert attention.shape == (2, 2, 6, 6)

    def projected(dense):
        values = x @ np.asarray(dense.kernel) + np.asarray(dense.bias)
        return values.reshape(2, 6, 2, 4)

    query, key, value = map(projected, (layer.query, layer.key, layer.value))
    logits = np.einsum("bqhc,bkhc->bhqk", query, key) / 2  # sqrt of 4 channels per head
    expected = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(attention, expected, atol=1e-6)
    context = np.einsum("bhqk,bkhc->bqhc", expected, value).reshape(2, 6, 8)
    last = layer.output_projection
    expected = context @ np.asarray(last.kernel) + np.asarray(last.bias)
    np.testing.assert_allclose(output, expected, atol=1e-5)


def test_given_attention_replaces_the_layers_own():
    x = ops.convert_to_tensor(sequence())
    layer = SelfAttention(2)
    output, attention = layer(x, return_attention=True)
    np.testing.assert_allclose(layer(x, attention=attention), output, atol=1e-6)
    # All heads and queries attend to step 3, so every step takes the value of step 3.
    at_three = np.zeros((1, 1, 1, 6), np.float32)
    at_three[..., 3] = 1
    looked = np.asarray(layer(x, attention=at_three))
    np.testing.assert_allclose(looked, looked[:, :1].repeat(6, axis=1), atol=1e-6)
    value = layer.output_projection(layer.value(x))
    np.testing.assert_allclose(looked[:, 0], np.asarray(value)[:, 3], atol=1e-6)


def test_attention_says_its_shapes_and_refuses_uneven_heads():
    x = keras.Input((6, 8))
    output, attention = SelfAttention(4)(x, return_attention=True)
    assert output.shape == (None, 6, 8) and attention.shape == (None, 4, 6, 6)
    with pytest.raises(ValueError, match="8 channels cannot be divided evenly among 3"):
        SelfAttention(3)(x)


def test_fixed_class_token_is_the_originals_draw():
    layer = ClassToken(learned=False)
    x = sequence(channels=4)
    longer = np.asarray(layer(x))
    # numpy.random.seed(0); numpy.random.random((1, 4))
    expected = np.float32([0.5488135, 0.71518937, 0.60276338, 0.54488318])
    np.testing.assert_allclose(longer[:, 0], [expected, expected], atol=1e-7)
    np.testing.assert_array_equal(longer[:, 1:], x)
    assert not layer.trainable_weights and len(layer.weights) == 1
    np.testing.assert_array_equal(FirstPosition()(longer), longer[:, 0])


def test_sinusoid_positions_interleave_and_begin_with_zeros():
    added = np.asarray(SinusoidPositions()(np.zeros((1, 3, 4), np.float32)))[0]
    rows = [[np.sin(p), np.cos(p), np.sin(p / 100), np.cos(p / 100)] for p in (1, 2)]
    np.testing.assert_allclose(added, [[0, 0, 0, 0], *rows], atol=1e-6)


def test_positions_refuse_a_longer_sequence():
    layer = LearnedPositions(6, name="positions")
    assert layer(sequence(6)).shape == (2, 6, 8)
    assert layer(sequence(4)).shape == (2, 4, 8)
    with pytest.raises(ValueError, match="positions has 6 positions but the sequence"):
        layer(sequence(7))


def test_vertical_convolution_is_the_same_in_training():
    x = np.random.RandomState(0).standard_normal((2, 12, 20, 1)).astype(np.float32)
    layer = VerticalConv2D(3, (5, 14), activation="relu")
    expected = layer(x)
    assert expected.shape == (2, 8, 7, 3)
    np.testing.assert_allclose(layer(x, training=True), expected, atol=1e-5)  # float32


@pytest.mark.parametrize("length", [9, 10, 11])
def test_strided_convolution_pads_alike_on_both_sides(length):
    x = keras.Input((length, 1))
    model = keras.Model(x, convolution(x, 1, (3,), "a", strides=3))
    model.get_layer("a_conv").set_weights([np.ones((3, 1, 1)), np.zeros(1)])
    given = np.arange(1, length + 1, dtype=np.float32)
    padded = np.concatenate([[0], given, [0]])
    sums = [padded[at : at + 3].sum() for at in range(0, length, 3)]
    outputs = model.predict(given[None, :, None], verbose=0)[0, :, 0]
    np.testing.assert_allclose(
        outputs, sums[: len(outputs)] / np.sqrt(1 + 1e-5), rtol=1e-5
    )
    assert len(outputs) == (length + 2 - 3) // 3 + 1  # as PyTorch counts


def test_bad_arguments_say_what_to_choose():
    with pytest.raises(ValueError, match="3 scores need as many tags. Received: 2"):
        TagScores(3, ("a", "b"))
    with pytest.raises(ValueError, match="must be 'drop' or 'pad'"):
        Segmentation(100, "cut")
