"""Bad requests by row of docs/faults.md: what is sent, and which statuses are a right answer. Sent to onecard by
test_requests.py and, when asked, to plain vLLM by test_plain_vllm.py."""

import base64
import contextlib
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
# What a client would have given up by.
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Answer:
    """`status` is 0 where the connection ended, or the patience, without one."""

    status: int
    text: str
    seconds: float
    headers: dict[str, str]


@dataclass(frozen=True)
class Case:
    row: str
    what: str
    send: Callable[[int], Answer]
    right: tuple[int, ...]
    slow: bool = False

    @property
    def name(self) -> str:
        return f"{self.row} {self.what}"


def answer_of(ask: Callable[[], tuple[int, str, dict[str, str]]]) -> Answer:
    began = time.monotonic()
    try:
        status, text, headers = ask()
    except (httpx.HTTPError, OSError) as error:
        status, text, headers = 0, f"no answer: {type(error).__name__}", {}
    return Answer(status, text, time.monotonic() - began, headers)


def http(method: str = "POST", path: str = CHAT, **options: Any) -> Callable[[int], Answer]:
    """One request by httpx. A callable `content` is called for each sending."""

    def send(port: int) -> Answer:
        given = {name: value() if callable(value) else value for name, value in options.items()}
        with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client:

            def ask() -> tuple[int, str, dict[str, str]]:
                reply = client.request(method, f"http://127.0.0.1:{port}{path}", **given)
                return reply.status_code, reply.text, dict(reply.headers)

            return answer_of(ask)

    return send


def raw(*words: bytes, pause_s: float = 0.0) -> Callable[[int], Answer]:
    """Bytes over a socket; with a pause, again and again the last of them until the server answers. The answer is what
    has come when the server ends the connection, be it with a reset: it met a byte that crossed its answer."""

    def ask(port: int) -> tuple[int, str, dict[str, str]]:
        deadline = time.monotonic() + PATIENCE_S
        received = b""
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
            for word in words:
                client.sendall(word)
            client.settimeout(pause_s or PATIENCE_S)
            while time.monotonic() < deadline:
                try:
                    data = client.recv(65_536)
                except TimeoutError:
                    if not pause_s:
                        raise
                    if not received:
                        with contextlib.suppress(ConnectionError):  # what came before it can still be read
                            client.sendall(words[-1])
                    continue
                except ConnectionError:
                    break
                if not data:
                    break
                received += data
        status = int(received.split()[1]) if received else 0
        return status, received.partition(b"\r\n\r\n")[2].decode("utf-8", "replace"), {}

    return lambda port: answer_of(lambda: ask(port))


def chat(text: Any = "Who are you?", **parameters: Any) -> dict[str, Any]:
    return {"model": "onecard-demo", "messages": [{"role": "user", "content": text}], "max_tokens": 8} | parameters


def asks(text: Any = "Who are you?", **parameters: Any) -> Callable[[int], Answer]:
    return http(json=chat(text, **parameters))


def body(content: bytes) -> Callable[[int], Answer]:
    return http(content=content, headers=JSON)


def picture(url: str, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": url}, **more}, {"type": "text", "text": "?"}]


def shows(data: bytes, kind: str = "png") -> Callable[[int], Answer]:
    return asks(picture(f"data:image/{kind};base64,{base64.b64encode(data).decode()}"))


def png(width: int, height: int) -> bytes:
    """A whole black PNG of one bit a pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunks(mib: int) -> Callable[[], Iterator[bytes]]:
    def send() -> Iterator[bytes]:
        for _ in range(mib):
            yield b"x" * 2**20

    return send


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
DEEP = b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
LONG_SCHEMA = {"type": "object", "properties": {f"p{i}": {"type": "string", "maxLength": 1000} for i in range(2000)}}
# Within the bounds, and 60 s of xgrammar's time with a vocabulary of 150,000.
BOUNDED = {"type": "object", "properties": {f"p{i}": {"type": "string", "maxLength": 1000} for i in range(300)}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": LONG_SCHEMA}}
FORBIDDEN: dict[str, Any] = {
    "chat_template": "{{ 1 }}",
    "chat_template_kwargs": {"chat_template": "{{ 1 }}"},
    "mm_processor_kwargs": {"size": {"shortest_edge": 1, "longest_edge": 10**9}},
    "media_io_kwargs": {"image": {"mode": "L"}},
    "cache_salt": "mine",
    "priority": -5,
    "kv_transfer_params": {"do_remote_prefill": True},
    "vllm_xargs": {"x": 1},
}

HTTP = [
    Case("1", "a body of 40 MiB", body(b"x" * (40 * 2**20)), (413,)),
    Case("2", "a chunked body without end", http(content=chunks(100), headers=JSON), (413,)),
    Case("3", "a body that stops", raw(HEAD + b"Content-Length: 100\r\n\r\n{"), (408,), slow=True),
    Case("3", "a byte a second", raw(HEAD + b"Content-Length: 100\r\n\r\n", b"{", pause_s=1), (408,), slow=True),
    Case("4", "a header of 100 kB", http("GET", "/v1/models", headers={"x": "y" * 100_000}), (431, 400)),
    Case("4", "500 headers", http("GET", "/v1/models", headers=[(f"x{i}", "y") for i in range(500)]), (431, 400)),
    Case("4", "a header a second", raw(HEAD, b"x: y\r\n", pause_s=1), (431, 400), slow=True),
    Case("5", "text/plain", http(content=json.dumps(chat()), headers={"content-type": "text/plain"}), (415,)),
    Case("6", "a gzip body", http(content=b"\x1f\x8b", headers=JSON | {"content-encoding": "gzip"}), (415,)),
    *(Case("8", path, http(path=path, json={"model": "onecard-demo", "prompt": "hi"}), (401, 404))
      for path in ("/invocations", "/tokenize", "/detokenize", "/load", "/reset_prefix_cache")),
    *(Case("8", path, http("GET", path), (401, 404)) for path in ("/docs", "/openapi.json", "/version")),
    *(Case("9", path, http("GET", path), (404, 405)) for path in ("//v1/models", "/v1/models/", "/v1/%2e%2e/x", CHAT)),
    Case("9", "PUT", http("PUT", "/v1/models"), (404, 405)),
    Case("10", "a WebSocket", raw(HEAD.replace(b"POST /v1/chat/completions", b"GET /v1/realtime")
         + b"Connection: close, upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
         b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"), (403, 404, 400)),
    Case("10a", "Origin of a web page", http(json=chat(), headers={"origin": "http://evil.example"}), (403,)),
    Case("10a", "a form from a web page",
         http(path="/ask", files={"image": b"x"}, headers={"origin": "http://evil.example"}), (403, 404)),
    Case("10b", "a rebound name in Host", http("GET", "/v1/models", headers={"host": "evil.example"}), (421,)),
    Case("10c", "a CORS preflight", http("OPTIONS", CHAT,
         headers={"origin": "http://evil.example", "access-control-request-method": "POST"}), (403, 405)),
]  # fmt: skip

PARAMETERS = [
    Case("11", "broken JSON", body(b'{"messages": ['), (400,)),
    Case("11", "not UTF-8", body(b'{"model": "\xff\xfe"}'), (400,)),
    Case("12", "100,000 levels", body(DEEP), (400,)),
    Case("13", "NaN", body(b'{"messages": [{"role": "user", "content": "hi"}], "temperature": NaN}'), (400,)),
    Case("13", "10^400", body(b'{"messages": [{"role": "user", "content": "hi"}], "seed": 1' + b"0" * 400 + b"}"), (400,)),
    Case("14", "no messages", http(json={"model": "onecard-demo", "messages": []}), (400,)),
    Case("14", "an unknown role", http(json={"messages": [{"role": "king", "content": "hi"}]}), (400,)),
    Case("15", "an unknown model", asks(model="gpt-4o"), (404,)),
    Case("16", "10^5 messages", http(json={"messages": [{"role": "user", "content": "x"}] * 10**5}), (400, 413)),
    Case("16", "10^5 parts", asks([{"type": "text", "text": "x"}] * 10**5), (400, 413)),
    Case("17", "a lone surrogate",
         body(b'{"model": "onecard-demo", "max_tokens": 4, "messages": [{"role": "user", "content": "\\ud800"}]}'), (400, 200)),
    Case("17", "NUL", asks("a\0b"), (400, 200)),
    *(Case("18", name, asks(**{name: value}), (400,)) for name, value in FORBIDDEN.items()),
    Case("18", "uuid of a picture", asks(picture("data:image/png;base64,AAAA", uuid="x")), (400,)),
    Case("18", "uuid of a text",
         asks(picture("data:image/png;base64,AAAA", type="text", text="hi", uuid="x")), (400,)),
    Case("18", "video_url", asks([{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}]), (400,)),
    Case("18", "input_audio", asks([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]), (400,)),
    Case("18", "token ids of pictures",
         http(path="/v1/completions", json={"model": "onecard-demo", "prompt": [2034, 5, 6], "max_tokens": 4}), (400,)),
    *(Case("19", mark, asks(f"look: {mark}"), (400,)) for mark in ("<|image_pad|>", "<|vision_start|>", "<|video_pad|>")),
    Case("19", "a mark in two parts",
         asks([{"type": "text", "text": "<|image"}, {"type": "text", "text": "_pad|>"}]), (400,)),
    Case("19", "a text with the key of a picture", asks([{"type": "text", "text": "hi", "image": "x"}]), (400,)),
    Case("20", "no max_tokens", http(json={"messages": [{"role": "user", "content": "hi"}]}), (200,)),
    Case("20", "max_tokens of 32k", asks(max_tokens=32_768), (200,)),
    Case("20", "max_tokens 0", asks(max_tokens=0), (400,)),
    Case("20", "max_tokens -1", asks(max_tokens=-1), (400,)),
    Case("20", "n of 100", asks(n=100), (400,)),
    Case("20", "25 logprobs", asks(logprobs=True, top_logprobs=25), (400,)),
    Case("20", "min_tokens of 10^6", asks(min_tokens=10**6), (400,)),
    Case("20", "10^4 bad words", asks(bad_words=["x"] * 10**4), (400,)),
    Case("20", "prompt_logprobs", asks(prompt_logprobs=5), (400,)),
    Case("21", "a regex that explodes", asks(structured_outputs={"regex": "((a+)+)+(b{1,200}){1,200}"}), (400,)),
    Case("21", "a schema of 2,000 properties", asks(response_format=FORMAT), (400,)),
    Case("21", "300 bounded texts", asks(structured_outputs={"json": BOUNDED}), (400, 200)),
    Case("22", "more than the context", asks("word " * 6000), (400,)),
]  # fmt: skip

PICTURES = [
    Case("23", "20000×20000 in the header", shows(png(20_000, 20_000)[:1000]), (400,)),
    Case("24", "13000×13000, whole", shows(png(13_000, 13_000)), (400,)),
    Case("33", "broken base64", asks(picture("data:image/png;base64,!!!!")), (400,)),
    Case("33", "no base64", asks(picture("data:image/png,abc")), (400,)),
    Case("34", "base64 of 40 MiB", asks(picture("data:image/png;base64," + "A" * (40 * 2**20))), (413,)),
    Case("35", "five pictures", asks(picture("data:image/png;base64,AAAA") * 5), (400,)),
    Case("36", "file:", asks(picture("file:///etc/passwd")), (400,)),
    Case("37", "http: of loopback", asks(picture("http://127.0.0.1:9/x.png")), (400,)),
]

CASES = HTTP + PARAMETERS + PICTURES
