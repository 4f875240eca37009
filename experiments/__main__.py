"""List the experiments: what the paper reports and what was measured here.

`python -m experiments` prints the list. `python -m experiments --write` copies the recorded figures into the modules'
docstrings and the README.
"""

import sys
from pathlib import Path

from ssljax import rows

HERE = Path(__file__).parent


def faults_table() -> str:
    """What `python -m experiments.bench.faults` has recorded, for the README."""
    from experiments.bench import faults

    return faults.as_markdown(faults.RESULTS) if faults.RESULTS.exists() else "Not run."


def main(arguments: list[str]) -> None:
    """Run the command line."""
    if arguments not in ([], ["--write"]):
        sys.exit(f"error: {' '.join(arguments)}: the only option is --write.")
    found = rows.read(HERE)
    if arguments:
        rows.write(HERE, found)
        readme = HERE.parent / "README.md"
        readme.write_text(rows.with_table(readme.read_text(), faults_table(), "faults"))
    print(rows.as_text(found))


if __name__ == "__main__":
    main(sys.argv[1:])
