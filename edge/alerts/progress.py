"""What a stream's alert decision remembers between hops, besides its open conditions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from edge.alerts.events import HOUR_NS, Point
from edge.errors import StorageError


class ClassProgress(msgspec.Struct):
    """How far one class is on its way to the next change."""

    above: int = 0
    """Hops in a row at or above `on` while the condition is not open."""
    onset: Point | None = None
    """The first of them."""
    below: int = 0
    """Hops in a row below `off` while it is open."""
    cleared_at: int | None = None
    """Index of the last clear, for the refractory time."""
    raised_ns: list[int] = []
    """UTC of the raises of the last hour: the limit holds across sessions, which begin again at index 0."""
    held_back: bool = False
    """True while a raise that is due waits for the limit."""

    def forget_dwell(self) -> None:
        """Start dwell anew."""
        self.above = self.below = 0
        self.held_back = False

    def raises_in_last_hour(self, now_ns: int) -> int:
        """Return how many raises count against the limit now; older ones are forgotten."""
        self.raised_ns = [t for t in self.raised_ns if 0 <= now_ns - t < HOUR_NS]
        return len(self.raised_ns)


class Progress(msgspec.Struct):
    """One stream's; goes into its snapshot as plain data."""

    classes: dict[str, ClassProgress]
    session: str = ""
    last: Point | None = None
    """The last hop."""
    last_active: int | None = None
    """Index of the last hop that was not frozen."""
    bad_hops: list[bool] = []
    """Whether each hop of the window was bad, newest last."""

    @classmethod
    def begin(cls, watched: Iterable[str], session: str = "", before: Progress | None = None) -> Progress:
        """Return the progress of a new session; what came before matters only for the limit on raises."""
        earlier = before.classes if before is not None else {}
        classes = {name: ClassProgress(raised_ns=earlier[name].raised_ns) for name in watched if name in earlier}
        return cls({name: classes.get(name, ClassProgress()) for name in watched}, session)

    @classmethod
    def from_plain(cls, plain: Mapping[str, object], watched: Iterable[str]) -> Progress:
        """Read what `to_plain` returned; classes no longer watched are left out. Raises StorageError."""
        try:
            saved = msgspec.convert(plain, cls)
        except msgspec.ValidationError as error:
            raise StorageError(f"saved alert progress cannot be used: {error}") from None
        saved.classes = {name: saved.classes.get(name, ClassProgress()) for name in watched}
        return saved

    def to_plain(self) -> dict[str, object]:
        """Return it as dicts, lists, numbers and strings."""
        plain: dict[str, object] = msgspec.to_builtins(self)
        return plain
