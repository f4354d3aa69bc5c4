"""Hooks that are awaited: `Hook` here is `headway.hooks.AsyncHook`."""

from headway.hooks import AsyncHook as Hook
from headway.hooks import HookContext

__all__ = ["Hook", "HookContext"]
