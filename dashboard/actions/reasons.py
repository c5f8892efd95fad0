"""Cards that say why there is no result, with buttons for the ways out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from core import METHODS
from core.errors import TimmscopeError, WayOut
from core.methods.configuration import Configuration, label_of
from core.registry import key_of
from core.types import Comparison
from core.views.panels import Panel, WayOutButton, empty_panel, error_panel
from dashboard.actions.question import Question, Settings, UnusableError, brief, params_of

MAX_WAYS_OUT = 4
"""How many buttons a card that says what went wrong has at most."""
RANDOM = " (random weights)"
"""Ends the name of a model that is taken untrained, where several are compared."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a person has chosen of a kind, in a list that the buttons of a card can change.

    Attributes:
        tab: the tab of the list, which is a part of the names of its fields.
        kind: what is listed.
        names: as they stand in the list.
        ask: the id of the page's button that asks again.
    """

    tab: Literal["compare", "metric"]
    kind: Literal["method", "model", "metric"]
    names: Sequence[str]
    ask: str

    @property
    def field(self) -> str:
        """The page's name of the list."""
        return f"{self.tab}_{self.kind}s"

    def buttons(self, names: Sequence[str], ways_out: Sequence[WayOut]) -> list[WayOutButton]:
        """Buttons that help where some of the list have no result; the last takes them off it.

        Args:
            names: those, as they stand in the list; empty where all of it fails for a reason that
                lies elsewhere.
            ways_out: changes that help, the best first.
        """
        found = [one for way in ways_out if (one := self._button(names, way))]
        if names and set(self.names) - set(names):
            which = "it" if len(names) == 1 else f"these {len(names)}"
            found = [*found[: MAX_WAYS_OUT - 1], self._changing("", f"Remove {which}", names)]
        return found[:MAX_WAYS_OUT]

    def _button(self, names: Sequence[str], way: WayOut) -> WayOutButton | None:
        """The button for one way out; None if it would not help here."""
        if way.field == self.kind and names:
            known = way.value in self.names
            return None if known else self._changing(str(way.value), way.text, names)
        if self.kind == "model" and way.field in ("weights", "layer"):
            trained = [name for name in names if not name.endswith(RANDOM)]
            if way.field == "layer" or len(trained) != 1:
                return None
            return self._changing(f"{trained[0]}{RANDOM}", way.text, trained)
        if way.field == "layer" and any("@" in name for name in names):
            at = [re.sub(r"@[^(]+", lambda _: f"@{way.value}", name) for name in names]
            return self._changing(at[0], way.text, names) if len(at) == 1 else None
        own = {"layer": f"{self.tab}_layer", "method": "compare_method"}
        return self._changing(way.value, way.text, (), own.get(way.field, way.field))

    def _changing(
        self, value: str | int, text: str, replaces: Sequence[str], name: str = ""
    ) -> WayOutButton:
        return {
            "field": name or self.field,
            "value": value,
            "text": text,
            "ask": self.ask,
            "replaces": list(replaces),
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """One of several that has no result.

    Attributes:
        label: what people read.
        reason: why.
        names: what it is called in the list where it was chosen; see `Chosen.buttons`.
        ways_out: changes that help, the best first.
    """

    label: str
    reason: str
    names: Sequence[str] = ()
    ways_out: Sequence[WayOut] = field(default=())


def failures_of(
    comparison: Comparison, methods: Sequence[str], settings: Settings
) -> list[Failure]:
    """The methods that have no map, in the order in which they were chosen.

    Args:
        comparison: the maps, and why others have none.
        methods: as chosen.
        settings: parameters a person set.
    """
    names = {key: _listed_as(key, methods, settings) for key in comparison.errors}
    keys = sorted(names, key=lambda key: min(map(methods.index, names[key]), default=0))
    return [
        Failure(label_of(key), comparison.errors[key], names[key], comparison.ways_out.get(key, ()))
        for key in keys
    ]


def _listed_as(key: str, methods: Sequence[str], settings: Settings) -> list[str]:
    """What the list of methods calls the one that a comparison calls `key`."""
    alike = [name for name in methods if METHODS[key_of(name)].key == key_of(key)]
    return [name for name in alike if len(alike) == 1 or key in _names(name, settings)]


def _names(name: str, settings: Settings) -> set[str]:
    """What a comparison may call a method of this name."""
    cls = METHODS[key_of(name)]
    with suppress(TimmscopeError):  # of wrong parameters, it takes the name as it is
        set_too = {cls.key: params_of(settings, cls.key, cls)}
        return {name, Configuration.parse(name, set_too).name}
    return {name}


def fault_card(
    title: str,
    question: Question,
    error: TimmscopeError,
    ask: str = "run",
    chosen: Chosen | None = None,
) -> Panel:
    """A card that says what went wrong, unless the left column does, or what to do first.

    Args:
        title: of the card.
        question: that failed.
        error: why; its ways out become buttons.
        ask: the id of the page's button that asks again.
        chosen: what stands in the list of what is compared, where there is one.
    """
    told_elsewhere = isinstance(error, UnusableError) or not question.picture
    card = empty_panel(brief(error)) if told_elsewhere else error_panel(title, str(error))
    if chosen is not None and not isinstance(error, UnusableError):
        unknown = [
            name for name in chosen.names if chosen.kind == "method" and key_of(name) not in METHODS
        ]
        card["ways_out"] = chosen.buttons(unknown[:1], error.ways_out)
        return card
    card["ways_out"] = [
        {"field": way.field, "value": way.value, "text": way.text, "ask": ask, "replaces": []}
        for way in error.ways_out[:MAX_WAYS_OUT]
    ]
    return card


def reason_cards(failures: Iterable[Failure], chosen: Chosen) -> list[Panel]:
    """A card for each reason why there is no result.

    Args:
        failures: those that have none; a reason that several have is told once.
        chosen: what stands in the list from which they come.
    """
    groups: dict[str, list[Failure]] = {}
    for one in failures:
        groups.setdefault(one.reason, []).append(one)
    return [_reason_card(reason, group, chosen) for reason, group in groups.items()]


def _reason_card(reason: str, group: Sequence[Failure], chosen: Chosen) -> Panel:
    card = error_panel(", ".join(one.label for one in group), reason)
    ways_out = dict.fromkeys(way for one in group for way in one.ways_out)
    names = [name for one in group for name in one.names]
    return {**card, "ways_out": chosen.buttons(names, list(ways_out))}
