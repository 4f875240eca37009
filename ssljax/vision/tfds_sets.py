"""Sets of tensorflow-datasets, read as array_record without TensorFlow."""

from typing import Any

from ssljax.data.tfds_sets import build_command, missing_split, prepared_builder
from ssljax.types import BadInputError
from ssljax.vision.reader import Reader


def open_tfds(name: str, split: str, data_dir: str | None) -> Reader:
    """One split of a prepared set that has a feature `image`, and perhaps a `label`."""
    import tensorflow_datasets as tfds

    builder = prepared_builder(tfds, name, data_dir)
    features: Any = dict(builder.info.features.items())
    if not isinstance(features.get("image"), tfds.features.Image):
        held = ", ".join(features)
        raise BadInputError(f"tfds:{name} has no feature 'image' but {held}; use another set.")
    try:
        records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise BadInputError(f"tfds:{name} is not array_record; run: {build_command(name, data_dir)}") from error
    except (ValueError, KeyError) as error:
        raise missing_split(f"tfds:{name}", split, builder.info.splits) from error
    label = features.get("label")
    labelled = isinstance(label, tfds.features.ClassLabel)

    def read(index):
        try:
            record = records[index]
            picture, number = record["image"], int(record["label"]) if labelled else None
        except Exception as error:  # array_record and tfds raise several kinds of exceptions on damaged bytes
            raise BadInputError(f"a damaged record ({' '.join(str(error).split())[:200]})") from error
        if not isinstance(picture, bytes):
            raise BadInputError("a damaged record (it has no picture)")
        return picture, number

    return Reader(
        name=f"tfds:{name} ({split})",
        length=len(records),
        read=read,
        picture_name=lambda i: f"tfds:{name} ({split}): picture {i}",
        class_names=tuple(label.names) if labelled else None,
        identity=f"{builder.info.full_name} {split}".encode(),
        channels=1 if features["image"].shape[-1] == 1 else 3,
    )
