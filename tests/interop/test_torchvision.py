import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ssljax.interop import torchvision
from ssljax.interop.safetensors_file import read_metadata, read_safetensors, write_safetensors
from ssljax.models import from_linen, heads
from ssljax.models.resnet import resnet
from ssljax.types import BadInputError, chain

ENCODER = resnet((1, 2), bottleneck=True, width=4)


@pytest.fixture(scope="module")
def weights():
    shapes = jax.eval_shape(ENCODER.init, jax.random.key(0), jnp.zeros((2, 16, 16, 3)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


def assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_names_and_layouts_are_torchvisions(weights):
    state = torchvision.to_torchvision(*weights)
    assert state["conv1.weight"].shape == (4, 3, 7, 7)
    assert state["layer2.0.downsample.0.weight"].shape == (32, 16, 1, 1)
    assert state["layer2.1.bn3.running_var"].shape == (32,)
    assert state["layer1.0.bn1.num_batches_tracked"].dtype == np.int64
    kernel = weights[0]["layer1_0"]["conv2"]["kernel"]
    np.testing.assert_array_equal(state["layer1.0.conv2.weight"][1, 2, 0, 1], kernel[0, 1, 2, 1])
    np.testing.assert_array_equal(state["bn1.bias"], weights[0]["bn1"]["bias"])
    np.testing.assert_array_equal(state["bn1.running_mean"], weights[1]["bn1"]["mean"])


@pytest.mark.parametrize(
    "options",
    [
        {"stage_sizes": (2, 2, 2, 2)},
        {"stage_sizes": (1, 1), "stem": "cifar"},
        {"stage_sizes": (1, 12), "bottleneck": True, "zero_init_residual": True, "groups": 2},
    ],
)
def test_every_resnet_of_ours_has_names(options):
    encoder = resnet(**options, width=4)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((2, 16, 16, 3)))
    params, stats = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = torchvision.to_torchvision(params, stats)
    counters = sum(name.endswith("num_batches_tracked") for name in state)
    assert len(state) - counters == len(jax.tree.leaves((params, stats)))
    assert_same(torchvision.from_torchvision(state, like=shapes), jax.tree.map(jnp.asarray, (params, stats)))


class Cnn(nn.Module):
    """A convolution and a dense layer, whose kernel torch has the other way around."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3))(x)
        return nn.Dense(5)(x.mean((1, 2)))


class OfOurNames(nn.Module):
    """A ResNet's first layer, and a dense one behind it."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv1")(x)
        return nn.Dense(5, name="fc")(x.mean((1, 2)))


class WithBias(nn.Module):
    """A ResNet's first layer, with a bias that ours does not have."""

    @nn.compact
    def __call__(self, x):
        return nn.Conv(4, (3, 3), name="conv1")(x).mean((1, 2))


@pytest.mark.parametrize(
    ("encoder", "named"),
    [
        (from_linen(Cnn()), "Conv_0/bias"),
        (from_linen(OfOurNames()), "fc/bias"),
        (from_linen(WithBias()), "conv1/bias"),
        (chain(backbone=ENCODER, projector=heads.mlp((8, 8))), "backbone/bn1/bias"),
        (from_linen(nn.BatchNorm(use_running_average=True)), "bias"),
    ],
    ids=["cnn", "our-names", "bias", "with-projector", "norm"],
)
def test_what_is_no_resnet_of_ours_is_refused(encoder, named, tmp_path):
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((2, 16, 16, 3)))
    other = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    words = f"^{named} is no part of a ResNet of ssljax.models.resnet.*; choose another writer for this encoder\\.$"
    with pytest.raises(BadInputError, match=words):
        torchvision.to_torchvision(*other)
    with pytest.raises(BadInputError, match=words):
        torchvision.save_safetensors(tmp_path / "r.safetensors", *other)
    with pytest.raises(BadInputError, match=named):
        torchvision.from_torchvision({}, like=other)
    assert not any(tmp_path.iterdir())


def test_a_file_brings_back_every_bit(weights, tmp_path):
    torchvision.save_safetensors(tmp_path / "r.safetensors", *weights)
    like = jax.eval_shape(lambda: weights)
    assert_same(torchvision.load_safetensors(tmp_path / "r.safetensors", like), weights)
    assert [file.name for file in tmp_path.iterdir()] == ["r.safetensors"]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    arrays, facts = {"w": np.arange(6.0).reshape(2, 3)}, {letter: f"{letter}é" for letter in "dbfaceg"}
    write_safetensors(tmp_path / "a", arrays, facts)
    content = (tmp_path / "a").read_bytes()
    places = [content.index(f'"{name}":'.encode()) for name in sorted({*facts, "format"})]
    assert places == sorted(places)
    assert read_metadata(tmp_path / "a") == facts | {"format": "pt"}
    np.testing.assert_array_equal(read_safetensors(tmp_path / "a")["w"], arrays["w"])


def test_a_classifier_and_counters_are_ignored(weights):
    state = torchvision.to_torchvision(*weights)
    state = {name: value for name, value in state.items() if "num_batches" not in name}
    assert_same(torchvision.from_torchvision(state | {"fc.weight": np.ones((9, 32))}, like=weights), weights)


def test_a_file_is_not_overwritten(weights, tmp_path):
    path = tmp_path / "r.safetensors"
    path.write_text("precious")
    with pytest.raises(BadInputError, match="exists"):
        torchvision.save_safetensors(path, *weights)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_and_missing_file_are_named(weights, tmp_path):
    with pytest.raises(BadInputError, match="make it first"):
        torchvision.save_safetensors(tmp_path / "no" / "r.safetensors", *weights)
    with pytest.raises(BadInputError, match="no such file"):
        torchvision.load_safetensors(tmp_path / "r.safetensors", weights)


def test_what_differs_is_named_with_both_shapes(weights):
    state = torchvision.to_torchvision(*weights)
    without = {name: value for name, value in state.items() if name != "layer2.1.conv3.weight"}
    with pytest.raises(BadInputError, match=r"layer2\.1\.conv3\.weight is missing.*\(32, 8, 1, 1\)"):
        torchvision.from_torchvision(without, like=weights)
    with pytest.raises(BadInputError, match=r"layer3\.0\.bn1\.bias with shape \(5,\) is unexpected"):
        torchvision.from_torchvision(state | {"layer3.0.bn1.bias": np.ones(5)}, like=weights)
    with pytest.raises(BadInputError, match=r"conv1\.weight has shape \(4, 3, 3, 3\).*needs \(4, 3, 7, 7\)"):
        torchvision.from_torchvision(state | {"conv1.weight": np.ones((4, 3, 3, 3))}, like=weights)
