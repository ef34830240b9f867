"""`onecard serve` of a small onecard: answers every question as the file `behaviour` of its installation says.

That is a sentence, or `die` (it ends at once), `starting` (it is never ready), `refuse` (it takes no settings). With a file
`taken` beside it, nothing fits the memory that is free.
"""

import argparse
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true")
    port, dry_run = (known := parser.parse_known_args()[0]).port, known.dry_run
    prefix = Path(sys.prefix).parents[2]
    behaviour = (prefix / "behaviour").read_text("utf-8")
    with (prefix / "started").open("a") as started:
        started.write(f"{os.getpid()} {' '.join(sys.argv[1:])}\n")
    if dry_run:
        (prefix / "checked-in").write_text(os.getcwd())
        does_not_fit = 3 if (prefix / "taken").exists() else 0
        sys.exit("onecard: unknown key `colour`." if behaviour == "refuse" else does_not_fit)
    if behaviour == "die":
        sys.exit("onecard: this version does not start.")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state = "starting" if behaviour == "starting" else "ready"
            self.reply({"state": state, "step": "loading the weights", "plan": {}, "queue": {}})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kinds = [part["type"] for part in asked["messages"][0]["content"]]
            said = behaviour if kinds == ["image_url", "text"] else "There is no picture."
            self.reply({"choices": [{"message": {"content": said}}]})

        def reply(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
