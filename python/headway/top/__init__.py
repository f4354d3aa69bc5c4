"""`headway top`: what limiters do right now, on a terminal or as JSON.

sources     where snapshots come from: a service, a Redis server, shared memory
scan        a Redis server to which nobody publishes: the keys alone
rates       from one snapshot to the next: how many a second
table       rows as text, and as rich draws them
keyboard    keys of a terminal, one at a time
live        the screen: fetching in a thread, drawing, reacting to keys
command     the arguments, `--once`, `--json`
"""
