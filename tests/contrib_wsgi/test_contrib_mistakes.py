"""What a new user gets wrong is named when the limit is made, not at the first denial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from wsgi_servers import get, serving

import headway
from headway.contrib import Policy, Rule
from headway.contrib.asgi import RateLimitMiddleware as AsgiMiddleware
from headway.contrib.wsgi import RateLimitMiddleware as WsgiMiddleware


def app(*_: Any) -> Any:
    return []


async def handler(request: Any) -> Any:
    return None


def view(request: Any) -> Any:
    return None


def _flask(limits: Any, **options: Any) -> Any:
    flask = pytest.importorskip("flask")
    from headway.contrib.flask import RateLimit

    return RateLimit(flask.Flask("test"), limits, **options)


def _flask_view(limits: Any, **options: Any) -> Any:
    pytest.importorskip("flask")
    from headway.contrib.flask import RateLimit

    return RateLimit().limit(limits, **options)(view)


def _django(limits: Any, **options: Any) -> Any:
    pytest.importorskip("django")
    import django_site
    from django.test import override_settings

    from headway.contrib.django import RateLimitMiddleware

    assert django_site.urlpatterns
    said = {name.upper(): value for name, value in options.items()}
    with override_settings(HEADWAY={**said, "LIMITS": limits}):
        return RateLimitMiddleware(lambda request: None)


def _django_view(limits: Any, **options: Any) -> Any:
    pytest.importorskip("django")
    import django_site

    from headway.contrib.django import limit

    assert django_site.urlpatterns
    return limit(limits, **options)(view)


def _aiohttp(limits: Any, **options: Any) -> Any:
    pytest.importorskip("aiohttp")
    from headway.contrib.aiohttp import RateLimit

    return RateLimit(limits, **options)


def _aiohttp_handler(limits: Any, **options: Any) -> Any:
    pytest.importorskip("aiohttp")
    from headway.contrib.aiohttp import RateLimit

    return RateLimit().limit(limits, **options)(handler)


MAKERS: dict[str, Callable[..., Any]] = {
    "asgi": lambda limits, **options: AsgiMiddleware(app, limits, **options),
    "wsgi": lambda limits, **options: WsgiMiddleware(app, limits, **options),
    "flask": _flask,
    "flask view": _flask_view,
    "django": _django,
    "django view": _django_view,
    "aiohttp": _aiohttp,
    "aiohttp handler": _aiohttp_handler,
}
HOLDERS = ("flask", "django", "aiohttp")
"""Those that may have no limits of their own, only a store for what decorators say."""

makers = pytest.mark.parametrize("maker", MAKERS)


@makers
def test_a_quota(maker: str) -> None:
    with pytest.raises(headway.DataError, match="Invalid quota token: '100/fortnight'"):
        MAKERS[maker]("100/fortnight")


@makers
def test_the_url_of_a_store(maker: str) -> None:
    with pytest.raises(headway.SetUpError, match="Invalid store: 'redsi://localhost', must be"):
        MAKERS[maker]("100/minute", store="redsi://localhost")


@pytest.mark.parametrize("maker", HOLDERS)
def test_the_url_of_a_store_where_only_decorators_limit(maker: str) -> None:
    with pytest.raises(headway.SetUpError, match="Invalid store: 'redsi://localhost', must be"):
        MAKERS[maker](None, store="redsi://localhost")


@makers
def test_a_key_that_is_no_function(maker: str) -> None:
    with pytest.raises(headway.SetUpError, match="Invalid key: 5, must be a key function"):
        MAKERS[maker]("100/minute", key=5)


@makers
def test_on_limited_that_is_no_function(maker: str) -> None:
    with pytest.raises(headway.SetUpError, match="Invalid on_limited: 418, must be a callable"):
        MAKERS[maker]("100/minute", on_limited=418)


@pytest.mark.parametrize("maker", ["flask view", "django view", "aiohttp handler"])
def test_a_name_that_no_header_may_have(maker: str) -> None:
    with pytest.raises(headway.SetUpError, match=r"Invalid name: 'a\|b', must be visible ASCII"):
        MAKERS[maker]("100/minute", name="a|b")


@pytest.mark.parametrize("cost", ["1", 1.5, True, None, -1])
def test_a_cost_that_a_callable_returns(cost: Any) -> None:
    from headway.contrib.wsgi import EnvironFacts

    policy = Policy(Rule("100/minute", cost=lambda request: cost))
    facts = EnvironFacts({"REQUEST_METHOD": "GET", "REMOTE_ADDR": "192.0.2.1"})
    with pytest.raises(
        headway.DataError, match=f"Invalid cost: {cost!r} of the rule 'default', must"
    ):
        policy.decide(facts)


@pytest.mark.parametrize("key", ["", 5, 1.5, True, ["ann"]])
def test_a_key_that_a_function_returns(key: Any) -> None:
    from headway.contrib.wsgi import EnvironFacts

    policy = Policy("100/minute", key=lambda request: key)
    facts = EnvironFacts({"REQUEST_METHOD": "GET", "REMOTE_ADDR": "192.0.2.1"})
    with pytest.raises(headway.DataError, match=r"Invalid key: .* must be a non-empty string"):
        policy.decide(facts)


def test_a_blueprint_may_have_any_name(store: headway.MemoryStore) -> None:
    flask = pytest.importorskip("flask")
    from headway.contrib.flask import RateLimit

    site = flask.Flask("test")
    limits = RateLimit(site, store=store)
    pages = flask.Blueprint("meine Seiten|ü", "test")
    pages.get("/")(lambda: "ok")
    limits.limit("1/minute")(pages)
    site.register_blueprint(pages)
    with serving(site) as port:
        assert [get(port).status for _ in range(2)] == [200, 429]
