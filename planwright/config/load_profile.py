"""How a load test's load is written: profiles over time, mixes of batch sizes, weights of models.

In      text of config.yaml or of a variable.
Out     a `Profile` (level at a moment, and the integral of the level until then), batch sizes, weights; ValueError says what is wrong.

A profile is pieces separated by commas, each ``LEVEL[:DURATION]`` or ``FROM-TO:DURATION``; a DURATION is ``90s``, ``5m``, ``1h``. The
level's unit is the caller's: requests per second, or users.

    500                   steady, until the run is stopped
    0-500:1m,500:10m      a ramp, then steady
    8:30s,16:30s,32:30s   steps
    100:1m,800:5s,100:1m  a spike
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_PIECE = re.compile(r"^(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?(?::(\d+(?:\.\d+)?)(s|m|h)?)?$")
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
PROFILE_EXAMPLE = "500, 0-500:1m,500:10m, 8:30s,16:30s or 100:1m,800:5s,100:1m"
LARGEST_BATCH = 1 << 20


@dataclass(frozen=True)
class Piece:
    """A straight line from `start` to `end` over `length_s` seconds (infinite for a level without a duration)."""

    length_s: float
    start: float
    end: float

    def total(self, t_s: float) -> float:
        """Return the integral of the level over the first `t_s` seconds."""
        slope = 0.0 if math.isinf(self.length_s) else (self.end - self.start) / self.length_s
        return self.start * t_s + slope * t_s * t_s / 2

    def moment(self, total: float) -> float:
        """Return the time at which the integral reaches `total`, which must lie within the piece.

        The root of ``slope / 2 t² + start t - total``, in the form that stays exact for small slopes.
        """
        slope = 0.0 if math.isinf(self.length_s) else (self.end - self.start) / self.length_s
        root = math.sqrt(max(self.start * self.start + 2 * slope * total, 0.0))
        return 2 * total / (self.start + root) if self.start + root else 0.0


@dataclass(frozen=True)
class Profile:
    """Pieces, one after the other."""

    pieces: tuple[Piece, ...]

    @property
    def length_s(self) -> float:
        """Duration; infinite where the last level has none."""
        return sum(piece.length_s for piece in self.pieces)

    @property
    def steady(self) -> bool:
        """True where the level never changes, so that windows of a run can be compared."""
        return len({level for piece in self.pieces for level in (piece.start, piece.end)}) == 1

    def at(self, t_s: float) -> float | None:
        """Return the level at a moment; None after the end."""
        for piece in self.pieces:
            if t_s < piece.length_s:
                share = 0.0 if math.isinf(piece.length_s) else t_s / piece.length_s
                return piece.start + (piece.end - piece.start) * share
            t_s -= piece.length_s
        return None

    def total(self, t_s: float) -> float:
        """Return the integral of the level until a moment."""
        total = 0.0
        for piece in self.pieces:
            inside = min(t_s, piece.length_s)
            total += piece.total(inside)
            t_s -= inside
        return total

    def moment(self, total: float) -> float | None:
        """Return when the integral reaches `total`; None where the profile ends before that."""
        before_s = 0.0
        for piece in self.pieces:
            inside = math.inf if math.isinf(piece.length_s) and piece.start else piece.total(piece.length_s)
            if total < inside:
                return before_s + piece.moment(total)
            total -= inside
            before_s += piece.length_s
        return None


def parse(text: str) -> Profile:
    """Read a profile; see the module's docstring.

    Raises:
        ValueError: It cannot be read, a level without a duration is not the last, or nothing would ever be sent.
    """
    pieces = [_piece(part.strip()) for part in text.split(",") if part.strip()]
    known = [piece for piece in pieces if piece is not None]
    if not known or len(known) < len(pieces):
        raise ValueError("it is not made of levels and ramps")
    if any(math.isinf(piece.length_s) for piece in known[:-1]):
        raise ValueError("only the last level may come without a duration")
    if not any(piece.start or piece.end for piece in known):
        raise ValueError("nothing would ever be sent")
    return Profile(tuple(known))


def _piece(text: str) -> Piece | None:
    match = _PIECE.match(text)
    if not match:
        return None
    start, end, length, unit = match.groups()
    length_s = float(length) * _UNITS_S[unit] if length else math.inf
    if (end is not None and length is None) or length_s <= 0:
        return None
    return Piece(length_s, float(start), float(end if end is not None else start))


def batch_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Return (samples per request, weight) of each size.

    Example:
        >>> batch_sizes("8"), batch_sizes("1=3,16")
        (((8, 1),), ((1, 3), (16, 1)))

    Raises:
        ValueError: It is not made of sizes, each once, with weights.
    """
    parts = [(size, weight or "1") for size, _, weight in (piece.strip().partition("=") for piece in text.split(","))]
    found = {int(size): int(weight) for size, weight in parts if size.isdecimal() and weight.isdecimal()}
    if len(found) < len(parts) or not all(1 <= size <= LARGEST_BATCH and weight for size, weight in found.items()):
        raise ValueError(f"sizes are 1 to {LARGEST_BATCH}, each once, with weights above 0")
    return tuple(found.items())


def weights(text: str) -> dict[str, str]:
    """Return model → weight of ``digits=3,minilm``; the weights are not checked."""
    parts = [piece.partition("=") for piece in map(str.strip, text.split(",")) if piece]
    return {name: weight or "1" for name, _, weight in parts}
