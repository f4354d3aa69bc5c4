"""Who is limited: addresses behind proxies that are trusted and that are not, API keys, users."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import Any

import pytest
from contrib_stage import Plain, decisions
from hypothesis import given
from hypothesis import strategies as st

from headway.contrib import Policy, api_key, client_address, combine, route, user
from headway.exceptions import DataError, SetUpError

PROXIES = ["10.0.0.0/8", "2001:db8:ffff::/48"]


def through(value: str, ip: str | None = "10.0.0.1", header: str = "x-forwarded-for") -> Plain:
    return Plain(ip=ip, headers={header: value})


class TestClientAddress:
    @pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
    def test_only_the_end_of_a_long_header_is_read(self, header: str) -> None:
        """What a client writes itself stands on the left, and is of any length."""
        key = client_address(PROXIES, header=header)
        hop = "for=%s" if header == "forwarded" else "%s"
        trusted = ", ".join([hop % "10.0.0.1"] * 2)
        filler = ", ".join([hop % "10.0.0.2"] * 5000)
        assert key(through(f"{hop % '1.1.1.1'}, {trusted}", header=header)) == "1.1.1.1"
        assert key(through(f"{filler}, {hop % '1.1.1.1'}, {trusted}", header=header)) == "1.1.1.1"
        assert key(through(f"{hop % '1.1.1.1'}, {filler}", header=header)) == "10.0.0.2"
        assert key(through("x" * 60_000, header=header)) == "10.0.0.1"

    def test_without_trusted_proxies_headers_are_not_read(self) -> None:
        assert client_address()(through("198.51.100.7")) == "10.0.0.1"

    def test_a_peer_that_is_no_proxy_cannot_name_another(self) -> None:
        key = client_address(PROXIES)
        assert key(through("198.51.100.7", ip="203.0.113.9")) == "203.0.113.9"

    @pytest.mark.parametrize(
        ("value", "client"),
        [
            ("198.51.100.7", "198.51.100.7"),
            ("1.1.1.1, 198.51.100.7", "198.51.100.7"),  # the left one is what the client wrote
            ("198.51.100.7, 10.9.9.9", "198.51.100.7"),
            ("198.51.100.7,10.2.3.4 , 10.9.9.9", "198.51.100.7"),
            ("10.1.1.1, 10.2.2.2", "10.1.1.1"),  # all are ours: who is furthest away
            ("198.51.100.7:5123", "198.51.100.7"),
            ("::ffff:198.51.100.7", "198.51.100.7"),
            ("[2001:db8:1:2:3::4]:443", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
            ("198.51.100.7, garbage", "10.0.0.1"),  # what is left of it is not worth more
            ("198.51.100.7, garbage, 10.9.9.9", "10.9.9.9"),
            ("", "10.0.0.1"),
            (", ,", "10.0.0.1"),
            ("unknown", "10.0.0.1"),
            ("1" * 5000, "10.0.0.1"),
        ],
    )
    def test_x_forwarded_for_is_read_from_the_right_past_those_who_are_trusted(
        self, value: str, client: str
    ) -> None:
        assert client_address(PROXIES)(through(value)) == client

    @pytest.mark.parametrize(
        ("value", "client"),
        [
            ("for=198.51.100.7", "198.51.100.7"),
            ('For="198.51.100.7:80";proto=https;by=10.0.0.1', "198.51.100.7"),
            ("for=1.1.1.1, for=198.51.100.7;proto=http, for=10.2.2.2", "198.51.100.7"),
            ('for="[2001:db8:1:2::17]:4711"', "2001:db8:1:2::/64"),
            ("for=_hidden", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
            # A proxy may quote the Host, which is the client's own words.
            ('for=198.51.100.7;host="a;for=1.1.1.1"', "198.51.100.7"),
            ('for=198.51.100.7;host="a,for=1.1.1.1"', "198.51.100.7"),
            (r'for=198.51.100.7;host="a\",for=1.1.1.1"', "198.51.100.7"),
            (r'for=198.51.100.7;host="a,for=1.1.1.1\\"', "198.51.100.7"),
            ('for="1.1.1.1, for=198.51.100.7 ; by=10.0.0.2', "198.51.100.7"),
            ("for=198.51.100.7;for=1.1.1.1", "10.0.0.1"),
            ('for=198.51.100.7;host="a" "b"', "10.0.0.1"),
            ('"' * 5000, "10.0.0.1"),
            (";" * 5000, "10.0.0.1"),
        ],
    )
    def test_forwarded_is_read_as_rfc_7239_writes_it(self, value: str, client: str) -> None:
        key = client_address(PROXIES, header="Forwarded")
        assert key(through(value, header="forwarded")) == client

    def test_another_header_is_one_address(self) -> None:
        key = client_address(PROXIES, header="X-Real-IP")
        assert key(through("198.51.100.7", header="x-real-ip")) == "198.51.100.7"
        assert key(through("1.1.1.1, 2.2.2.2", header="x-real-ip")) == "10.0.0.1"

    def test_ipv6_clients_are_counted_by_their_network_of_64_bits(self) -> None:
        key = client_address()
        assert key(Plain(ip="2001:db8::1")) == key(Plain(ip="2001:db8::ffff:2")) == "2001:db8::/64"
        assert key(Plain(ip="2001:db8:0:1::1")) == "2001:db8:0:1::/64"

    def test_ipv6_prefix_128_counts_each_address(self) -> None:
        assert client_address(ipv6_prefix=128)(Plain(ip="2001:DB8::1")) == "2001:db8::1"

    def test_who_has_no_address_is_unknown_and_the_log_says_so_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        key = client_address()
        with caplog.at_level(logging.WARNING, "headway.contrib"):
            assert [key(Plain(ip=None)) for _ in range(3)] == ["unknown"] * 3
        assert len(caplog.records) == 1

    def test_a_proxy_on_a_unix_socket_is_trusted_where_that_is_said(self) -> None:
        assert client_address("unix")(through("198.51.100.7", ip=None)) == "198.51.100.7"
        assert client_address(PROXIES)(through("198.51.100.7", ip=None)) == "unknown"

    @pytest.mark.parametrize("wrong", ["proxy.example", "10.0.0.1/8", "10.0.0.0/40", ""])
    def test_a_proxy_that_is_no_network_is_named(self, wrong: str) -> None:
        with pytest.raises(SetUpError, match="Invalid trusted_proxies") as error:
            client_address([wrong])
        assert repr(wrong) in str(error.value)

    @pytest.mark.parametrize("wrong", [0, 129, 64.0, "64", True])
    def test_a_prefix_that_is_none_is_named(self, wrong: Any) -> None:
        with pytest.raises(SetUpError, match="Invalid ipv6_prefix"):
            client_address(ipv6_prefix=wrong)

    @given(
        st.lists(st.ip_addresses(v=4).map(str) | st.sampled_from(["10.0.0.2", "x", ""]), max_size=6)
    )
    def test_a_spoofed_left_part_never_changes_the_key(self, written: list[str]) -> None:
        """Whatever a client writes, the proxy appends its address on the right."""
        key = client_address(PROXIES)
        value = ", ".join([*written, "198.51.100.7"])
        assert key(through(value)) == "198.51.100.7"

    @given(st.lists(st.ip_addresses().map(str), min_size=1, max_size=6))
    def test_it_agrees_with_a_plain_reading_from_the_right(self, hops: list[str]) -> None:
        nets = [ipaddress.ip_network(net) for net in PROXIES]

        def ours(text: str) -> bool:
            return any(ipaddress.ip_address(text) in net for net in nets)

        found = next((hop for hop in reversed(hops) if not ours(hop)), hops[0])
        key = client_address(PROXIES, ipv6_prefix=128)
        address = ipaddress.ip_address(found)
        mapped = getattr(address, "ipv4_mapped", None)
        assert key(through(", ".join(hops))) == str(mapped or address)


class TestApiKey:
    def test_the_secret_does_not_become_the_key(self) -> None:
        key = api_key()(Plain(headers={"x-api-key": "s3cret"}))
        assert key.startswith("key:")
        assert "s3cret" not in key

    def test_one_secret_has_one_key_wherever_it_stands(self) -> None:
        key = api_key(query="token")
        by_header = key(Plain(headers={"x-api-key": "s3cret"}))
        assert by_header == key(Plain(parameters={"token": "s3cret"}))
        assert by_header != key(Plain(parameters={"token": "other"}))

    def test_without_one_the_address_is_limited(self) -> None:
        assert api_key()(Plain()) == "192.0.2.1"
        assert api_key()(Plain(headers={"x-api-key": ""})) == "192.0.2.1"

    def test_missing_says_who_is_limited_instead(self) -> None:
        assert api_key(missing=lambda request: None)(Plain()) is None

    def test_without_a_header_and_a_query_there_is_no_key(self) -> None:
        with pytest.raises(SetUpError, match="Invalid header: None"):
            api_key(header=None)


class TestOthers:
    def test_user_is_who_is_logged_in_else_the_address(self) -> None:
        assert user()(Plain(name="ann")) == "user:ann"
        assert user()(Plain()) == "192.0.2.1"

    def test_route_is_method_and_template(self) -> None:
        assert route()(Plain("POST", "/items")) == "POST /items"

    def test_combine_keeps_pairs_apart_that_look_alike_when_joined(self) -> None:
        first = combine(lambda r: "a|b", lambda r: "c")(Plain())
        second = combine(lambda r: "a", lambda r: "b|c")(Plain())
        third = combine(lambda r: "a%7Cb", lambda r: "c")(Plain())
        assert len({first, second, third}) == 3

    def test_combine_is_no_key_where_a_part_is_none(self) -> None:
        assert combine(client_address(), lambda r: None)(Plain()) is None

    def test_combine_awaits_what_must_be_awaited(self) -> None:
        async def tenant(request: Plain) -> str:
            return "t"

        key = combine(client_address(), tenant, route())
        assert asyncio.run(key(Plain())) == "192.0.2.1|t|GET /"

    def test_combine_of_nothing_is_refused(self) -> None:
        with pytest.raises(SetUpError, match="at least one"):
            combine()


class TestInAPolicy:
    def test_none_exempts(self) -> None:
        policy = Policy("1/m", key=lambda request: None)
        assert decisions(policy, [Plain()] * 3) == [200] * 3

    @pytest.mark.parametrize("wrong", ["", b"", 42, 1.5, True, ["a"]])
    def test_what_is_no_key_is_an_error_that_names_it(self, wrong: Any) -> None:
        policy = Policy("1/m", key=lambda request: wrong)
        with pytest.raises(DataError, match="Invalid key") as error:
            policy.decide(Plain())
        assert "non-empty string" in str(error.value)

    def test_a_long_key_is_hashed(self) -> None:
        policy = Policy("1/m", key=lambda request: request.path)
        long = ["/" + "a" * 100_000, "/" + "a" * 99_999]
        assert decisions(policy, [Plain(path=path) for path in [*long, *long]]) == [
            200,
            200,
            429,
            429,
        ]

    def test_what_is_no_function_is_refused_at_once(self) -> None:
        with pytest.raises(SetUpError, match="Invalid key: 'ip'"):
            Policy("1/m", key="ip")  # type: ignore[arg-type]
