"""Pictures decoded once: from any data set to pixels in a file that is mapped into memory.

Each picture's shorter side is resized to --size and the central square kept, as uint8: no JPEG is decoded while
training, and a set that fits on the devices can be resident there. Train from it with --data packed:OUT; random
crops are then taken from that square. OUT/SPLIT appears when it is complete; a stopped run leaves OUT/SPLIT.partial,
which the next one replaces.

Paper: none
Figure: none
Command: python -m experiments.pack_images --data folder:imagenet --split train --size 256 --out packed/imagenet
Cost: size x size x 3 bytes a picture: 252 GB for ImageNet at 256, 9.7 GB for ImageNet-100 at 160
Differs: what lies outside of the central square is lost to the random crops.
"""

import dataclasses
import sys
import time

from ssljax.cli.arguments import parse
from ssljax.cli.experiments import refuse
from ssljax.run import ranges
from ssljax.run.ledger import paragraphs
from ssljax.types import BadInputError
from ssljax.vision import packed, pictures, sources

EVERY_S = 5


@dataclasses.dataclass(frozen=True)
class Config:
    """The options of the packing."""

    data: str
    """Data set to pack, such as folder:PATH or tfds:NAME."""
    out: str
    """Output directory, with a sub-directory for each split."""
    split: str = "train"
    """Split to pack."""
    size: int = 256
    """Side of the packed images in pixels."""
    skip_bad: bool = False
    """Skip images that cannot be read, and count them, instead of stopping."""
    data_dir: str | None = None
    """Directory of tensorflow-datasets; None: its default."""


def run(config: Config) -> None:
    """Pack the split and print what it takes."""
    ranges.check(config)
    if not config.split.isidentifier():
        raise BadInputError(f"split={config.split!r} names no directory; give a whole split, such as train.")
    options = {"skip_bad": config.skip_bad, "data_dir": config.data_dir, "min_side": config.size}
    source = sources.open_source(config.data, config.split, **options)
    square = pictures.resize_center(config.size, config.size)
    began = time.monotonic()
    found = packed.pack(source, square, config.out, config.split, progress=_reporter())
    count, *shape = found["shape"]
    seconds = time.monotonic() - began
    print(
        f"packed:{config.out} ({config.split}): {count:,} pictures {shape}, {found['left_out']:,} skipped; "
        f"{count / seconds:,.0f} pictures/s"
    )


def _reporter():
    last = time.monotonic()

    def report(done: int, count: int) -> None:
        nonlocal last
        if time.monotonic() - last > EVERY_S:
            last = time.monotonic()
            print(f"{done:,} of {count:,}", file=sys.stderr)

    return report


def main() -> None:
    """Run the command line; exits with 2 and one sentence if the input is invalid."""
    config = parse(Config, prog="python -m experiments.pack_images", description=paragraphs(__doc__ or ""))
    try:
        run(config)
    except BadInputError as error:
        sys.exit(refuse(error))
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command starts over.")


if __name__ == "__main__":
    main()
