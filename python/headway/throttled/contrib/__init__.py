"""throttled-py's `contrib`: what ties it to other packages, each in a module of its own."""
