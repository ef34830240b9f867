"""`python -m serving.schema`: the JSON schemas of `configs/`, for editors to check with, made from the classes of
planning/profile.py, quantize/scheme.py and fleet/demand.py.

An editor finds them by a first line such as `# yaml-language-server: $schema=../profiles.schema.json`.
"""

import json
import sys

from pydantic import BaseModel

from serving.fleet.demand import Fleet
from serving.planning.profile import Model, Profile, configs_dir
from serving.quantize.scheme import Scheme

SCHEMAS: dict[str, type[BaseModel]] = {
    "profiles.schema.json": Profile,
    "models.schema.json": Model,
    "quantize.schema.json": Scheme,
    "fleet.schema.json": Fleet,
}


def as_json(kind: type[BaseModel]) -> str:
    """The schema of one YAML file of that kind (JSON Schema, draft 2020-12)."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | kind.model_json_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes each beside the folders that they describe."""
    for name, kind in SCHEMAS.items():
        file = configs_dir() / name
        file.write_text(as_json(kind), encoding="utf-8")
        sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    main()
