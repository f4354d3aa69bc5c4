"""URLs become scopes, and routes become resources."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.smartratelimit._scopes import ORIGINS_MAX, ROUTES_MAX, Routes, Scopes, scope_key
from headway.smartratelimit.exceptions import InvalidArgument


@pytest.mark.parametrize(
    ("endpoint", "key"),
    [
        ("api.github.com", "https://api.github.com"),
        ("API.GitHub.com/", "https://api.github.com"),
        ("https://api.github.com:443/users?page=2#top", "https://api.github.com/users"),
        ("http://api.github.com:80", "http://api.github.com"),
        ("http://localhost:8080/a//b/", "http://localhost:8080/a/b"),
        ("https://user:secret@example.com/x", "https://example.com/x"),
        ("https://[::1]:8443/", "https://[::1]:8443"),
        ("bücher.example", "https://xn--bcher-kva.example"),
        ("example.com.", "https://example.com"),
    ],
)
def test_an_endpoint_has_one_key_however_it_is_written(endpoint: str, key: str) -> None:
    assert scope_key(endpoint) == key


@pytest.mark.parametrize("endpoint", ["", "  ", "https://", "http://[::1", "a b.example", None, 3])
def test_what_is_no_endpoint_is_named(endpoint: object) -> None:
    with pytest.raises(InvalidArgument, match="Invalid endpoint"):
        scope_key(endpoint)  # type: ignore[arg-type]


@given(st.text(max_size=40))
def test_any_text_is_a_key_or_a_sentence(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert scope_key(scope_key(text)) == scope_key(text)


def scopes_with(*paths: str) -> Scopes:
    return Scopes(None, lambda origin: paths)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://h.example/other", "https://h.example"),
        ("https://h.example/search", "https://h.example/search"),
        ("https://h.example/search/?q=1", "https://h.example/search"),
        ("https://h.example/search/code/x", "https://h.example/search/code"),
        ("https://h.example/searching", "https://h.example"),
        ("HTTPS://H.example:443/search", "https://h.example/search"),
        ("https://h.example?q=/search", "https://h.example"),
    ],
)
def test_the_narrowest_scope_holds(url: str, key: str) -> None:
    assert scopes_with("/search", "/search/code").find("GET", url, {})[0].key == key


def test_a_scope_that_is_added_later_holds_from_then_on() -> None:
    scopes = scopes_with()
    assert scopes.find("GET", "https://h.example/search", {})[0].key == "https://h.example"
    scopes.add("https://h.example/search")
    assert scopes.find("GET", "https://h.example/search", {})[0].key == "https://h.example/search"


def test_a_partition_has_a_scope_of_its_own_and_its_name_is_not_kept() -> None:
    scopes = Scopes(lambda url, headers: headers.get("Authorization"), lambda origin: ())
    found = [
        scopes.find("GET", "https://h.example/x", {"Authorization": key})[0].key
        for key in ("secret-a", "secret-b", "secret-a")
    ]
    assert found[0] == found[2] != found[1]
    assert "secret" not in "".join(found)
    assert scopes.find("GET", "https://h.example/x", {})[0].key == "https://h.example"


def test_hosts_without_end_are_forgotten_in_time() -> None:
    scopes = scopes_with()
    for number in range(3 * ORIGINS_MAX):
        scopes.find("GET", f"https://h{number}.example/", {})
    assert len(scopes.known()) <= ORIGINS_MAX


def test_a_route_is_known_again_by_its_shape() -> None:
    routes = Routes()
    routes.learn("GET", "/repos/123/issues", "core")
    routes.learn("GET", "/search/code", "code_search")
    assert routes.resource("GET", "/repos/456/issues") == "core"
    assert routes.resource("GET", "/search/code") == "code_search"


def test_an_unknown_route_uses_what_its_parent_does_and_else_what_is_usual() -> None:
    routes = Routes()
    routes.learn("GET", "/search", "search")
    for path in ("/a", "/b", "/c"):
        routes.learn("GET", path, "core")
    assert routes.resource("GET", "/search/topics") == "search"
    assert routes.resource("GET", "/never/seen") == "core"


def test_what_is_usual_is_what_is_asked_for_most() -> None:
    routes = Routes()
    routes.learn("GET", "/users", "core")
    for _ in range(50):
        routes.resource("GET", "/users")
    for path in ("/search/a", "/search/b", "/search/c"):
        routes.learn("GET", path, "search")
    assert routes.resource("GET", "/never/seen") == "core"


def test_requests_for_the_only_resource_that_is_known_count_too() -> None:
    scopes = scopes_with()
    scopes.learn("GET", "https://h.example/users", "core")
    for _ in range(50):
        assert scopes.find("GET", "https://h.example/users", {})[1] == "core"
    for path in ("/search/a", "/search/b", "/search/c"):
        scopes.learn("GET", "https://h.example" + path, "search")
    assert scopes.find("GET", "https://h.example/never/seen", {})[1] == "core"
    assert scopes.find("GET", "https://h.example/search/a", {})[1] == "search"


def test_routes_without_end_are_bounded() -> None:
    routes = Routes()
    for number in range(2 * ROUTES_MAX):
        routes.learn("GET", "/" + "x" * (number % 20) + "/" + chr(0x4E00 + number), "core")
    assert len(routes) <= ROUTES_MAX
