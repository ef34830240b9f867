"""ModelScope, which is asked where Hugging Face does not give a model: what it consists of there.

Its routes are those that the `modelscope` package uses (modelscope_hub/_legacy_api.py). No token is sent.
"""

import hashlib
import os
from urllib.parse import quote, urlencode

import httpx
from pydantic import BaseModel, ValidationError

from serving.errors import HubError
from serving.hub.listing import Listing, RemoteFile, is_wanted
from serving.hub.transport import PASSING, InterruptedTransferError, UnreachableError, new_client


class _Entry(BaseModel):
    Path: str
    Type: str
    Size: int = 0
    Sha256: str = ""
    Revision: str = ""


class _Data(BaseModel):
    Files: list[_Entry] | None = None


class _Answer(BaseModel):
    Data: _Data


class ModelScope:
    title = "ModelScope"
    # The variable of the `modelscope` package.
    endpoint = os.environ.get("MODELSCOPE_ENDPOINT", "https://modelscope.cn").rstrip("/")

    def listing(self, repo_id: str, revision: str) -> Listing:
        """Raises HubError. Its default branch is called `master`."""
        asked = "master" if revision == "main" else revision
        query = urlencode({"Revision": asked, "Recursive": "true"})
        try:
            with new_client() as client:
                response = client.get(f"{self._model(repo_id)}/repo/files?{query}")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnreachableError(f"cannot be reached ({str(error) or type(error).__name__}).") from error
        if response.status_code != 200:
            kind = InterruptedTransferError if response.status_code in PASSING else HubError
            raise kind(self.refusal(repo_id, response))
        try:
            entries = _Answer.model_validate_json(response.content).Data.Files
            if entries is None:  # so it answers, with 200, where there is no such revision
                raise HubError(f"{repo_id} has no revision {asked!r}.")
            files = tuple(_file(each, asked) for each in entries if each.Type == "blob" and is_wanted(each.Path))
        except ValidationError as error:
            raise UnreachableError(f"its list of the files of {repo_id} is not what a hub sends.") from error
        return Listing(source="modelscope", repo_id=repo_id, revision=revision, commit=_commit(entries), files=files)

    def url(self, repo_id: str, file: RemoteFile) -> str:
        return f"{self._model(repo_id)}/repo?{urlencode({'Revision': file.revision, 'FilePath': file.name})}"

    def headers(self) -> dict[str, str]:
        return {"User-Agent": "onecard"}

    def refusal(self, repo_id: str, response: httpx.Response) -> str:
        if response.status_code == 404:
            return f"there is no model {repo_id!r}."
        if response.status_code in (401, 403):
            return f"{repo_id} is not open to everyone."
        return f"it answers {response.status_code} for {response.url.path}."

    def _model(self, repo_id: str) -> str:
        return f"{self.endpoint}/api/v1/models/{quote(repo_id)}"


def _file(entry: _Entry, asked: str) -> RemoteFile:
    """`Revision` is the commit that last changed the file, under which the file can never change again."""
    return RemoteFile(name=entry.Path, size=entry.Size, checksum=entry.Sha256.lower(), revision=entry.Revision or asked)


def _commit(entries: list[_Entry]) -> str:
    """Stands for the commit, whose number the answer does not always have: a digest of every file's."""
    lines = sorted(f"{entry.Sha256} {entry.Path}\n" for entry in entries)
    return hashlib.sha1("".join(lines).encode(), usedforsecurity=False).hexdigest()
