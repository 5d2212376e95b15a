"""Which models a user sends to: all of them are covered, however few users there are.

In      the models, each as often as its weight says; users of one transport and process, as they come and go.
Out     `Turns.models`: one model each where there are enough users; else each user has several, and takes them in turn.
"""

from __future__ import annotations

from collections.abc import Sequence


class Turns:
    """The models of one transport, shared by its users."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._users: list[object] = []
        self._shares: dict[int, tuple[str, ...]] = {}

    def join(self, user: object) -> None:
        """Count a user in; the others' models may change."""
        self._users.append(user)
        self._shares.clear()

    def leave(self, user: object) -> None:
        """Count a user out."""
        if user in self._users:
            self._users.remove(user)
            self._shares.clear()

    def models(self, user: object) -> tuple[str, ...]:
        """Return the models of a user that has joined.

        Example:
            >>> turns = Turns(["a", "a", "b"])
            >>> turns.join(1), turns.join(2)
            (None, None)
            >>> turns.models(1), turns.models(2)
            (('a', 'b'), ('a',))
        """
        share = self._shares.get(id(user))
        if share is None:
            place, count = self._users.index(user), len(self._users)
            share = self._shares[id(user)] = self._names[place % len(self._names) :: count]
        return share
