"""Decimal numbers without a rounding error and without an exponent.

In      a number that a person wrote in config.yaml or on the command line.
Out     the same number as text, or in another unit.
"""

from __future__ import annotations

from decimal import Decimal


def exact(number: float) -> str:
    """Return the shortest text that reads back as the same number.

    Example:
        >>> exact(1000000.0), exact(0.00005), exact(1234567.25), exact(20)
        ('1000000', '0.00005', '1234567.25', '20')
    """
    return f"{Decimal(repr(number)).normalize():f}"


def scaled(number: float | str, factor: str) -> float:
    """Return ``number × factor`` in decimals.

    Example:
        >>> scaled(1.1, "0.001"), 1.1 * 1e-3
        (0.0011, 0.0011000000000000001)
    """
    return float(Decimal(str(number)) * Decimal(factor))
