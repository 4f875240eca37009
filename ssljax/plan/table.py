"""A plan as text for a terminal."""

from typing import Any


def as_text(plan: dict[str, Any]) -> str:
    """What `making.make` returns, as lines of at most about a hundred characters."""
    options = f" {' '.join(plan['options'])}" if plan["options"] else ""
    lines = [f"{plan['experiment']}{options} on {plan['described']}", plan["note"]]
    for part in plan["stretches"]:
        lines += ["", f"{part['label']}: {part['steps']:,} steps of {part['batch_size']:,}", *_memory(part)]
        lines += _times(part) if part["fits"] else _advice(part)
    if "hours" in plan:
        chips = f"{plan['chip_hours']:,.0f} chip-hours"
        lines += ["", f"the whole recipe, estimated: {plan['hours']:,.1f} hours, {chips}; evaluation is not in it"]
    return "\n".join(lines)


def _memory(part: dict[str, Any]) -> list[str]:
    verdict = "fits" if part["fits"] else "DOES NOT FIT"
    lines = [f"  {verdict}: {in_words(part['bytes_used'])} of {in_words(part['bytes_of_chip'])} a chip"]
    return lines + [f"    {kind:<28} {in_words(size):>12}" for kind, size in part["bytes_per_chip"].items()]


def _times(part: dict[str, Any]) -> list[str]:
    guess = part["estimate"]
    lines = ["  collectives a step (bytes that each chip sends in rings: an estimate)"]
    for kind, one in part["collectives"].items():
        lines.append(f"    {kind:<28} {in_words(one['sent']):>12} in {one['count']}")
    if not part["collectives"]:
        lines.append("    none")
    lines.append(f"  operations a step            {part['flops'] / 1e12:8.3f} TFLOP on all chips")
    lines.append(f"  memory traffic a step        {in_words(part['hbm_bytes_per_step']):>14} a chip (estimate)")
    peaks = ", ".join(f"{name} {1000 * value:.2f}" for name, value in guess["seconds_at_peak"].items())
    share = guess["realistic_share"]
    return [
        *lines,
        f"  estimated ms a step at peak: {peaks}; bound by {guess['bound']}",
        f"  estimated steps/s: {guess['steps_per_second_at_bound']:.2f} at that bound, "
        f"{guess['steps_per_second_realistic']:.2f} at {share:.0%} of it, a guess at what is realistic",
        f"  estimated time at the latter: {guess['hours']:,.1f} hours, {guess['chip_hours']:,.0f} chip-hours",
        f"  compiled in {part['seconds_compiling']:.0f} s, {part['processor_seconds_compiling']:.0f} s of one core",
    ]


def _advice(part: dict[str, Any]) -> list[str]:
    lines = ["  what to change, found by compiling it:"] if part.get("advice") else []
    for one in part.get("advice", ()):
        lines.append(f"    {one['change']:<28} {'fits' if one['fits'] else 'does not fit'}")
    return lines


def in_words(size: float) -> str:
    """Bytes with a binary unit.

    >>> in_words(3 << 30), in_words(1536), in_words(-64)
    ('3.00 GiB', '1.50 KiB', '-64.00 B')
    """
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
