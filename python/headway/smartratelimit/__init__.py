"""Limits learned from the servers' own headers (smartratelimit.md)."""
