"""A small load of everything that users do: pictures asked about, streamed or not, forms, answers cut off, refusals."""

import base64
import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai

from tests import drawing
from tests.conftest import Server


def _picture(number: int) -> bytes:
    """No two alike, so that no cache answers."""
    image = drawing.circle(drawing.blank(), 100 + number * 7 % 400, 100 + number * 11 % 300, 40, "red")
    return drawing.encoded(image, "JPEG")


def _ask(server: Server, number: int) -> None:
    url = "data:image/jpeg;base64," + base64.b64encode(_picture(number)).decode()
    part: Any = {"type": "image_url", "image_url": {"url": url}}
    text: Any = {"type": "text", "text": "What is in the picture?"}
    with server.openai() as client:
        chat = client.chat.completions
        match number % 5:
            case 0:
                chat.create(model="demo", messages=[{"role": "user", "content": [part, text]}])
            case 1:
                stream = chat.create(
                    model="demo",
                    messages=[{"role": "user", "content": [part, text]}],
                    stream=True,
                    stream_options={"include_usage": True},
                    extra_body={"ignore_eos": True, "max_tokens": 30},
                )
                for _ in stream:
                    pass
            case 2:
                chat.create(model="demo", messages=[{"role": "user", "content": [part, part, text]}], max_tokens=2)
            case 3:
                files = {"image": _picture(number)}
                httpx.post(f"{server.url}/ask", files=files, timeout=60, trust_env=False).raise_for_status()
            case _:
                try:
                    chat.create(model="demo", messages=[{"role": "user", "content": [part] * 9}])
                except openai.BadRequestError:
                    return  # as it should


@contextmanager
def load(server: Server, clients: int = 2) -> Iterator[list[Exception]]:
    """Asks until the block ends; what went wrong is in the list."""
    stop, numbers, wrong = threading.Event(), itertools.count(), list[Exception]()

    def client() -> None:
        while not stop.is_set():
            try:
                _ask(server, next(numbers))
            except (openai.OpenAIError, httpx.HTTPError) as error:
                wrong.append(error)
                time.sleep(0.2)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def flood(server: Server, clients: int = 100) -> Iterator[None]:
    """More long answers asked for at once than are served or may wait; who is refused asks again at once, as nobody should."""
    stop = threading.Event()

    def client() -> None:
        body = {"model": "demo", "max_tokens": 200, "ignore_eos": True, "messages": [{"role": "user", "content": "hi"}]}
        with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http:
            while not stop.is_set():
                # A kept connection may be closed just as it is used again; then this client asks anew.
                with contextlib.suppress(httpx.RemoteProtocolError):
                    http.post("/v1/chat/completions", json=body)
                time.sleep(0.2)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
