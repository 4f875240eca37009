"""What the benchmarks have found, as a file and as tables; ratios are ours, times are this machine's."""

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.bench.harness import Measured
from experiments.bench.training import PEAK


def entry(measured: Sequence[Measured], ceilings: Sequence[Measured], unit: str, peak: float = 0.0) -> dict[str, Any]:
    """An entry of the results file.

    Args:
        measured: the first side is ours.
        ceilings: of matrix products alone; the faster one counts.
        unit: of a side's work, or of its values where there is no rate.
        peak: the device's operations a second by its data sheet; 0: not known.

    Returns:
        "sides" with median, least and greatest value, rate, ratio (the side's median divided by ours: above 1, ours
        is better) and the range of the ratios of neighbouring rounds; "flops" a round and "ceiling" where counted, and
        with a peak the model's operations as a share of it, "mfu".
    """
    ours = measured[0]
    ceiling = max((side.flops / side.median for side in ceilings), default=0.0)
    found: dict[str, Any] = {"unit": unit, "rounds": len(ours.values), "sides": {}}
    if ours.flops:
        found |= {"gigaflops": round(ours.flops / 1e9, 1), "ceiling_gigaflops_per_second": round(ceiling / 1e9, 1)}
    for side in measured:
        row = {"median": side.median, "least": min(side.values), "greatest": max(side.values)}
        if side.work != 1:
            row["rate"] = side.work / side.median
        # the same model: what is counted for ours is what the peer's step needs
        speed = ours.flops * side.work / ours.work / side.median
        if speed and ceiling:
            row["share_of_ceiling"] = speed / ceiling
            if peak:
                row["mfu"] = speed / peak
        if side is not ours:
            # by work, as a round of the one may get through more than of the other
            scale = ours.work / side.work
            each = [scale * theirs / mine for mine, theirs in zip(ours.values, side.values, strict=True)]
            row |= {"ratio": statistics.median(each), "ratio_least": min(each), "ratio_greatest": max(each)}
        found["sides"][side.label] = {name: float(f"{value:.4g}") for name, value in row.items()} | side.facts
    return found


def device_name(facts: dict[str, Any]) -> str:
    """The machine in a file's name: `1 x NVIDIA H100` on any number of cores -> nvidia-h100."""
    name = facts["device"].partition(" x ")[2]
    name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{name}-{facts['cores']}" if facts["platform"] == "cpu" else name


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The entries by the benchmark's name; none if there is no file."""
    return json.loads(path.read_text()) if path.exists() else {}


def put(path: Path, name: str, found: dict[str, Any]) -> None:
    """Write one entry; the others are kept."""
    from ssljax.run import results as records

    path.parent.mkdir(parents=True, exist_ok=True)
    records.write(path, json.dumps(read(path) | {name: found}, indent=2) + "\n")


def as_text(name: str, found: dict[str, Any]) -> str:
    """One entry for a terminal."""
    width = max(map(len, found["sides"]))
    lines = [f"{name}: {found['title']} ({found['unit']}; {found['rounds']} rounds)"]
    lines += [f"  {label:<{width}}  {_figures(row, found['unit'])}" for label, row in found["sides"].items()]
    return "\n".join([*lines, *(f"  {sentence}" for sentence in found.get("missing", ()))])


def _figures(row: dict[str, Any], unit: str) -> str:
    text = f"{row['median']:.4g} ({row['least']:.4g} to {row['greatest']:.4g})"
    if "rate" in row:
        text = f"{row['rate']:.4g} {unit}, round {text} s"
    if "share_of_ceiling" in row:
        text += f", {row['share_of_ceiling']:.0%} of matmul ceiling"
    return text + _of_device(row) + (f"; ratio {_ratio(row)}" if "ratio" in row else "")


def _of_device(row: dict[str, Any]) -> str:
    """What is known on a GPU only."""
    text = f", {row['mfu']:.0%} MFU" if "mfu" in row else ""
    return text + (f", {row[PEAK] / 1024:.1f} GiB" if PEAK in row else "")


def _seconds(row: dict[str, Any]) -> str:
    """Where a round's seconds go, the greatest first."""
    parts = sorted(row.get("seconds", {}).items(), key=lambda part: -part[1])
    return f": {', '.join(f'{name} {spent:g}' for name, spent in parts)}" if parts else ""


def _ratio(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.2f} ({row['ratio_least']:.2f} to {row['ratio_greatest']:.2f})"


def as_markdown(paths: Sequence[Path]) -> str:
    """The files' entries as a table; a row a peer, ratios above 1 where ours is better, and whether the bar is met."""
    lines = ["| measure | ours | peer | ratio (least to greatest) | bar | date, machine |", "|---|---|---|---|---|---|"]
    for found in [entry for path in paths for entry in read(path).values()]:
        (_, ours), *peers = found["sides"].items()
        where = found["environment"]
        own = f"{ours.get('rate', ours['median']):.4g} {found['unit']}"
        if "share_of_ceiling" in ours:
            own += f", {ours['share_of_ceiling']:.0%} of the ceiling"
        own += _of_device(ours) + _seconds(ours)
        for label, peer in peers or [("-", None)]:
            theirs = f"{label}: {peer.get('rate', peer['median']):.4g}{_of_device(peer)}" if peer else "-"
            place = f"{where['date']}, {where['device']}, {where['commit']}"
            bar = verdict(found["bar"], label, peer["ratio"], ours.get("mfu", 0.0)) if peer else found["bar"]
            cells = found["title"], own, theirs, _ratio(peer) if peer else "-", bar, place
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else "Not run."


def verdict(bar: str, label: str, ratio: float, mfu: float = 0.0) -> str:
    """Whether a ratio meets the bar that was set for it.

    Args:
        bar: such as ">= 1.5", or ">= 1 eager" where it is set for one peer; after a comma perhaps ">= 45 % MFU".
        label: of the peer.
        ratio: median.
        mfu: of our side, as a share.

    Returns:
        The bar after "met" or "missed"; "-" for another peer's; a bar that is not a ratio is returned unchanged.

    >>> verdict(">= 1.5", "lightly", 1.08), verdict(">= 1 eager", "torch.compile", 1.05), verdict("-", "JPEGs", 2.5)
    ('missed: >= 1.5', '-', '-')
    >>> verdict(">= 1 compiled, >= 45 % MFU", "transformers compiled", 1.2, 0.41)
    'met: >= 1 compiled, missed: >= 45 % MFU'
    """
    verdicts = [_verdict(part, label, ratio, mfu) for part in bar.split(", ")]
    return ", ".join(found for found in verdicts if found != "-") or "-"


def _verdict(bar: str, label: str, ratio: float, mfu: float) -> str:
    found = re.fullmatch(r">= ([\d.]+)(?: (\w+?)d?)?", bar)
    if found is not None:
        least, peer = found.groups()
        if peer and peer not in label:
            return "-"
        met = ratio >= float(least)
    elif found := re.fullmatch(r">= (\d+) % MFU", bar):
        met = mfu >= float(found[1]) / 100
    else:
        return bar
    return f"{'met' if met else 'missed'}: {bar}"
