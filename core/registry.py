"""Registries of things with parameters: what can be named in Python, as a command, on the page.

A registered thing is a frozen pydantic model. Its fields are its parameters, and give validation,
the page's controls, the command line's flags, the documentation and the cache key.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import TimmscopeError, UnknownNameError, unknown


class Parameters(BaseModel):
    """Validated, immutable parameters with the facts that describe their owner.

    Attributes:
        key: the name used everywhere.
        label: the name people read.
        about: one sentence on what it is good for, and what not.
        paper: where it comes from, as an arXiv or DOI reference; empty if it has no source.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: ClassVar[str]
    label: ClassVar[str]
    about: ClassVar[str]
    paper: ClassVar[str]

    @classmethod
    def schema_of_fields(cls) -> dict[str, dict[str, Any]]:
        """JSON schema of each parameter by name."""
        properties: dict[str, dict[str, Any]] = cls.model_json_schema().get("properties", {})
        return properties


P = TypeVar("P", bound=Parameters)


class Registry(Mapping[str, type[P]], Generic[P]):
    """Classes by key, found by importing every module of a package once.

    Args:
        kind: what is registered, in messages ("method").
        package: the package whose modules register themselves.
        aliases: other spellings of some keys.
    """

    def __init__(self, kind: str, package: str, aliases: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._package = package
        self._aliases = dict(aliases or {})
        self._classes: dict[str, type[P]] = {}
        self._loaded = False

    def add(self, cls: type[P]) -> None:
        """Register a class under its key; a second one of that key is a mistake in the code."""
        if cls.key in self._classes:
            raise TypeError(f"{self.kind} {cls.key!r} is registered twice")
        self._classes[cls.key] = cls

    def _load(self) -> dict[str, type[P]]:
        if not self._loaded:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            # In the order of files, whichever of them happened to be imported first.
            ordered = sorted(self._classes.items(), key=lambda entry: entry[1].__module__)
            self._classes = dict(ordered)
            self._loaded = True  # not before: another thread must not meet half a registry
        return self._classes

    def __getitem__(self, key: str) -> type[P]:
        classes = self._load()
        key = self._aliases.get(key, key)
        if key not in classes:
            raise unknown(self.kind, key, classes)
        return classes[key]

    def __contains__(self, key: object) -> bool:
        return self._aliases.get(str(key), key) in self._load()

    def __iter__(self) -> Iterator[str]:
        return iter(self._load())

    def __len__(self) -> int:
        return len(self._load())

    def make(self, key: str | P, params: Mapping[str, object] | None = None) -> P:
        """An instance with validated parameters; an instance passes through, with `params` changed.

        Raises:
            UnknownNameError: there is no such key, or it has no such parameter.
            TimmscopeError: a parameter's value does not do.
        """
        if isinstance(key, Parameters):
            if not params:
                return key
            cls, params = type(key), {**key.model_dump(), **params}
        else:
            cls = self[key]
        try:
            return cls(**(params or {}))
        except ValidationError as error:
            raise _first_complaint(cls, error) from None


def _first_complaint(cls: type[Parameters], error: ValidationError) -> TimmscopeError:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or "parameters"
    if first["type"] == "extra_forbidden":
        fields = ", ".join(cls.model_fields) or "no parameters"
        return UnknownNameError(f"{cls.key} has no parameter {name!r}; it has {fields}")
    given = str(first.get("input"))[:80]
    return TimmscopeError(
        f"{cls.key}.{name} = {given}: {first['msg'].removeprefix('Value error, ')}"
    )
