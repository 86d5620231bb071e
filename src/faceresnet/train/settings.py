"""Recipes from text: ``key=value`` of a command line, and the JSON of a run folder."""

from __future__ import annotations

import dataclasses
import typing
from ast import literal_eval
from collections.abc import Sequence
from math import isfinite
from typing import Any, TypeVar

T = TypeVar("T")


def override(base: T, settings: Sequence[str]) -> T:
    """A recipe with fields changed by ``key=value`` texts such as ``schedule.rate=1e-4``.

    Raises:
        ValueError: the key names no field, or the value does not fit it.
    """
    for setting in settings:
        key, found, text = setting.partition("=")
        if not found:
            raise ValueError(f"expected key=value, got {setting!r}")
        base = _replace(base, key.split("."), text, key)
    return base


def _replace(node: Any, path: list[str], text: str, key: str) -> Any:
    hints = typing.get_type_hints(type(node))
    if path[0] not in hints:
        raise ValueError(f"unknown setting {key!r}: {path[0]!r} is none of {', '.join(hints)}")
    old = getattr(node, path[0])
    if len(path) > 1:
        if not dataclasses.is_dataclass(old):
            raise ValueError(f"unknown setting {key!r}: {path[0]!r} has no fields")
        new = _replace(old, path[1:], text, key)
    elif dataclasses.is_dataclass(old):
        first = dataclasses.fields(old)[0].name
        raise ValueError(f"{key} is a group of settings: change one of them, as {key}.{first}=…")
    else:
        try:
            new = _build(hints[path[0]], _parse(text, hints[path[0]]))
        except _Misfit as error:
            raise ValueError(f"{key} takes {error}, such as {old!r}; got {text!r}") from error
    return dataclasses.replace(node, **{path[0]: new})


def _parse(text: str, kind: Any) -> Any:
    """What a text on the command line stands for, where a value of `kind` is expected."""
    if kind is str:
        return text
    try:
        value = literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    alone = typing.get_origin(kind) is tuple and not isinstance(value, tuple | list | str)
    return (value,) if alone else value


def from_json(kind: type[T], values: dict[str, Any]) -> T:
    """A recipe from the values that `dataclasses.asdict` made of it, read from JSON.

    Raises:
        ValueError: these are not the values of one.
    """
    try:
        return _build(kind, values)
    except _Misfit as error:
        raise ValueError(f"expected {error}") from error


class _Misfit(ValueError):
    """A value is not of the type its field has; says which type that is."""


def _build(kind: Any, value: Any) -> Any:
    """A value of the annotated type `kind` from one of JSON's or Python's literals."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict):
            raise _Misfit(f"the fields {', '.join(hints)}")
        if unknown := value.keys() - hints.keys():
            raise _Misfit(f"no {', '.join(sorted(unknown))} beside {', '.join(hints)}")
        fields = {name: _build(hints[name], item) for name, item in value.items()}
        try:
            return kind(**fields)  # type: ignore[operator]
        except TypeError as error:  # a field without a default is missing
            raise _Misfit(f"all of the fields {', '.join(hints)}") from error
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        kinds = arguments
        if isinstance(value, tuple | list) and arguments[-1] is ...:
            kinds = (arguments[0],) * len(value)
        if not isinstance(value, tuple | list) or len(value) != len(kinds):
            raise _Misfit(f"a {kind}")
        return tuple(_build(k, item) for k, item in zip(kinds, value, strict=True))
    if type(None) in arguments:
        if value is None:
            return None
        kind = next(k for k in arguments if k is not type(None))
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not kind or (kind is float and not isfinite(value)):
        raise _Misfit({int: "an int", float: "a finite float"}.get(kind, f"a {kind.__name__}"))
    return value
