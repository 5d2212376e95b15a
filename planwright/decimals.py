"""Numbers as people write them, without losing a digit.

In      a number that a person wrote in config.yaml or on the command line.
Out     its shortest text that reads back as the same number, without an exponent.
"""

from __future__ import annotations

from decimal import Decimal


def exact(number: float) -> str:
    """Return ``1000000`` and not ``1e+06``, ``0.00005`` and not ``5e-05``.

    Example:
        >>> exact(1000000.0), exact(0.00005), exact(1234567.25), exact(20)
        ('1000000', '0.00005', '1234567.25', '20')
    """
    return f"{Decimal(repr(number)).normalize():f}"
