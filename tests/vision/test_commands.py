"""The four commands on one folder of pictures of any sizes, nested and without labels."""

import json
import re

import numpy as np
import pytest

from ssljax.cli import main as commands
from ssljax.interop import torchvision
from ssljax.interop.safetensors_file import read_safetensors
from ssljax.vision.export import METADATA
from tests.vision.picture_files import RNG, colours, encoded, save

pytestmark = pytest.mark.slow

SMALL = ("--steps", "2", "--size", "16", "--width", "8", "--batch-size", "8", "--log-every", "1", "--devices", "1")
SMALL += ("--no-compiler-check",)


def ssljax(*arguments):
    commands.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 pictures of different sizes, some deeper than others, and a file that is none."""
    root = tmp_path_factory.mktemp("data")
    for number in range(24):
        path = root / ("deep/er" if number % 2 else ".") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(colours(20 + number, 30)))
    (root / "deep/notes.txt").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """The directory of a finished run."""
    workdir = tmp_path_factory.mktemp("runs") / "mine"
    ssljax("pretrain", "--data", f"folder:{folder}", "--workdir", workdir, *SMALL)
    return workdir


def test_a_run_without_labels_leaves_everything(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "pretext_top1", "embedding_std", "alignment", "lr"} <= rows[0].keys()
    assert {"rankme", "alpha_req", "lidar", "uniformity"} <= rows[-1].keys()
    assert all(np.isfinite(value) for row in rows for value in row.values())
    table = json.loads((run / "results.json").read_text())
    assert table.keys() == {"untrained", "moco"}
    assert table["moco"].keys() == {"rankme", "alpha_req", "lidar", "uniformity"}
    page = (run / "report.html").read_text()
    for part in ("coloured by k-means, as there are no labels", "Without labels", "Nearest neighbours", "queue size"):
        assert part in page
    assert "green frame" not in page
    config = json.loads((run / "config.json").read_text())
    assert (config["batch_size"], config["size"], config["queue_size"], config["stem"]) == (8, 16, 8, "cifar")


def test_the_same_command_shows_the_results_again(run, folder, capsys):
    """What was chosen then is taken from the run: the data is not looked at again."""
    ssljax("pretrain", "--data", f"folder:{folder}", "--workdir", run, *SMALL)
    said = capsys.readouterr().out
    assert "is finished; these are its results" in said
    assert "Chosen:" not in said


def test_another_option_is_refused(run, folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        ssljax("pretrain", "--data", f"folder:{folder}", "--workdir", run, *SMALL, "--temperature", ".5")
    assert stopped.value.code == 2
    assert "holds another run (temperature 0.2, not 0.5)" in capsys.readouterr().err


def test_the_encoder_embeds_by_itself(run, folder, tmp_path, capsys):
    ssljax("embed", "--run", run, f"folder:{folder}", tmp_path / "v.npz")
    found = np.load(tmp_path / "v.npz")
    assert found["names"][0] == "00.png"
    assert "deep/er/01.png" in found["names"]
    assert found["vectors"].shape == (24, 32)
    alone = tmp_path / "elsewhere.safetensors"
    alone.write_bytes((run / "backbone.safetensors").read_bytes())
    ssljax("embed", "--run", alone, f"folder:{folder}", tmp_path / "v.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), found["vectors"])
    assert "1 .txt" in capsys.readouterr().out


def test_the_encoder_is_evaluated_and_exported(run, tmp_path, capsys):
    labelled = tmp_path / "labelled"
    for number in range(20):
        path = labelled / ("red" if number % 2 else "blue") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = 200 * np.eye(3)[number % 2]
        path.write_bytes(encoded((shade + RNG.integers(0, 40, (24, 28, 3))).astype(np.uint8)))
    ssljax("evaluate", "--run", run, "--data", f"folder:{labelled}", "--draws", "2")
    said = capsys.readouterr().out
    assert "18 training and 2 test pictures of 2 classes" in said
    assert "every tenth picture of each class, 2 of 20, is held out" in said
    held = json.loads((run / "evaluation_folder_labelled" / "evaluation.json").read_text())
    assert held["results"]["pixels"]["knn"] == 100
    assert (run / "evaluation_folder_labelled" / "evaluation.html").exists()
    ssljax("export", "--run", run, "--to", "timm", tmp_path / "exported")
    facts = json.loads(_metadata(tmp_path / "exported" / "backbone.safetensors")[METADATA])
    assert facts.keys() == {
        "size", "resize", "mean", "std", "stage_sizes", "bottleneck", "stem", "width", "channels"
    }  # fmt: skip
    assert (facts["size"], facts["width"], facts["stem"]) == (16, 8, "cifar")


def _metadata(path):
    from ssljax.interop.safetensors_file import read_metadata

    return read_metadata(path)


def test_a_run_goes_on_from_an_earlier_encoder(run, folder, tmp_path, capsys):
    options = [option for option in SMALL if option not in ("--width", "8", "--steps", "2", "--batch-size")]
    options += ["--steps", "1", "--batch-size", "8", "--init", str(run), "--learning-rate", "0", "--weight-decay", "0"]
    ssljax("pretrain", "--data", f"folder:{folder}", "--workdir", tmp_path / "next", *options)
    said = capsys.readouterr().out
    assert re.search(rf"(\d+) of \1 arrays of the encoder start from {run}", said)
    assert "--width 8" in said
    old, new = (read_safetensors(place / "backbone.safetensors") for place in (run, tmp_path / "next"))
    for name, value in old.items():
        if "running" not in name and "tracked" not in name:  # statistics move in a step
            np.testing.assert_array_equal(new[name], value)
    assert json.loads((tmp_path / "next" / "results.json").read_text()).keys() == {"init", "moco"}
    torchvision.architecture(new)


def test_labelled_pictures_of_five_channels(tmp_path, capsys):
    labels = np.arange(40) % 2
    images = (150 * np.eye(5)[labels][:, None, None] + RNG.integers(0, 60, (40, 20, 20, 5))).astype(np.uint8)
    spec = save(tmp_path / "five.npz", train_images=images, train_labels=labels)
    ssljax("pretrain", "--data", spec, "--workdir", tmp_path / "five", *SMALL, "--method", "simclr")
    said = capsys.readouterr().out
    assert "of 5 channels, all of one size" in said
    assert "every tenth picture of each class, 4 of 40, is held out" in said
    table = json.loads((tmp_path / "five" / "results.json").read_text())
    assert table.keys() == {"pixels", "untrained", "simclr"}
    assert table["pixels"].keys() == {"knn", "linear", "linear_10_per_class"}
    assert table["pixels"]["linear"] == 100
    ssljax("evaluate", "--run", tmp_path / "five", "--data", spec, "--draws", "2", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "evaluation.html").exists()
    ssljax("embed", "--run", tmp_path / "five", spec, tmp_path / "v.npz")
    found = np.load(tmp_path / "v.npz")
    assert found["names"][1] == "train/1"
    np.testing.assert_array_equal(found["labels"], labels)


def test_a_dry_run_trains_nothing(folder, tmp_path, capsys):
    ssljax("pretrain", "--data", f"folder:{folder}", "--workdir", tmp_path / "dry", *SMALL, "--dry-run", "--grey")
    said = capsys.readouterr().out
    assert "of 1 channels" in said
    assert "2 steps of 8 pictures, 3 an epoch; a step takes" in said
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("pretrain", "--workdir", "x"), "data='': give the pictures"),
        (("pretrain", "--data", "folder:none"), "folder:none: there is no such folder"),
        (("embed", "folder:none", "v.npz", "--run", "none"), "run=none"),
        (
            ("embed", "none.txt", "v.npy", "--run", "none"),
            "input=none.txt is not a file; give a text file",
        ),
        (("embed", "folder:none", "v.txt", "--run", "none"), "v.txt: give a name that ends with .npz or .npy"),
        (("embed", "folder:none", "none/v.npz", "--run", "none"), "none/v.npz: give a name that ends with"),
        (("evaluate", "--run", "none"), "data='': give labelled pictures"),
        (("evaluate", "--data", "folder:none", "--run", "none"), "run=none"),
        (("evaluate", "--data", "folder:none", "--run", "none", "--draws", "1"), "draws=1: give at least 2"),
    ],
)
def test_invalid_input_is_one_sentence(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        ssljax(*arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
