"""The figures in the documents: `python -m benchmarks.readme` writes them, `--check` exits 1 where they are out of date.

Owns what stands between `<!-- figures:NAME:begin -->` and `<!-- figures:NAME:end -->`; figures.py makes it. The rest of a
document is its author's.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import TABLES
from benchmarks.markdown import Language

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS: dict[str, Language] = {
    "README.md": "en",
    "README.zh-CN.md": "zh",
    "serving/demo/model/README.md": "en",
    "docs/quantization.md": "en",
    "docs/fleet.md": "en",
    "docs/sleep.md": "en",
}

_MARKER = re.compile(r"<!-- figures:\w+:(?:begin|end) -->")
_BLOCK = re.compile(r"(<!-- figures:(\w+):begin -->\n).*?(<!-- figures:\2:end -->)", re.DOTALL)


def render(text: str, language: Language, results: Path) -> str:
    """The document with its figures as they are now. Raises ValueError for markers that do not pair or name no table."""
    if len(_MARKER.findall(text)) != 2 * len(_BLOCK.findall(text)):
        raise ValueError("the `figures` markers do not pair: each begin needs its end, on a line of its own")

    def block(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        if name not in TABLES:
            raise ValueError(f"there are no figures {name!r}; there are {', '.join(TABLES)}")
        return f"{begin}{TABLES[name](language, results)}\n{end}"

    return _BLOCK.sub(block, text)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where figures are out of date")
    check = parser.parse_args(arguments).check
    stale = []
    for name, language in DOCUMENTS.items():
        document = root / name
        if not document.is_file():  # the model's card comes with the trained model
            continue
        before = document.read_text(encoding="utf-8")
        try:
            after = render(before, language, root / "benchmarks" / "results")
        except ValueError as error:
            parser.exit(2, f"{name}: {error}\n")
        if after != before:
            stale.append(name)
            if not check:
                document.write_text(after, encoding="utf-8")
    if stale and check:
        sys.stderr.write(f"Out of date: {', '.join(stale)}. `python -m benchmarks.readme` mends that.\n")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
