"""What the applications say to the model, in both languages: prompts/*.yaml, which can be edited without reading code."""

import re
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

Language = Literal["zh", "en"]
_CHINESE = re.compile(r"[\u3400-\u9fff]")


class Prompt(BaseModel):
    """`question` and `again` hold placeholders as `str.format` fills them; `words` is what else the application says."""

    model_config = ConfigDict(extra="forbid")

    system: str
    question: str
    again: str
    words: dict[str, str] = {}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    zh: Prompt
    en: Prompt


@cache
def prompt(application: str, language: Language) -> Prompt:
    text = files("clients.apps").joinpath("prompts", f"{application}.yaml").read_text("utf-8")
    found: Prompt = getattr(_File.model_validate(yaml.safe_load(text)), language)
    return found


def language_of(*texts: str) -> Language:
    """Chinese where any of them holds a Chinese character: product names and error messages are English everywhere."""
    return "zh" if any(map(_CHINESE.search, texts)) else "en"
