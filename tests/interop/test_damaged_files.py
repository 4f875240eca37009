"""Files that lie about what they hold: one sentence each, in little memory."""

import json
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ssljax.interop import huggingface, torchvision
from ssljax.models.resnet import resnet
from ssljax.types import BadInputError
from ssljax.vision.sources import open_source

ROOT = Path(__file__).parents[2]
ROOM = 1 << 30
RESNET = resnet((1,), width=2, stem="cifar")
HUGE = 10**12


def resnet_weights():
    return RESNET.init(jax.random.key(0), jnp.zeros((2, 4, 4, 3)))


def header_of(tensors, body=b"", length=None):
    """A safetensors file with a header of our own."""
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS = {
    "empty": b"",
    "short": b"\x08\0\0",
    "a header of 2^60 bytes": header_of({}, length=1 << 60),
    "a header past the end": header_of({}, length=3),
    "10^12 elements": header_of({"a": tensor([HUGE], 0, 4 * HUGE)}),
    "10^12 elements in 4 bytes": header_of({"a": tensor([HUGE], 0, 4)}, bytes(4)),
    "a shape that overflows": header_of({"a": tensor([1 << 62, 1 << 10], 0, 4)}, bytes(4)),
    "past the end": header_of({"a": tensor([2], 0, 8)}, bytes(4)),
    "far offsets": header_of({"a": tensor([1], HUGE, HUGE + 4)}, bytes(4)),
    "overlapping": header_of({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, bytes(8)),
    "a hole": header_of({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, bytes(12)),
    "negative": header_of({"a": tensor([1], -4, 0)}, bytes(4)),
    "backwards": header_of({"a": tensor([1], 4, 0)}, bytes(4)),
    "a negative shape": header_of({"a": tensor([-1], 0, 4)}, bytes(4)),
    "an unknown type": header_of({"a": tensor([1], 0, 4, "F99")}, bytes(4)),
    "nested": header_of(b"[" * 100_000),
    "no header": header_of(b"\xff\xfe\0"),
    "more than it says": header_of({"a": tensor([1], 0, 4)}, bytes(12)),
}


def npy(shape, dtype, body):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def npz(compression=zipfile.ZIP_STORED, **members):
    def write(path):
        with zipfile.ZipFile(path, "w", compression) as stored:
            for name, content in members.items():
                stored.writestr(f"{name}.npy", content)

    return write


def claimed(path):
    """A directory of a zip file that claims 10^12 bytes of one member."""
    npz(train_images=npy((HUGE, 1, 1), "|u1", bytes(9)))(path)
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02")
    sizes = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    path.write_bytes(content[: at + 20] + sizes + content[at + 28 :])


def jpegs(offsets):
    return lambda path: np.savez(path, train_jpeg=np.zeros(9, np.uint8), train_offsets=np.array(offsets))


def labelled(**arrays):
    return lambda path: np.savez(path, train_images=np.zeros((2, 2, 2), np.uint8), **arrays)


ARRAYS = {
    "10^12 pictures": npz(train_images=npy((HUGE, 28, 28), "|u1", bytes(9))),
    "10^12 pictures, deflated": npz(zipfile.ZIP_DEFLATED, train_images=npy((HUGE, 28, 28), "|u1", bytes(9))),
    "10^12 names of no bytes": npz(train_images=npy((1, 1, 1), "|u1", bytes(1)), class_names=npy((HUGE,), "<U0", b"")),
    "negative": npz(train_images=npy((-1, 28, 28), "|u1", bytes(9))),
    "a directory that claims 4 GB": claimed,
    "a header of 2^32 bytes": npz(train_images=b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFFF)),
    "bzip2": npz(zipfile.ZIP_BZIP2, train_images=npy((10**6, 1, 1), "|u1", bytes(10**6))),
    "no array": npz(train_images=b"nothing"),
    "more than its array": npz(train_images=npy((1, 1, 1), "|u1", bytes(9))),
    "far offsets": jpegs([0, HUGE]),
    "negative offsets": jpegs([-5, 9]),
    "falling offsets": jpegs([0, 9, 3]),
    "offsets beyond 2^63": jpegs(np.array([0, (1 << 64) - 1], np.uint64)),
    "one name": labelled(train_labels=np.array([0, 0]), class_names=np.array("cat")),
}
CONFIGS = {
    "a list": "[]",
    "nested": "[" * 100_000,
    "wide": json.dumps({"model_type": "bert", "hidden_size": HUGE}),
    "deep": json.dumps({"model_type": "bert", "num_hidden_layers": 10**7}),
    "large": json.dumps(
        {"model_type": "bert", "num_hidden_layers": 1, "vocab_size": (1 << 24) - 1, "hidden_size": 12 << 20}
    ),
    "no heads": json.dumps({"model_type": "bert", "num_attention_heads": 0}),
    "odd heads": json.dumps({"model_type": "bert", "num_attention_heads": 7}),
    "text": json.dumps({"model_type": "bert", "hidden_size": "768"}),
    "null": json.dumps({"model_type": "bert", "hidden_size": None}),
    "not a number": '{"model_type": "bert", "layer_norm_eps": NaN}',
    "a type that is a list": json.dumps({"model_type": "bert", "hidden_act": []}),
}


def cases(folder):
    """Every damaged file with the call that reads it."""
    like = resnet_weights()
    for name, content in SAFETENSORS.items():
        path = folder / f"{name}.safetensors"
        path.write_bytes(content)
        yield path, lambda path=path: torchvision.load_safetensors(path, like)
    for name, write in ARRAYS.items():
        path = folder / f"{name}.npz"
        write(path)
        yield path, lambda path=path: list(open_source(f"arrays:{path}", "train"))
    for name, config in CONFIGS.items():
        path = folder / name
        path.mkdir()
        (path / "config.json").write_text(config)
        safetensors.numpy.save_file({"embeddings.LayerNorm.bias": np.zeros(3)}, path / "model.safetensors")
        yield path, lambda path=path: huggingface.load_pretrained(path)


def refuse_all(folder):
    for path, read in cases(folder):
        with pytest.raises(BadInputError) as error:
            read()
        assert str(path) in str(error.value), (path, error.value)
        assert "\n" not in str(error.value)


def test_files_that_lie_are_refused_by_name(tmp_path):
    refuse_all(tmp_path)


def test_they_are_refused_within_bounded_memory(tmp_path):
    code = (
        "import sys, pathlib\n"
        "from tests.interop import test_damaged_files as damaged\n"
        "damaged.refuse_within_limit(pathlib.Path(sys.argv[1]))"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split()[-1] == "refused"


def refuse_within_limit(folder):
    resnet_weights()
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, held + ROOM))
    with pytest.raises(MemoryError):
        np.ones(ROOM)
    refuse_all(folder)
    print("refused")
