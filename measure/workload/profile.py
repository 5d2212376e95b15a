"""How much load at which moment, written in one line: steady, ramp, steps, spike, soak.

In      text: pieces separated by commas, each ``LEVEL[:DURATION]`` or ``FROM-TO:DURATION``; a DURATION is ``90s``, ``5m``, ``1h``.
Out     a `Profile`: level at a moment, and how much has come until then. The unit is the caller's: requests per second, users.

    500                   steady, until the run is stopped
    0-500:1m,500:10m      a ramp, then steady
    8:30s,16:30s,32:30s   steps
    100:1m,800:5s,100:1m  a spike
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from planwright.errors import Fault, SpecError

_PIECE = re.compile(r"^(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?(?::(\d+(?:\.\d+)?)(s|m|h)?)?$")
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
EXAMPLE = "500, 0-500:1m,500:10m, 8:30s,16:30s or 100:1m,800:5s,100:1m"


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
        """Return how much has come until a moment: the integral of the level."""
        come = 0.0
        for piece in self.pieces:
            inside = min(t_s, piece.length_s)
            come += piece.total(inside)
            t_s -= inside
        return come

    def moment(self, total: float) -> float | None:
        """Return when `total` has come; None where the profile ends before that."""
        before_s = 0.0
        for piece in self.pieces:
            inside = math.inf if math.isinf(piece.length_s) and piece.start else piece.total(piece.length_s)
            if total < inside:
                return before_s + piece.moment(total)
            total -= inside
            before_s += piece.length_s
        return None


def parse(text: str, name: str) -> Profile:
    """Read a profile.

    Args:
        text: See the module's docstring.
        name: Where it was given, for the fault.

    Raises:
        SpecError: It cannot be read, or a level without a duration is not the last.
    """
    pieces = [_piece(part.strip()) for part in text.split(",") if part.strip()]
    known = [piece for piece in pieces if piece is not None]
    if not known or len(known) < len(pieces):
        raise SpecError(Fault(f"{name} is '{text}'", why="no level or ramp", fix=f"write for example {EXAMPLE}"))
    if any(math.isinf(piece.length_s) for piece in known[:-1]):
        why = "only the last level may go on for ever"
        raise SpecError(Fault(f"{name} is '{text}'", why=why, fix="give each of the others a duration, such as :30s"))
    if not any(piece.start or piece.end for piece in known):
        raise SpecError(
            Fault(f"{name} is '{text}'", why="nothing would ever be sent", fix=f"write for example {EXAMPLE}")
        )
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
