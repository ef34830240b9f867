"""`python -m deploy.grafana`: writes the dashboards."""

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import change, gpu, images, overview, reliability
from deploy.grafana.panels import Page

FOLDER = Path(__file__).parent / "dashboards"
PAGES: dict[str, Page] = {
    "overview": overview.PAGE,
    "gpu": gpu.PAGE,
    "images": images.PAGE,
    "reliability": reliability.PAGE,
    "change": change.PAGE,
}


def as_json(page: Page) -> str:
    """The dashboard as Grafana reads it."""
    return JSONEncoder(sort_keys=True, indent=1, ensure_ascii=False).encode(page.build()) + "\n"


def main() -> None:
    """Writes all of them."""
    for name, page in PAGES.items():
        file = FOLDER / f"{name}.json"
        file.write_text(as_json(page), encoding="utf-8")
        sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    main()
