"""An encoder from its file alone gives what timm, and the run that wrote it, give for the same pictures."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from ssljax.interop import torchvision
from ssljax.models.resnet import resnet
from ssljax.types import BadInputError
from ssljax.vision import embedding, encoder_file, evaluation
from ssljax.vision.export import METADATA
from ssljax.vision.pictures import resize_center
from ssljax.vision.sources import open_source
from ssljax.vision.splits import open_splits
from tests.oracles.torchvision_import import load_torchvision
from tests.vision.picture_files import RNG, colours, encoded, save

FACTS = {"size": 16, "resize": 20, "mean": [0.3, 0.4, 0.5], "std": [0.2, 0.3, 0.4]}


@pytest.fixture(scope="module")
def weights():
    """A small ResNet with statistics that are not those of the start."""
    params, stats = resnet((1, 1), width=8).init(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    return params, jax.tree.map(lambda leaf: np.abs(RNG.normal(1, 0.1, leaf.shape)).astype(np.float32), stats)


@pytest.fixture
def file(tmp_path, weights):
    params, stats = weights
    torchvision.save_safetensors(tmp_path / "a.safetensors", params, stats, {METADATA: json.dumps(FACTS)})
    return tmp_path / "a.safetensors"


def test_the_files_of_timm_are_embedded_with_as_in_timm(tmp_path):
    torch = pytest.importorskip("torch")
    load_torchvision()  # timm imports it
    timm = pytest.importorskip("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    model = timm.create_model("resnet18", num_classes=0).eval()
    safetensors.save_file(model.state_dict(), tmp_path / "timm.safetensors")
    encoder = encoder_file.load_encoder(str(tmp_path / "timm.safetensors"))
    assert "does not say how pictures are prepared" in encoder.notes[0]
    (tmp_path / "pictures").mkdir()
    pixels = [colours(300, 260), colours(224, 500)]
    for number, image in enumerate(pixels):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(encoded(image))
    opened = embedding.open_all(f"folder:{tmp_path}/pictures", "", encoder)
    found = embedding.embed(encoder, opened, f"folder:{tmp_path}/pictures")
    assert found.names == ["0.png", "1.png"]
    wanted = np.stack([_as_timm(image, timm.data) for image in pixels])
    with torch.no_grad():
        np.testing.assert_allclose(found.vectors, model(torch.tensor(wanted)).numpy(), atol=2e-3, rtol=2e-3)


def _as_timm(image, data):
    """Shorter side to 256, bilinear, central 224, ImageNet's mean and std: float32 [3, 224, 224]."""
    height, width = (int(256 * side / min(image.shape[:2])) for side in image.shape[:2])
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    top, left = round((height - 224) / 2), round((width - 224) / 2)
    centre = resized[top : top + 224, left : left + 224] / 255
    return ((centre - data.IMAGENET_DEFAULT_MEAN) / data.IMAGENET_DEFAULT_STD).astype(np.float32).transpose(2, 0, 1)


def test_what_the_file_says_is_done(file, weights, tmp_path):
    encoder = encoder_file.load_encoder(str(file))
    assert not encoder.notes
    image = colours(40, 30)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.png").write_bytes(encoded(image))
    found = embedding.embed(encoder, embedding.open_all(f"folder:{tmp_path}/x", "", encoder), f"folder:{tmp_path}/x")
    prepared = resize_center(16, 20)({"image": image}, np.random.default_rng(0))["image"]
    floats = (prepared / 255 - np.array(FACTS["mean"])) / np.array(FACTS["std"])
    wanted, _ = resnet((1, 1), width=8).apply(*weights, floats[None].astype(np.float32), train=False)
    np.testing.assert_allclose(found.vectors, wanted, atol=1e-4)


def test_all_splits_and_labels_by_name(file, tmp_path):
    encoder = encoder_file.load_encoder(str(file))
    for name in ("train/cat/a.png", "train/dog/b.png", "test/dog/c.png", "test/emu/d.png"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(encoded(colours(20, 20)))
    (tmp_path / "x/train/cat/z.png").write_bytes(b"no picture")
    spec, said = f"folder:{tmp_path}/x", []
    with pytest.raises(BadInputError, match=r"z\.png: not a picture.*--skip-bad"):
        embedding.embed(encoder, embedding.open_all(spec, "", encoder), spec)
    found = embedding.embed(encoder, embedding.open_all(spec, "", encoder, skip_bad=True), spec, said.append)
    assert found.names == ["train/cat/a.png", "train/dog/b.png", "test/dog/c.png", "test/emu/d.png"]
    assert found.labels is not None
    assert [found.class_names[label] for label in found.labels] == ["cat", "dog", "dog", "emu"]
    assert any("z.png" in sentence and "left out" in sentence for sentence in said)
    embedding.write(tmp_path / "v.npz", found)
    written = np.load(tmp_path / "v.npz")
    assert sorted(written) == ["class_names", "labels", "names", "vectors"]
    assert written["vectors"].shape == (4, 16)
    only = embedding.embed(encoder, embedding.open_all(spec, "test", encoder), spec)
    np.testing.assert_allclose(only.vectors, found.vectors[2:], atol=1e-6)


def test_a_folder_without_splits_is_embedded_whole(file, tmp_path):
    """Whatever its folders are called: none of them is taken for all of it."""
    encoder = encoder_file.load_encoder(str(file))
    for name in ("all/a.png", "full/b.png"):
        (tmp_path / "x" / name).parent.mkdir(parents=True)
        (tmp_path / "x" / name).write_bytes(encoded(colours(20, 20)))
    spec = f"folder:{tmp_path}/x"
    assert embedding.embed(encoder, embedding.open_all(spec, "", encoder), spec).names == ["all/a.png", "full/b.png"]


def test_an_evaluation_beside_its_controls(file, tmp_path, monkeypatch):
    """Classes told apart by their colour: found by all, and the table has what can be had from 7 a class."""
    encoder = encoder_file.load_encoder(str(file))
    labels = np.arange(24) % 3 + 5
    images = (200 * np.eye(3)[labels - 5][:, None, None] + RNG.integers(0, 30, (24, 16, 16, 3))).astype(np.uint8)
    spec = save(tmp_path / "x.npz", train_images=images, train_labels=labels)
    splits = open_splits(lambda split: open_source(spec, split), "train", "test")
    monkeypatch.setattr(encoder_file, "AT_ONCE", 10)
    found = evaluation.evaluate(encoder, splits, draws=2, say=lambda sentence: None)
    assert found.counts == {"train": 21, "test": 3, "classes": 3}
    assert list(found.table) == ["pixels", "untrained", "encoder"]
    assert found.table["pixels"]["knn"] == found.table["pixels"]["linear"] == 100
    assert found.table["encoder"].keys() == {"knn", "linear", "linear_1_per_class", "linear_5_per_class"}
    evaluation.write(tmp_path / "out", encoder, splits, found)
    held = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert held["about"]["classes"] == 3
    assert len(held["results"]["pixels"]["linear_1_per_class"]) == 2
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "linear 1 per class" in page
    assert "±" in page


def test_what_cannot_be_used_is_refused(file, tmp_path):
    with pytest.raises(BadInputError, match=r"there is no backbone\.safetensors; give the directory of a finished run"):
        encoder_file.load_encoder(str(tmp_path))
    with pytest.raises(BadInputError, match=r"there is no none\.safetensors"):
        encoder_file.load_encoder(str(tmp_path / "none.safetensors"))
    import safetensors.numpy

    safetensors.numpy.save_file({"w": np.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(BadInputError, match="holds no ResNet under torchvision's names"):
        encoder_file.load_encoder(str(tmp_path / "other.safetensors"))
    encoder = encoder_file.load_encoder(str(file))
    spec = save(tmp_path / "g.npz", train_images=RNG.integers(0, 256, (4, 8, 8, 5), dtype=np.uint8))
    with pytest.raises(BadInputError, match=r"pictures of 5 channels, and .* takes 3"):
        embedding.embed(encoder, {"train": open_source(spec, "train")}, spec)
