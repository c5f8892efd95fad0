"""Registries of things with parameters: what can be named in Python, as a command, on the page.

A registered thing is a frozen pydantic model. Its fields are its parameters, and give validation,
the page's controls, the command line's flags, the documentation and the cache key.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import TimmscopeError, UnknownNameError, unknown


class Parameters(BaseModel):
    """Validated, immutable parameters with the facts that describe their owner.

    Attributes:
        key: the name used everywhere.
        label: the name people read.
        about: one sentence: what a method is good for and what not; the question a metric answers.
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


def changed_parameters(instance: Parameters) -> str:
    """The parameters that are not the default, as ``(name=value, ...)``; empty if all are.

    `parse_instance` reads it.
    """
    defaults = {name: field.get_default() for name, field in type(instance).model_fields.items()}
    changed = [
        f"{name}={_written(value)}"
        for name, value in instance.model_dump().items()
        if value != defaults[name]
    ]
    return f"({', '.join(changed)})" if changed else ""


def _written(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def parse_instance(
    registry: Registry[P], text: str | P, params: Mapping[str, Mapping[str, object]] | None = None
) -> P:
    """An instance from ``key`` or ``key(parameter=value, ...)``; an instance passes through.

    Args:
        registry: what may be named.
        text: the key, with or without parameters.
        params: parameters by key, for those that `text` does not set.

    Raises:
        UnknownNameError: there is no such key or parameter.
        TimmscopeError: the text is not of that form, or a value is out of range.
    """
    if isinstance(text, Parameters):
        return text
    match = re.fullmatch(r"\s*([^()]+?)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if match is None:
        raise TimmscopeError(
            f"{text[:80]!r} is no {registry.kind}; write {registry.kind} or "
            f"{registry.kind}(parameter=value, ...)"
        )
    key, inside = registry[match[1]].key, match[2] or ""
    given: dict[str, object] = dict((params or {}).get(key, {}))
    for part in filter(None, (part.strip() for part in inside.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise TimmscopeError(
                f"{part[:80]!r} in {text[:80]!r} sets no parameter; write parameter=value"
            )
        given[name.strip()] = value.strip()
    return registry.make(key, given)


def split_names(text: str) -> list[str]:
    """Names separated by commas, of which each may hold commas within brackets.

    >>> split_names("gradcam, lime(samples=20, segments=9),,occlusion")
    ['gradcam', 'lime(samples=20, segments=9)', 'occlusion']
    """
    parts = re.split(r",(?![^()]*\))", text)
    return [part.strip() for part in parts if part.strip()]


def named_instances(instances: Iterable[P]) -> dict[str, P]:
    """Instances by a name that tells them apart, equal ones once.

    The name is the key where the key stands there once, and else ``key(parameter=value, ...)``.
    """
    different = list({f"{one.key}{changed_parameters(one)}": one for one in instances}.items())
    keys = [one.key for _, one in different]
    return {name if keys.count(one.key) > 1 else one.key: one for name, one in different}


def key_of(name: str) -> str:
    """The key in a name that may state a layer or parameters.

    >>> key_of("lime(samples=20)"), key_of("gradcam@layer3"), key_of("srg")
    ('lime', 'gradcam', 'srg')
    """
    return re.split(r"[@(]", name, maxsplit=1)[0].strip()
