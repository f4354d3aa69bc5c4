"""The page for those who watch: the files beside this module in `page/`, read once at the start."""

from __future__ import annotations

import hashlib
from pathlib import Path

from headway.serve.answers import Answer

__all__ = ["Pages"]

_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".ico": b"image/x-icon",
    ".js": b"text/javascript; charset=utf-8",
    ".json": b"application/json",
    ".png": b"image/png",
    ".svg": b"image/svg+xml",
    ".txt": b"text/plain; charset=utf-8",
    ".webmanifest": b"application/manifest+json",
    ".woff2": b"font/woff2",
}
_ALWAYS = (
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)


class Pages:
    """Files by their path on the service: `/` is index.html, the others are in `/static/`.

    Only what was found at the start is served, so no path can lead elsewhere.
    """

    def __init__(self, directory: Path | None = None) -> None:
        directory = directory or Path(__file__).with_name("page")
        self._answers: dict[str, tuple[bytes, Answer]] = {}
        for file in sorted(directory.rglob("*")) if directory.is_dir() else ():
            kind = _TYPES.get(file.suffix)
            if kind is None or not file.is_file():
                continue
            name = file.relative_to(directory).as_posix()
            content = file.read_bytes()
            etag = b'"%s"' % hashlib.sha256(content).hexdigest()[:32].encode()
            answer = Answer(200, content, ((b"content-type", kind), (b"etag", etag), *_ALWAYS))
            self._answers[f"/static/{name}"] = (etag, answer)
            if name == "index.html":
                self._answers["/"] = (etag, answer)

    def get(self, path: str, if_none_match: bytes | None) -> Answer | None:
        """Return a file, that it has not changed, or None where there is none."""
        found = self._answers.get(path)
        if found is None:
            return None
        etag, answer = found
        seen = [tag.strip().removeprefix(b"W/") for tag in (if_none_match or b"").split(b",")]
        if etag in seen or b"*" in seen:
            return Answer(304, b"", answer.headers[1:])
        return answer
