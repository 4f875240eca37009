"""Records of any kind: which fields a batch has, and what the sources of every field of study are asked."""

from typing import Any

import numpy as np
import pytest

from ssljax.data.loader import batches, load_all
from ssljax.data.order import batch_indices
from ssljax.data.records import read_record, require_labels
from ssljax.types import BadInputError

RECORDS = [
    {"tokens": np.arange(n, n + 5), "length": n % 5 + 1, "weight": np.float32(n) / 4 + np.zeros(2), "label": -n}
    for n in range(11)
]
RUN: dict[str, Any] = {"batch_size": 4, "seed": 3, "num_steps": 5}


@pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["resident", "streamed"])
def test_a_batch_has_all_fields_but_the_label(resident_bytes):
    for step, batch in enumerate(batches(RECORDS, **RUN, resident_bytes=resident_bytes)):
        assert batch.keys() == {"tokens", "length", "weight"}
        rows = [RECORDS[index] for index in batch_indices(3, step, size=11, batch_size=4)]
        for name, values in batch.items():
            np.testing.assert_array_equal(values, [row[name] for row in rows])
        assert batch["length"].dtype == np.int32


@pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["resident", "streamed"])
@pytest.mark.parametrize("fields", [("label",), ("weight", "label"), ("tokens",)])
def test_a_batch_has_the_fields_that_are_asked_for(fields, resident_bytes):
    found = list(batches(RECORDS, **RUN, fields=fields, resident_bytes=resident_bytes))
    assert len(found) == 5
    assert all(batch.keys() == set(fields) for batch in found)


def test_the_whole_set_has_its_labels_unless_others_are_asked_for():
    whole = load_all(RECORDS)
    assert whole.keys() == {"tokens", "length", "weight", "label"}
    np.testing.assert_array_equal(whole["label"], -np.arange(11))
    assert whole["label"].dtype == np.int32
    assert load_all(RECORDS, fields=("length",)).keys() == {"length"}


def test_what_was_skipped_is_no_field():
    records = [record | {"skipped": {"7.png": "damaged"}} for record in RECORDS]
    assert next(iter(batches(records, **RUN))).keys() == {"tokens", "length", "weight"}
    assert "skipped" not in load_all(records)


def test_a_transform_may_name_its_fields():
    def lengths_squared(record, rng):
        return {"square": record["length"] ** 2, "noise": rng.random(2)}

    (batch,) = batches(RECORDS, batch_size=11, num_steps=1, transform=lengths_squared, fields=("square", "noise"))
    assert sorted(np.asarray(batch["square"])) == sorted(record["length"] ** 2 for record in RECORDS)
    assert batch["noise"].shape == (11, 2)


def test_fields_that_there_are_not_are_named():
    for resident_bytes in (1 << 20, 0):
        with pytest.raises(BadInputError, match="list has no field 'image'; use some of: tokens, length, weight"):
            list(batches(RECORDS, **RUN, fields=("image",), resident_bytes=resident_bytes))
    with pytest.raises(BadInputError, match="no field 'image'"):
        load_all(RECORDS, fields=("image",))
    with pytest.raises(BadInputError, match="list has no labels"):
        require_labels([{"tokens": np.zeros(3)}])


def test_whatever_a_source_raises_is_one_sentence():
    class Broken:
        def __len__(self):
            return 5

        def __getitem__(self, index):
            raise RuntimeError("no\nsuch  disk")

    with pytest.raises(
        BadInputError, match=r"^Broken: record 2 cannot be read \(RuntimeError: no such disk\); fix it\.$"
    ):
        read_record(Broken(), 2)
