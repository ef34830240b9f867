"""Fetching from the web, against real origins on real sockets: slow, endless, lying and redirecting ones.

Origins can only listen on loopback here, which is never fetched from: the tests declare 127.0.0.1 public and resolve
names themselves. What is public in truth has tests of its own.
"""

import asyncio
import gzip
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from serving.images.addresses import UrlError, is_public, read_url
from serving.images.errors import ImageError
from serving.images.fetch import NOT_FETCHED, Fetcher

PICTURE = b"\x89PNG, more or less" * 100


class Origin(BaseHTTPRequestHandler):
    """What an origin does is in its path."""

    seen: list[tuple[str, str]]  # path and Host header

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        action, _, rest = self.path[1:].partition("/")
        if action == "picture":
            self._answer(200, PICTURE)
        elif action == "status":
            self._answer(int(rest), b"secret of the internal network")
        elif action == "redirect":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        elif action == "large":
            self._answer(200, bytes(int(rest)))
        elif action == "bomb":
            self._answer(200, gzip.compress(bytes(50_000_000)), ("Content-Encoding", "gzip"))
        elif action in ("endless", "slow"):
            self.send_response(200)
            self.end_headers()
            while not self.server.over.wait(0.05 if action == "slow" else 0):  # type: ignore[attr-defined]
                self.wfile.write(b"x" * (1 if action == "slow" else 65536))
        elif action == "silent":
            self.server.over.wait(30)  # type: ignore[attr-defined]

    def _answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for header in (("Content-Length", str(len(body))), *headers):
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


class Server(ThreadingHTTPServer):
    """`seen` is what was asked; `over` ends the endless."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Origin)
        self.seen: list[tuple[str, str]] = []
        self.over = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, *_: Any) -> None:
        """A client that leaves early is what these tests are about."""

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


@pytest.fixture
def origin() -> Iterator[Server]:
    with Server() as running:
        yield running


class Names:
    """A resolver that the test controls; answers each question with the next list, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        assert port > 0
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def fetcher(names: Names | None = None, deadline_s: float = 60, **settings: Any) -> Fetcher:
    """As the server's, with a deadline that a busy machine keeps."""
    resolve = names or Names(["127.0.0.1"])
    return Fetcher(resolve=resolve, is_public=lambda ip: ip == "127.0.0.1", deadline_s=deadline_s, **settings)


def fetched(url: str, by: Fetcher | None = None) -> bytes:
    return asyncio.run((by or fetcher()).fetch(url))


def cause_of_refusal(url: str, by: Fetcher | None = None) -> str:
    """The cause for the log. The client reads one sentence, whatever it was."""
    with pytest.raises(ImageError) as refusal:
        fetched(url, by)
    assert str(refusal.value) == NOT_FETCHED
    return refusal.value.cause


def test_a_picture_is_fetched_with_the_hosts_name(origin: Server) -> None:
    assert fetched(f"http://pictures.example.com:{origin.port}/picture") == PICTURE
    assert origin.seen == [("/picture", f"pictures.example.com:{origin.port}")]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.com/x.png", "gopher://example.com/", "//example.com/x.png", "x.png", "",
        "http:///x.png", "http://user@example.com/", "http://user:secret@example.com/", "http://example.com\\@evil.com/",
        "http://example.com/\r\nHost: evil", "http://exa\tmple.com/", "http://example.com/ x", "http://example.com/\0",
        "http://localhost/", "http://intranet/", "http://localhost./", "http://2130706433/", "http://0x7f000001/",
        "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://127.1/", "http://%31%32%37.0.0.1/", "http://１２７.0.0.1/",
        "http://example.com:0/", "http://example.com:99999/", "http://[::1/", "http://[fe80::1%25eth0]/",
        "http://a..b/", "http://.example.com/", "http://exa%6dple.com/", "http://" + "a" * 70 + ".com/",
    ],
)  # fmt: skip
def test_urls_that_are_not_plain(url: str) -> None:
    """Rows 36, 37 and 43: refused by reading alone, before any name is looked up."""
    names = Names(["127.0.0.1"])
    cause_of_refusal(url, fetcher(names))
    assert names.asked == []


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://example.com/x.png", "example.com", 80),
        ("HTTPS://Example.COM./x.png", "example.com", 443),
        ("https://bücher.example/x", "xn--bcher-kva.example", 443),
        ("http://93.184.216.34:8080/", "93.184.216.34", 8080),
        ("http://[2606:2800:220:1:248:1893:25c8:1946]/", "2606:2800:220:1:248:1893:25c8:1946", 80),
    ],
)
def test_plain_urls(url: str, host: str, port: int) -> None:
    target = read_url(url)
    assert (target.host, target.port) == (host, port)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "239.1.1.1", "255.255.255.255", "198.18.0.1", "192.0.2.1", "240.0.0.1",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::", "::127.0.0.1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2", "not an address",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"])
def test_a_private_address_is_never_connected_to(origin: Server, address: str) -> None:
    """Row 37 with everything as in service: the system's resolver and the real rule."""
    assert "not public" in cause_of_refusal(f"http://{address}:{origin.port}/picture", Fetcher())
    assert origin.seen == []


def test_a_name_with_one_private_address_among_others(origin: Server) -> None:
    names = Names(["127.0.0.1", "10.0.0.1"])
    assert "10.0.0.1" in cause_of_refusal(f"http://pictures.example.com:{origin.port}/picture", fetcher(names))
    assert origin.seen == []


def test_redirects_are_followed_where_they_may_lead(origin: Server) -> None:
    assert fetched(f"http://pictures.example.com:{origin.port}/redirect//picture") == PICTURE


@pytest.mark.parametrize(
    "location", ["http://private.example.com:{port}/picture", "http://localhost:{port}/picture", "file:///etc/passwd",
                 "http://[", "http://user@pictures.example.com:{port}/picture"],
)  # fmt: skip
def test_redirects_elsewhere(origin: Server, location: str) -> None:
    """Row 38."""
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    cause_of_refusal(
        f"http://pictures.example.com:{origin.port}/redirect/{location.format(port=origin.port)}", fetcher(names)
    )
    assert len(origin.seen) == 1


def test_redirects_without_end(origin: Server) -> None:
    url = f"http://pictures.example.com:{origin.port}"
    assert "redirects" in cause_of_refusal(f"{url}/redirect//redirect//redirect//redirect//redirect//picture")


def test_the_address_that_was_checked_is_the_one_connected_to() -> None:
    """Row 39: a name that is public when asked first and another's when asked again."""
    with Server("127.0.0.1") as public, Server("127.0.0.2") as private:
        names = Names(["127.0.0.1"], ["127.0.0.2"])
        assert fetched(f"http://rebinding.example.com:{public.port}/picture", fetcher(names)) == PICTURE
        assert names.asked == ["rebinding.example.com"]
        assert private.seen == []


@pytest.mark.parametrize("action", ["slow", "silent"])
def test_a_slow_origin(origin: Server, action: str) -> None:
    """Row 40: the deadline spans the whole, however often another byte comes."""
    assert "Timeout" in cause_of_refusal(f"http://a.example.com:{origin.port}/{action}", fetcher(deadline_s=0.4))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Key and certificate of pictures.example.com, signed by itself."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pictures.example.com")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("pictures.example.com")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path / "origin.pem"
    file.write_bytes(secret + made.public_bytes(pem))
    return file


def test_https_to_a_pinned_address_is_still_to_the_host(origin: Server, certificate: Path) -> None:
    """The host's name is what the certificate must bear and what the server is asked for, not the address."""
    asked_for: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    origin.socket = context.wrap_socket(origin.socket, server_side=True)
    trusting = fetcher(tls=lambda: ssl.create_default_context(cafile=certificate))
    assert fetched(f"https://pictures.example.com:{origin.port}/picture", trusting) == PICTURE
    assert asked_for == ["pictures.example.com"]
    assert "CERTIFICATE_VERIFY_FAILED" in cause_of_refusal(f"https://other.example.com:{origin.port}/picture", trusting)
    assert "CERTIFICATE_VERIFY_FAILED" in cause_of_refusal(f"https://pictures.example.com:{origin.port}/picture")


def test_a_slow_resolver() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return [f"{host}:{port}"]

    assert "Timeout" in cause_of_refusal("http://a.example.com/", Fetcher(resolve=never, deadline_s=0.2))


def test_the_deadline_is_five_seconds_and_the_limit_twenty_mebibytes() -> None:
    assert (Fetcher().deadline_s, Fetcher().max_bytes) == (5.0, 20 * 2**20)


def test_an_endless_body(origin: Server) -> None:
    """Row 41."""
    assert "larger than" in cause_of_refusal(f"http://a.example.com:{origin.port}/endless", fetcher(max_bytes=10**6))


def test_a_body_up_to_the_limit_and_one_beyond(origin: Server) -> None:
    limited = fetcher(max_bytes=1000)
    assert len(fetched(f"http://a.example.com:{origin.port}/large/1000", limited)) == 1000
    assert "larger" in cause_of_refusal(f"http://a.example.com:{origin.port}/large/1001", limited)


def test_a_compressed_bomb(origin: Server) -> None:
    assert "compressed" in cause_of_refusal(f"http://a.example.com:{origin.port}/bomb")


@pytest.mark.parametrize("status", [404, 500, 403, 304])
def test_an_origin_that_refuses(origin: Server, status: int) -> None:
    """Row 42: nothing of the origin's answer reaches the client."""
    assert str(status) in cause_of_refusal(f"http://a.example.com:{origin.port}/status/{status}")


def test_a_port_where_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert "ConnectError" in cause_of_refusal(f"http://a.example.com:{bound.getsockname()[1]}/picture")


def test_a_name_that_does_not_exist() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise OSError(f"no {host}:{port}")

    cause_of_refusal("http://a.example.com/", Fetcher(resolve=unknown))
    cause_of_refusal("http://a.example.com/", fetcher(Names([])))


def test_only_the_hosts_on_the_list(origin: Server) -> None:
    listed = fetcher(allowed_hosts=frozenset({"pictures.example.com"}))
    assert fetched(f"http://Pictures.example.com:{origin.port}/picture", listed) == PICTURE
    for host in ("other.example.com", "pictures.example.com.evil.com", "127.0.0.1"):
        assert "list" in cause_of_refusal(f"http://{host}:{origin.port}/picture", listed)
    away = f"http://pictures.example.com:{origin.port}/redirect/http://other.example.com:{origin.port}/picture"
    assert "list" in cause_of_refusal(away, listed)


def test_no_secret_of_a_url_reaches_the_log() -> None:
    for url in ("http://user:secret@a.example.com/x", "http://localhost/x?token=secret", "http://localhost/#secret"):
        assert "secret" not in cause_of_refusal(url)


def test_a_url_cannot_be_read_twice_in_two_ways() -> None:
    """What is checked is the parsed URL that is also sent, not the text."""
    with pytest.raises(UrlError):
        read_url("http://example.com\\.evil.com/")
    assert read_url("http://example.com/?@evil.com").host == "example.com"
    assert read_url("http://example.com#@evil.com").host == "example.com"
