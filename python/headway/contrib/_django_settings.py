"""The setting HEADWAY of a Django site: read once, and again when a test overrides it."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from headway.contrib._policy import checked_on_limited, store_of
from headway.exceptions import SetUpError

__all__ = ["USUAL", "Configured", "configured"]

USUAL = {
    "key": None,
    "store": None,
    "headers": "both",
    "reset": "after",
    "dry_run": False,
    "on_error": "deny",
    "exempt": None,
}
BY_NAME = ("LIMITS", "KEY", "EXEMPT", "ON_LIMITED")
"""Settings that may be callables, which a settings file had better not import."""


class Configured:
    """What the settings say."""

    def __init__(self, given: Any) -> None:
        if not isinstance(given, dict):
            raise SetUpError(f"Invalid HEADWAY: {given!r}, must be a dictionary.")
        known = {"LIMITS", "ON_LIMITED", *(name.upper() for name in USUAL)}
        for name in given:
            if name not in known:
                raise SetUpError(
                    f"Invalid HEADWAY[{name!r}]: unknown; known are {', '.join(sorted(known))}."
                )
        said = {name: _found(name, value) for name, value in given.items()}
        self.limits = said.get("LIMITS")
        self.on_limited: Callable[..., Any] | None = checked_on_limited(said.get("ON_LIMITED"))
        self.options = {name: said.get(name.upper(), usual) for name, usual in USUAL.items()}
        self.options["store"] = store_of(self.options["store"])


def _found(name: str, value: Any) -> Any:
    """What a dotted name stands for, where a callable may be given."""
    dotted = isinstance(value, str) and all(part.isidentifier() for part in value.split("."))
    if name not in BY_NAME or not dotted or "." not in value:
        return value
    try:
        return import_string(value)
    except ImportError as error:
        raise SetUpError(
            f"Invalid HEADWAY[{name!r}]: {value!r} cannot be imported: {error}"
        ) from None


_read: Configured | None = None


def configured() -> Configured:
    global _read
    if _read is None:
        _read = Configured(getattr(settings, "HEADWAY", {}))
    return _read


def _forget(setting: str, **other: Any) -> None:
    """Tests override settings."""
    global _read
    if setting == "HEADWAY":
        _read = None


setting_changed.connect(_forget, dispatch_uid="headway.contrib.django")
