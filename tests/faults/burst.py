"""`python -m tests.faults.burst PORT COUNT TOKENS [KEY [flood]]`: so many questions at once, from a process of its own.
Prints what came of each as JSON: [status (0 for none), seconds, whether there was a Retry-After]. A flood prints nothing
and never ends: whoever has an answer, or a refusal, asks again."""

import asyncio
import json
import sys
import time

PATIENCE_S = 300
# A flood is to keep the queue full, not to keep two cores busy with refusals.
AGAIN_S = 0.2


async def ask(port: int, tokens: int, key: str, go: asyncio.Event) -> tuple[int, float, bool]:
    messages = [{"role": "user", "content": "hi"}]
    body = json.dumps({"model": "demo", "max_tokens": tokens, "ignore_eos": True, "messages": messages}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    )
    head += "Content-Type: application/json\r\n" + (f"Authorization: Bearer {key}\r\n" if key else "") + "\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await go.wait()
    began = time.monotonic()
    writer.write(head.encode() + body)
    try:
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    except (TimeoutError, OSError):
        answer = b""
    finally:
        writer.close()
    status = int(answer.split()[1]) if answer else 0
    return status, time.monotonic() - began, b"retry-after:" in answer.lower()


async def burst(port: int, count: int, tokens: int, key: str) -> list[tuple[int, float, bool]]:
    go = asyncio.Event()
    asking = [asyncio.ensure_future(ask(port, tokens, key, go)) for _ in range(count)]
    await asyncio.sleep(0.5)
    go.set()
    return list(await asyncio.gather(*asking))


async def flood(port: int, count: int, tokens: int, key: str) -> None:
    go = asyncio.Event()
    go.set()

    async def again_and_again() -> None:
        while True:
            await ask(port, tokens, key, go)
            await asyncio.sleep(AGAIN_S)

    await asyncio.gather(*(again_and_again() for _ in range(count)))


if __name__ == "__main__":
    port, count, tokens = map(int, sys.argv[1:4])
    key, *more = sys.argv[4:] or [""]
    if more == ["flood"]:
        asyncio.run(flood(port, count, tokens, key))
    else:
        sys.stdout.write(json.dumps(asyncio.run(burst(port, count, tokens, key))))
