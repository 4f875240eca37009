"""Random bytes in manifests, checkpoints and exchanged weights: loaded or refused in a sentence, in bounded memory.

No code runs: Python's audit hooks see every pickle and every program, and some of the bytes are a pickle that would
create a file.
"""

import resource
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments.bench import children, fault_files, trials
from ssljax.interop import huggingface, torchvision
from ssljax.models.bert import bert, mlm_head, word_table
from ssljax.models.bert_layers import BertShape
from ssljax.models.resnet import resnet
from ssljax.train import checkpoint
from ssljax.train.saving import manifest
from ssljax.types import BadInputError, PyTree

ROOM = 1 << 30  # bytes of address space that a child may take on top of what it has
ALARMS = {"pickle.find_class", "os.exec", "os.fork", "os.posix_spawn", "os.system", "subprocess.Popen"}
ROWS = 4  # of the checkpoint's largest leaf
RESNET = resnet((1,), width=2, stem="cifar")
BERT = BertShape(vocab_size=11, hidden=4, layers=1, heads=2, intermediate=6, positions=5)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SHARES = {  # of the trials
    "manifest": 0.35,
    "checkpoint": 0.25,
    "safetensors, torchvision's names": 0.2,
    "safetensors, Hugging Face's": 0.1,
    "config.json": 0.1,
}


def fuzz(count: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Change bytes of a file and read it, `count` times.

    A checkpoint's files are sealed again after the change, so that orbax reads what the manifest would have refused.

    Args:
        count: trials.
        folder: for everything; exists.
        seed: of the changes.

    Returns:
        What `trials.run` says.
    """
    children.call(lambda: _write(folder), folder)

    def ready() -> trials.Trial:
        return _Reader(folder, seed).trial

    found = trials.run(count, folder, ready)
    return found | {"bad": found["bad"] + (folder / "ran").exists()}


def mutated(content: bytes, harm: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Other bytes, and how they came about; half of the places are near the beginning or the end."""
    data = bytearray(content)
    place = int(rng.choice([rng.integers(len(data)), rng.integers(min(len(data), 3000))]))
    place = len(data) - 1 - place if rng.integers(4) == 0 else place
    kind = rng.choice(["a flipped bit", "another byte", "another number", "cut off", "put in", "taken out", "a pickle"])
    if kind == "a flipped bit":
        data[place] ^= 1 << rng.integers(8)
    elif kind == "another byte":
        data[place] = rng.integers(256)
    elif kind == "another number":
        data[place : place + 8] = struct.pack("<q", int(rng.integers(-(1 << 62), 1 << 62)) >> int(rng.integers(62)))
    elif kind == "cut off":
        del data[place:]
    elif kind == "taken out":
        del data[place : place + rng.integers(1, 9)]
    else:
        data[place:place] = harm if kind == "a pickle" else rng.bytes(int(rng.integers(1, 9)))
    return bytes(data), str(kind)


def _write(folder: Path) -> None:
    fault_files.save(folder / "intact", [fault_files.tiny_state(1, ROWS)])
    torchvision.save_safetensors(folder / "r.safetensors", *_resnet_weights())
    huggingface.save_pretrained(folder / "bert", _bert_weights(), BERT, WORDS, True)


def _resnet_weights() -> tuple[PyTree, PyTree]:
    return RESNET.init(jax.random.key(0), jnp.zeros((2, 4, 4, 3)))


def _bert_weights() -> PyTree:
    ids = jnp.zeros((1, 1), jnp.int32)
    encoder = bert(BERT).init(jax.random.key(0), ids, ids, ids[0])[0]
    hidden = jnp.zeros((1, 1, BERT.hidden))
    return {"encoder": encoder, "mlm": mlm_head(BERT).init(jax.random.key(1), hidden, word_table(encoder))[0]}


class _Reader:
    """A child's: reads the mutated files with little memory, and hears alarms."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed, self.alarms = folder, seed, []
        # what Python's `pickle` would make of these bytes: os.system
        self.harm = f"cposix\nsystem\n(S'touch {folder}/ran'\ntR.".encode()
        like = jax.eval_shape(_resnet_weights)
        weights, model = folder / "r.safetensors", folder / "bert"
        self.reads: dict[str, tuple[Path, Callable[[], PyTree]]] = {
            "safetensors, torchvision's names": (weights, lambda: torchvision.load_safetensors(weights, like)),
            "safetensors, Hugging Face's": (model / "model.safetensors", lambda: huggingface.load_pretrained(model)[0]),
            "config.json": (model / "config.json", lambda: huggingface.load_pretrained(model)[0]),
        }
        self.intact = {name: read() for name, (_, read) in self.reads.items()}
        self.state = fault_files.tiny_state(1, ROWS)
        self.restored(folder / "intact")
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, held + ROOM))
        sys.addaudithook(lambda event, arguments: self.alarms.append(event) if event in ALARMS else None)

    def trial(self, number: int) -> dict[str, str]:
        rng = np.random.default_rng((self.seed, number))
        file = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        outcome, kind = self.weights(file, rng) if file in self.reads else self.saved(file, rng)
        return {"outcome": "code run" if self.alarms else outcome, "kind": kind, "file": file}

    def weights(self, file: str, rng: np.random.Generator) -> tuple[str, str]:
        path, read = self.reads[file]
        content = path.read_bytes()
        changed, kind = mutated(content, self.harm, rng)
        path.write_bytes(changed)
        try:
            return self.outcome(read, lambda found: _alike(found, self.intact[file])), kind
        finally:
            path.write_bytes(content)

    def saved(self, file: str, rng: np.random.Generator) -> tuple[str, str]:
        workdir = self.folder / "changed"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(self.folder / "intact", workdir)
        step = workdir / "checkpoints" / "1"
        files = sorted(path for path in step.rglob("*") if path.is_file() and path.name != manifest.NAME)
        path = step / manifest.NAME if file == "manifest" else files[rng.integers(len(files))]
        changed, kind = mutated(path.read_bytes(), self.harm, rng)
        path.write_bytes(changed)
        if file == "checkpoint":
            body = manifest.read(epath.Path(step))
            (step / manifest.NAME).unlink()
            manifest.write(epath.Path(step), {key: body[key] for key in body if key not in ("format", "files")})
        return self.outcome(lambda: self.restored(workdir), lambda found: fault_files.same(found, self.state)), kind

    def restored(self, workdir: Path) -> PyTree:
        checkpoints = checkpoint.open_checkpoints(str(workdir))
        try:
            return checkpoint.restore(checkpoints, self.state, say=lambda line: None)
        finally:
            checkpoint.close(checkpoints)

    def outcome(self, read: Callable[[], PyTree], right: Callable[[PyTree], bool]) -> str:
        try:
            return "loaded" if right(read()) else "silent wrong"
        except BadInputError as error:
            return "refused in a sentence" if "\n" not in str(error) else "exception"
        except Exception as error:
            print(repr(error), flush=True)
            return "exception"


def _alike(found: PyTree, wanted: PyTree) -> bool:
    """Whether the shapes are the same; nothing tells whether the numbers of exchanged weights are."""
    shapes = [jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree) for tree in (found, wanted)]
    return shapes[0] == shapes[1]
