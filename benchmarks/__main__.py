"""`make bench`: starts a server as `onecard serve` does, measures it, prints a table and writes JSON."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import httpx
from openai import DefaultHttpxClient, OpenAI

from benchmarks import latency
from serving.demo.evaluate import served_by

_PORT = 8017
_RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Latency of one client.")
    parser.add_argument("--profile", default="auto")
    parser.add_argument("--model")
    parser.add_argument("--url", help="a running OpenAI-compatible server, instead of one of our own")
    parser.add_argument("--count", type=int, default=20, help="pictures asked about (default 20)")
    options = parser.parse_args()
    if options.url:
        measure(options.url, options)
        return
    command = [sys.executable, "-m", "serving", "serve", "--profile", options.profile, "--port", str(_PORT)]
    server = subprocess.Popen([*command, *(["--model", options.model] if options.model else [])])
    try:
        url = f"http://127.0.0.1:{_PORT}"
        wait_until_ready(server, url)
        measure(url, options)
    finally:
        server.terminate()
        server.wait()


def measure(url: str, options: argparse.Namespace) -> None:
    """Measures, prints the table and writes `latency-PROFILE.json`."""
    client = OpenAI(base_url=f"{url}/v1", api_key="none", http_client=DefaultHttpxClient(trust_env=False, timeout=600))
    model = client.models.list().data[0].id
    figures = latency.summary(latency.measure(client, model, options.count))
    sys.stdout.write(f"\n{model}, one client, {options.count} pictures of 1024×768, 64 tokens each (medians)\n")
    for name, value in figures.items():
        sys.stdout.write(f"  {name:<24}{value:>10}\n")
    result = {
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "vllm": served_by(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "model": model,
        "pictures": options.count,
        "medians": figures,
    }
    _RESULTS.mkdir(exist_ok=True)
    file = _RESULTS / f"latency-{options.profile}.json"
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"written to {file}\n")


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    """Returns when `/ready` says 200. Raises SystemExit when the server has ended."""
    while True:
        if server.poll() is not None:
            raise SystemExit(server.returncode)
        try:
            if httpx.get(f"{url}/ready", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass  # not listening yet
        time.sleep(0.5)


if __name__ == "__main__":
    main()
