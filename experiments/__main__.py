"""List the experiments: what the paper reports and what was measured here.

`python -m experiments` prints the list. `python -m experiments --write` copies the recorded figures into the modules'
docstrings and the README.
"""

import sys
from pathlib import Path

from ssljax.run import ledger as rows

HERE = Path(__file__).parent


def tables() -> dict[str, str]:
    """The README's other tables by the name that marks their place: what benchmarks and plans have recorded."""
    from experiments import plans
    from experiments.bench import faults, table

    return {
        "faults": faults.as_markdown(faults.RESULTS) if faults.RESULTS.exists() else "Not run.",
        "bench": table.as_markdown(sorted((HERE / "results").glob("bench-*.json"))),
        "plans": plans.as_markdown(plans.RESULTS) if plans.RESULTS.exists() else "Not run.",
    }


def main(arguments: list[str]) -> None:
    """Run the command line."""
    if arguments not in ([], ["--write"]):
        sys.exit(f"error: {' '.join(arguments)}: the only option is --write.")
    found = rows.read(HERE)
    if arguments:
        rows.write(HERE, found)
        readme = HERE.parent / "README.md"
        text = readme.read_text()
        for name, table in tables().items():
            text = rows.with_table(text, table, name)
        readme.write_text(text)
    print(rows.as_text(found))


if __name__ == "__main__":
    main(sys.argv[1:])
