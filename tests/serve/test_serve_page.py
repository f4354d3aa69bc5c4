"""The files of the page: types, ETags, what a browser is told, and no way out of the directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from service_help import ALICE, ServiceProcess, call

from headway.commands.service import Service as Watched
from headway.serve.pages import Pages


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    page = tmp_path / "page"
    (page / "parts").mkdir(parents=True)
    (page / "index.html").write_text("<!doctype html>")
    (page / "app.js").write_text("let x")
    (page / "style.css").write_text("a {}")
    (page / "parts" / "icon.svg").write_text("<svg/>")
    (page / "notes.py").write_text("secret")
    (page / ".hidden").write_text("secret")
    (tmp_path / "outside.js").write_text("secret")
    return Pages(page)


@pytest.mark.parametrize(
    ("path", "kind", "content"),
    [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/static/index.html", "text/html; charset=utf-8", "<!doctype html>"),
        ("/static/app.js", "text/javascript; charset=utf-8", "let x"),
        ("/static/style.css", "text/css; charset=utf-8", "a {}"),
        ("/static/parts/icon.svg", "image/svg+xml", "<svg/>"),
    ],
)
def test_a_file_is_served_as_what_it_is(pages: Pages, path: str, kind: str, content: str) -> None:
    answer = pages.get(path, None)
    assert answer is not None
    headers = dict(answer.headers)
    assert (answer.status, answer.body.decode()) == (200, content)
    assert headers[b"content-type"].decode() == kind
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../outside.js",
        "/static//etc/passwd",
        "/static/notes.py",
        "/static/.hidden",
        "/static/",
        "/static",
        "/app.js",
        "//",
        "/static/parts/../app.js",
        "/static/app.js\0",
    ],
)
def test_nothing_else_is(pages: Pages, path: str) -> None:
    assert pages.get(path, None) is None


def test_a_file_that_a_browser_has_is_not_sent_again(pages: Pages) -> None:
    first = pages.get("/static/app.js", None)
    assert first is not None
    etag = dict(first.headers)[b"etag"]
    for header in (etag, b"W/" + etag, b'"other", ' + etag, b"*"):
        again = pages.get("/static/app.js", header)
        assert again is not None
        assert (again.status, again.body) == (304, b"")
        assert dict(again.headers)[b"etag"] == etag
    other = pages.get("/static/app.js", b'"other"')
    assert other is not None
    assert other.status == 200


def test_what_is_not_sent_again_has_no_length(service: ServiceProcess) -> None:
    etag = service.get("/").headers["etag"]
    said = service.ask("GET", "/", headers={"If-None-Match": etag})
    assert (said.status, said.body) == (304, b"")
    assert "content-length" not in said.headers


def test_where_there_is_no_page_nothing_is_served(tmp_path: Path) -> None:
    assert Pages(tmp_path / "nowhere").get("/", None) is None


def test_a_thousand_long_keys_can_be_watched() -> None:
    with ServiceProcess("--max-body", "1000000") as service:
        for first in range(0, 1000, 100):
            keys = [f"{number:04}".ljust(1024, "\x01") for number in range(first, first + 100)]
            asked = [{"key": key, "quota": "9/h"} for key in keys]
            assert service.post("/v1/limit", {"requests": asked}).status == 200
        with Watched(service.url, "SOURCE", None) as watched:
            for _ in range(2):
                status, body = watched.ask("GET", "/v1/keys?limit=1000")
                assert (status, len(json.loads(body)["keys"])) == (200, 1000)


@pytest.mark.parametrize("seconds", [60, 2, 0.0015, 0.1])
def test_a_row_of_the_list_names_what_reset_takes(
    service: ServiceProcess, key: str, seconds: float
) -> None:
    """What the page does: it sends a row's fields back."""
    fields = call(
        key,
        request_capacity=10**9,
        request_refill_rate=10**9 / 3600,
        requests_needed=1,
        token_capacity=5,
        token_refill_rate=5 / seconds,
        tokens_needed=5,
    )
    assert service.get("/choked/acquire", ALICE, **fields).status == 200
    (row,) = service.get("/v1/keys", ALICE, search=key).json["keys"]
    question = {"key": row["key"], "quota": row["quota"], "using": row["algorithm"]}
    assert service.post("/v1/reset", {**question, "tenant": row["tenant"]}, ALICE).status == 200
    assert service.post("/v1/peek", question, ALICE).json["reset_after"] == 0
