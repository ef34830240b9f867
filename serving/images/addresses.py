"""Which web addresses may be fetched for a stranger: only what anyone on the internet could reach as well."""

import ipaddress
import re
from dataclasses import dataclass

import httpx

# A full name: `localhost` and `intranet` belong to this network, and a host whose last label is a number is read as an
# IPv4 address by some (2130706433, 0x7f.1, 0177.0.0.1: WHATWG's URL standard, "ends in a number").
_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)+[a-z][a-z0-9-]{0,62}")
# All that is in use of IPv6 for everyone (RFC 4291, 2.4); besides it NAT64 (RFC 6052), which carries an IPv4 address.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class UrlError(Exception):
    """Why a URL is not fetched. For the log: a client must not learn the network from it."""


@dataclass(frozen=True)
class Target:
    """A URL that may be fetched if its host's address is public; `host` as it will be resolved."""

    url: httpx.URL
    host: str
    port: int


def read_url(text: str, allowed_hosts: frozenset[str] = frozenset()) -> Target:
    """Reads a URL by the parser that also fetches it. Raises UrlError for everything that is not plainly
    http(s)://host[:port]/…, and for a host outside `allowed_hosts` where there are any."""
    if any(ord(letter) <= 0x20 or ord(letter) == 0x7F or letter == "\\" for letter in text):
        raise UrlError("it has spaces, control characters or a backslash")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise UrlError(f"it cannot be read: {error}") from error
    if url.scheme not in ("http", "https"):
        raise UrlError(f"its scheme is {url.scheme!r}")
    if url.userinfo:
        raise UrlError("it has a user name")
    host = url.raw_host.decode("ascii").lower().removesuffix(".")
    port = {"http": 80, "https": 443}[url.scheme] if url.port is None else url.port
    if not _NAME.fullmatch(host) and not _is_address(host):
        raise UrlError(f"its host {host!r} is neither a full name nor a plain address")
    if not 0 < port < 2**16:
        raise UrlError(f"its port is {port}")
    if allowed_hosts and host not in allowed_hosts:
        raise UrlError(f"its host {host!r} is not on the list of allowed hosts")
    return Target(url, host, port)


def is_public(address: str) -> bool:
    """Whether the whole internet knows that address: not loopback, private, link-local, multicast, reserved, nor an
    IPv6 address that stands for such an IPv4 one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        within = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            within = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if within is not None:
            return is_public(str(within))
        if ip.scope_id is not None or ip not in _GLOBAL_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host  # a scope names an interface of this machine
