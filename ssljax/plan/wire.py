"""What collective operations put on the wire, as ring algorithms do them: estimates on paper."""


def sent(kind: str, size: float, devices: int) -> float:
    """Bytes that each device sends in one collective done as a ring.

    Of an all-to-all and a permute these are the device's own; what it passes on, where two that exchange are not
    neighbours, is not counted.

    Args:
        kind: "all-reduce", "all-gather", "reduce-scatter", "all-to-all" or "collective-permute".
        size: bytes of the whole array on one device: the result of an all-gather, the input of the others.
        devices: in the ring, or among which an all-to-all exchanges.

    >>> [sent(kind, 800, 8) for kind in ("all-reduce", "all-gather", "reduce-scatter")]
    [1400.0, 700.0, 700.0]
    """
    if kind == "collective-permute":
        return float(size)
    passes = 2 if kind == "all-reduce" else 1
    return passes * (devices - 1) / devices * size
