"""`python -m tests.faults.burst PORT COUNT TOKENS [KEY]`: so many questions at once, from a process of its own. Prints
what came of each as JSON: [status (0 for none), seconds, whether there was a Retry-After]."""

import asyncio
import json
import sys
import time

PATIENCE_S = 300


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


if __name__ == "__main__":
    result = asyncio.run(burst(*map(int, sys.argv[1:4]), key=sys.argv[4] if len(sys.argv) > 4 else ""))
    sys.stdout.write(json.dumps(result))
