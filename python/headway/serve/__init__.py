"""The service: limits for programs that have no store in common, asked for over HTTP.

`headway serve` runs it (`command`). A request meets the modules in this order: `protocol` reads it
off the connection, on uvicorn, and `guard` cuts off slow ones; `app` finds its route, its tenant by
its token (`tokens`) and its body; `asking` and `proxy` turn it into a decision, the one for the
JSON API and the other for choked's protocol, both by `limiters`; `remembered` answers a request
that was sent again as it was answered before. `metrics` and `pages` are for those who watch, and
`looking` does what takes long for them in slices.

Nothing here is imported by the rest of headway. It needs the extra: pip install "headway[serve]".
"""
