"""What each API sends, as its documentation shows it, becomes what it means.

Each set is a whole response's headers, those that have nothing to do with limits included.
"""

from __future__ import annotations

from typing import Any

import pytest

from headway._core import Observation, parse_headers

DATE = 1_700_000_000.0
COMMON = {
    "Date": "Tue, 14 Nov 2023 22:13:20 GMT",
    "Content-Type": "application/json; charset=utf-8",
    "Content-Length": "2412",
    "Connection": "keep-alive",
    "Cache-Control": "private, max-age=60, s-maxage=60",
    "Vary": "Accept, Authorization, Cookie",
    "ETag": 'W/"a4f1c5b2"',
    "Strict-Transport-Security": "max-age=31536000; includeSubdomains; preload",
    "X-Frame-Options": "deny",
    "X-Content-Type-Options": "nosniff",
    "X-XSS-Protection": "0",
    "X-Request-Id": "1f2e3d4c",
    "Server": "nginx",
}


def read(headers: dict[str, str], status: int = 200) -> Observation:
    seen = parse_headers({**COMMON, **headers}, status, DATE + 7.5)
    assert seen.date == DATE
    return seen


def limits(seen: Observation) -> dict[str, tuple[Any, ...]]:
    """By name: resource, limit, remaining, window, reset, its kind."""
    found = {dimension[0]: tuple(dimension[1:]) for dimension in seen.dimensions}
    assert len(found) == len(seen.dimensions)
    return found


def after(seconds: float) -> tuple[float, str]:
    return seconds, "after"


def at(instant: float) -> tuple[float, str]:
    return instant, "at"


UNSAID = (None, None)

GITHUB = {
    "Server": "github.com",
    "X-GitHub-Media-Type": "github.v3; format=json",
    "X-GitHub-Request-Id": "C0DE:1234:5678:9ABC:DEF0",
    "x-github-api-version-selected": "2022-11-28",
    "X-RateLimit-Limit": "5000",
    "X-RateLimit-Remaining": "4987",
    "X-RateLimit-Reset": "1700003600",
    "X-RateLimit-Used": "13",
    "X-RateLimit-Resource": "core",
}

RECORDED: dict[str, tuple[dict[str, str], dict[str, tuple[Any, ...]]]] = {
    "GitHub": (GITHUB, {"requests": ("core", 5000, 4987, None, *at(1_700_003_600))}),
    "Twitter": (
        {
            "x-rate-limit-limit": "900",
            "x-rate-limit-remaining": "847",
            "x-rate-limit-reset": "1700000900",
            "x-app-limit-24hour-limit": "10000",
            "x-app-limit-24hour-remaining": "9999",
            "x-app-limit-24hour-reset": "1700086400",
            "x-user-limit-24hour-limit": "1000",
            "x-user-limit-24hour-remaining": "998",
            "x-user-limit-24hour-reset": "1700086400",
            "x-response-time": "31",
        },
        {
            "requests": ("", 900, 847, None, *at(1_700_000_900)),
            "app_requests_per_day": ("", 10000, 9999, 86400.0, *at(1_700_086_400)),
            "user_requests_per_day": ("", 1000, 998, 86400.0, *at(1_700_086_400)),
        },
    ),
    "OpenAI": (
        {
            "openai-organization": "org-1",
            "openai-processing-ms": "412",
            "openai-version": "2020-10-01",
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-limit-tokens": "150000",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-remaining-tokens": "149984",
            "x-ratelimit-reset-requests": "120ms",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        {
            "requests": ("", 60, 59, None, *after(0.12)),
            "tokens": ("", 150000, 149984, None, *after(360)),
        },
    ),
    "Anthropic": (
        {
            "request-id": "req_018EeWyXxfu5pfWkrYcMdjWG",
            "anthropic-organization-id": "e0c0",
            "anthropic-ratelimit-requests-limit": "1000",
            "anthropic-ratelimit-requests-remaining": "999",
            "anthropic-ratelimit-requests-reset": "2023-11-14T22:13:21Z",
            "anthropic-ratelimit-tokens-limit": "100000",
            "anthropic-ratelimit-tokens-remaining": "99000",
            "anthropic-ratelimit-tokens-reset": "2023-11-14T22:13:50Z",
            "anthropic-ratelimit-input-tokens-limit": "80000",
            "anthropic-ratelimit-input-tokens-remaining": "79000",
            "anthropic-ratelimit-input-tokens-reset": "2023-11-14T22:13:40Z",
            "anthropic-ratelimit-output-tokens-limit": "20000",
            "anthropic-ratelimit-output-tokens-remaining": "20000",
            "anthropic-ratelimit-output-tokens-reset": "2023-11-14T22:13:20Z",
        },
        {
            "requests": ("", 1000, 999, None, *at(DATE + 1)),
            "tokens": ("", 100000, 99000, None, *at(DATE + 30)),
            "input_tokens": ("", 80000, 79000, None, *at(DATE + 20)),
            "output_tokens": ("", 20000, 20000, None, *at(DATE)),
        },
    ),
    "Discord": (
        {
            "x-ratelimit-bucket": "abcd1234",
            "x-ratelimit-limit": "5",
            "x-ratelimit-remaining": "0",
            "x-ratelimit-reset": "1700000001.470",
            "x-ratelimit-reset-after": "1.470",
            "via": "1.1 google",
        },
        {"requests": ("abcd1234", 5, 0, None, *after(1.47))},
    ),
    "Shopify": (
        {
            "X-Shopify-Shop-Api-Call-Limit": "32/40",
            "X-Shopify-API-Version": "2024-01",
            "X-ShopId": "1",
            "HTTP_X_SHOPIFY_SHOP_API_CALL_LIMIT": "1/2",
        },
        {"requests": ("", 40, 8, 20.0, *after(16))},
    ),
    "HubSpot": (
        {
            "X-HubSpot-RateLimit-Daily": "250000",
            "X-HubSpot-RateLimit-Daily-Remaining": "249000",
            "X-HubSpot-RateLimit-Secondly": "10",
            "X-HubSpot-RateLimit-Secondly-Remaining": "9",
            "X-HubSpot-RateLimit-Max": "110",
            "X-HubSpot-RateLimit-Remaining": "108",
            "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
            "X-HubSpot-Correlation-Id": "7f",
        },
        {
            "requests": ("", 110, 108, 10.0, *UNSAID),
            "requests_per_day": ("", 250000, 249000, 86400.0, *UNSAID),
            "requests_per_second": ("", 10, 9, 1.0, *UNSAID),
        },
    ),
    "Reddit": (
        {"x-ratelimit-remaining": "597.5", "x-ratelimit-used": "2.5", "x-ratelimit-reset": "342"},
        {"requests": ("", 600, 597, None, *after(342))},
    ),
    "GitLab": (
        {
            "RateLimit-Limit": "600",
            "RateLimit-Name": "throttle_authenticated_web",
            "RateLimit-Observed": "6",
            "RateLimit-Remaining": "594",
            "RateLimit-Reset": "1700000060",
            "RateLimit-ResetTime": "Tue, 14 Nov 2023 22:14:20 GMT",
            "GitLab-LB": "haproxy-main-35",
        },
        {"requests": ("throttle_authenticated_web", 600, 594, None, *at(DATE + 60))},
    ),
    "Atlassian": (
        {
            "Beta-RateLimit-Policy": '"tenant-app-quota";q=100100;w=3600',
            "Beta-RateLimit": '"tenant-app-quota";r=17842;t=2107',
            "X-Beta-RateLimit-Reason": "jira-quota-tenant-based",
            "X-RateLimit-NearLimit": "true",
            "X-RateLimit-Limit": "350",
            "X-RateLimit-Remaining": "349",
            "X-RateLimit-Reset": "2023-11-14T22:14Z",
            "X-ARequestId": "9",
        },
        {
            "tenant-app-quota": ("", 100100, 17842, 3600.0, *after(2107)),
            "requests": ("", 350, 349, None, *at(DATE + 40)),
        },
    ),
    "the IETF's current draft": (
        {
            "RateLimit-Policy": '"burst";q=100;w=60,"daily";q=1000;w=86400;pk=:dXNlcg==:',
            "RateLimit": '"burst";r=50;t=30, "daily";r=998;t=40000;pk=:dXNlcg==:',
        },
        {
            "burst": ("", 100, 50, 60.0, *after(30)),
            "daily": ("dXNlcg==", 1000, 998, 86400.0, *after(40000)),
        },
    ),
    "the draft, counted in bytes": (
        {
            "RateLimit-Policy": '"bandwidth";q=65535;qu="content-bytes";w=10',
            "RateLimit": '"bandwidth";r=4096',
        },
        {"bandwidth;qu=content-bytes": ("", 65535, 4096, 10.0, *UNSAID)},
    ),
    "draft 7": (
        {
            "RateLimit": "limit=100, remaining=50, reset=5",
            "RateLimit-Policy": '100;w=60;comment="fixed", 1000;w=3600',
        },
        {
            "requests": ("", 100, 50, 60.0, *after(5)),
            "requests;w=3600": ("", 1000, None, 3600.0, *UNSAID),
        },
    ),
    "draft 3": (
        {
            "RateLimit-Limit": "10, 10;w=1, 50;w=60",
            "RateLimit-Remaining": "9",
            "RateLimit-Reset": "1",
        },
        {
            "requests": ("", 10, 9, 1.0, *after(1)),
            "requests;w=60": ("", 50, None, 60.0, *UNSAID),
        },
    ),
    "lists, one place a limit": (
        {
            "X-RateLimit-Limit": "1, 15000",
            "X-RateLimit-Policy": "1;w=1, 15000;w=2592000",
            "X-RateLimit-Remaining": "0, 14523",
            "X-RateLimit-Reset": "1, 1419704",
        },
        {
            "requests;w=1": ("", 1, 0, 1.0, *after(1)),
            "requests;w=2592000": ("", 15000, 14523, 2592000.0, *after(1419704)),
        },
    ),
    "Kong": (
        {
            "X-RateLimit-Limit-Minute": "20",
            "X-RateLimit-Remaining-Minute": "18",
            "X-RateLimit-Limit-Hour": "500",
            "X-RateLimit-Remaining-Hour": "498",
            "RateLimit-Limit": "20",
            "RateLimit-Remaining": "18",
            "RateLimit-Reset": "53",
        },
        {
            "requests": ("", 20, 18, None, *after(53)),
            "requests_per_minute": ("", 20, 18, 60.0, *UNSAID),
            "requests_per_hour": ("", 500, 498, 3600.0, *UNSAID),
        },
    ),
    "milliseconds since the epoch": (
        {"X-Rate-Limit-Limit": "10", "X-Rate-Limit-Reset": "1700000000500"},
        {"requests": ("", 10, None, None, *at(DATE + 0.5))},
    ),
    "Amazon": (
        {"x-amzn-RateLimit-Limit": "0.0167", "x-amzn-RequestId": "r"},
        {"requests": ("", 1, None, pytest.approx(59.88, abs=0.001), *UNSAID)},
    ),
    "Azure": (
        {
            "x-ms-ratelimit-remaining-subscription-reads": "11999",
            "x-ms-ratelimit-remaining-resource": "Microsoft.Compute/HighCostGet3Min;159,"
            "Microsoft.Compute/HighCostGet30Min;1250",
            "x-ms-request-id": "q",
        },
        {
            "subscription_reads": ("", None, 11999, None, *UNSAID),
            "Microsoft.Compute/HighCostGet3Min": ("", None, 159, None, *UNSAID),
            "Microsoft.Compute/HighCostGet30Min": ("", None, 1250, None, *UNSAID),
        },
    ),
    "nothing of limits": ({}, {}),
}


@pytest.mark.parametrize("api", RECORDED)
def test_a_recorded_response_means_what_its_api_documents(api: str) -> None:
    headers, wanted = RECORDED[api]
    seen = read(headers)
    assert limits(seen) == wanted
    assert seen.ignored == 0
    assert seen.retry_after is None
    assert bool(seen) is bool(wanted)


@pytest.mark.parametrize("api", RECORDED)
def test_order_and_case_of_names_do_not_matter(api: str) -> None:
    headers, _ = RECORDED[api]
    turned = [(name.upper(), value) for name, value in reversed(list(headers.items()))]
    seen, plain = parse_headers(turned, 200, DATE), parse_headers(headers, 200, DATE)
    if api not in ("Azure", "Twitter"):
        assert seen == plain
    assert set(seen.dimensions) == set(plain.dimensions)


REFUSED: dict[str, tuple[int, dict[str, str], float | None, bool]] = {
    "GitHub's primary limit is of its resource": (
        403,
        {**GITHUB, "X-RateLimit-Remaining": "0", "X-RateLimit-Used": "5000"},
        None,
        False,
    ),
    "GitHub's primary limit has no minute of its own": (
        429,
        {**GITHUB, "X-RateLimit-Remaining": "0"},
        None,
        False,
    ),
    "GitHub's primary limit may tell of a time": (
        403,
        {**GITHUB, "X-RateLimit-Remaining": "0", "Retry-After": "60"},
        60,
        False,
    ),
    "GitHub's secondary limit is for all": (403, {**GITHUB, "Retry-After": "60"}, 60, True),
    "GitHub's secondary limit may tell of nothing else": (
        429,
        {"X-GitHub-Request-Id": "A", "Retry-After": "30"},
        30,
        True,
    ),
    "GitHub's secondary limit without a time is a minute": (429, GITHUB, 60, True),
    "GitHub's 403 without a time is a matter of rights": (403, GITHUB, None, False),
    "Slack": (429, {"Retry-After": "30", "x-slack-req-id": "s"}, 30, False),
    "Stripe, one endpoint": (
        429,
        {"Stripe-Rate-Limited-Reason": "endpoint-rate", "Retry-After": "1"},
        1,
        False,
    ),
    "Stripe, the account": (
        429,
        {"Stripe-Rate-Limited-Reason": "global-rate", "Retry-After": "1"},
        1,
        True,
    ),
    "Discord, one bucket": (
        429,
        {
            "X-RateLimit-Scope": "user",
            "X-RateLimit-Bucket": "b",
            "X-RateLimit-Remaining": "0",
            "Retry-After": "2",
        },
        2,
        False,
    ),
    "Discord, everything": (
        429,
        {"X-RateLimit-Global": "true", "X-RateLimit-Scope": "global", "Retry-After": "65"},
        65,
        True,
    ),
    "Discord, everything, by its scope": (
        429,
        {"X-RateLimit-Scope": "global", "Retry-After": "65"},
        65,
        True,
    ),
    "Discord, what many share": (
        429,
        {
            "X-RateLimit-Scope": "shared",
            "X-RateLimit-Bucket": "b",
            "X-RateLimit-Remaining": "3",
            "Retry-After": "7",
        },
        7,
        False,
    ),
    "Atlassian, a burst": (
        429,
        {"RateLimit-Reason": "jira-burst-based", "Retry-After": "5"},
        5,
        False,
    ),
    "Atlassian, the tenant's quota": (
        429,
        {"RateLimit-Reason": "jira-quota-tenant-based", "Retry-After": "1847"},
        1847,
        True,
    ),
    "MailerLite": (429, {"X-RateLimit-Retry-After": "59"}, 59, False),
    "OpenAI, with milliseconds": (429, {"retry-after": "1", "retry-after-ms": "271"}, 0.271, False),
    "a date, by the server's clock": (
        503,
        {"Retry-After": "Tue, 14 Nov 2023 22:14:20 GMT"},
        60,
        False,
    ),
    "a date that is past": (503, {"Retry-After": "Tue, 14 Nov 2023 22:13:00 GMT"}, 0, False),
    "a fraction": (429, {"Retry-After": "0.25"}, 0.25, False),
    "a page that will be there later": (202, {"Retry-After": "120"}, None, False),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_request_learns_when_to_come_back(what: str) -> None:
    status, headers, retry_after, for_all = REFUSED[what]
    seen = read(headers, status)
    assert seen.retry_after == retry_after
    assert seen.retry_for_all is for_all
    assert seen.ignored == 0


def test_without_the_servers_date_a_retry_date_is_relative_to_the_local_clock() -> None:
    seen = parse_headers({"Retry-After": "Tue, 14 Nov 2023 22:14:20 GMT"}, 429, DATE + 20)
    assert seen.date is None
    assert seen.retry_after == 40
