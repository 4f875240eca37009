"""List the experiments: what the paper reports and what was measured here.

`python -m experiments` prints the list. `python -m experiments --write`, which is `make results`, brings the tables of
`PAGES` up to date with experiments/results.
"""

import importlib
import sys
from pathlib import Path

from ssljax.run import ledger

HERE = Path(__file__).parent
ROOT = HERE.parent
# page -> names of its tables
PAGES = {
    "README.md": ("results",),
    "experiments/README.md": ("ledger",),
    "experiments/bench/README.md": ("bench", "checks", "faults"),
    "ssljax/plan/README.md": ("plans",),
}
# what is to be said of the data sets that records name
DATA = {"arrays:cifar10_jpeg.npz": "on CIFAR-10 recompressed as JPEG; the paper's is of the original PNGs"}


def tables() -> dict[str, str]:
    """Every generated table, by the name that marks its place."""
    from experiments import plans
    from experiments.bench import device_checks, faults, table

    found = [row._replace(recipe=recipe(row.name)) if row.records else row for row in ledger.read(HERE)]
    return {
        "results": ledger.summary(found, DATA),
        "ledger": ledger.as_markdown(found, DATA),
        "bench": table.as_markdown(sorted((HERE / "results").glob("bench-*.json"))),
        "checks": device_checks.as_markdown(sorted((HERE / "results").glob("checks-*.json"))),
        "faults": faults.as_markdown(faults.RESULTS) if faults.RESULTS.exists() else "Not run.",
        "plans": plans.as_markdown(plans.RESULTS) if plans.RESULTS.exists() else "Not run.",
    }


def recipe(name: str) -> dict:
    """The defaults of an experiment's options."""
    from ssljax.run import results

    return results.comparable(importlib.import_module(f"experiments.{name}").Config())


def pages() -> dict[Path, str]:
    """The pages with their generated tables, from the recorded results."""
    made, found = tables(), {}
    for page, names in PAGES.items():
        text = (ROOT / page).read_text()
        for name in names:
            text = ledger.with_table(text, made[name], name)
        found[ROOT / page] = text
    return found


def main(arguments: list[str]) -> None:
    """Run the command line."""
    if arguments not in ([], ["--write"]):
        sys.exit(f"error: {' '.join(arguments)}: the only option is --write.")
    if arguments:
        for path, text in pages().items():
            path.write_text(text)
    print(ledger.as_text(ledger.read(HERE)))


if __name__ == "__main__":
    main(sys.argv[1:])
