"""The Hugging Face Hub, or the mirror that HF_ENDPOINT names: what a model consists of and what refusals mean."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import httpx
from huggingface_hub import constants
from pydantic import ValidationError

from serving.errors import CheckpointError, HubError
from serving.hub.listing import Listing, RemoteFile, is_wanted
from serving.hub.transport import PASSING, InterruptedTransferError, UnreachableError, refuse_offline

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# No usage statistics leave the machine.
constants.HF_HUB_DISABLE_TELEMETRY = True


class HuggingFace:
    """Its library is imported when the hub is asked: a plan from what is kept here needs none of it."""

    title = "Hugging Face"
    endpoint = constants.ENDPOINT

    def listing(self, repo_id: str, revision: str) -> Listing:
        """Raises CheckpointError for what can be no Hub id, and HubError."""
        refuse_offline()
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (  # type: ignore[attr-defined]
            HfHubHTTPError,
            HFValidationError,
            HTTPError,  # the base of what its HTTP library raises, whichever that is
            RevisionNotFoundError,
        )

        try:
            info = HfApi(library_name="onecard").model_info(
                repo_id, revision=revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            )
            commit = str(info.sha)
            files = tuple(_file(each, commit) for each in info.siblings or () if is_wanted(each.rfilename))
            return Listing(source="huggingface", repo_id=repo_id, revision=revision, commit=commit, files=files)
        except HFValidationError as error:
            raise CheckpointError(
                f"{repo_id!r} is neither a folder here nor a Hub id such as Qwen/Qwen3-VL-2B-Instruct."
            ) from error
        except RevisionNotFoundError as error:
            raise HubError(f"{repo_id} has no revision {revision!r}.") from error
        except HfHubHTTPError as error:
            kind = InterruptedTransferError if error.response.status_code in PASSING else HubError
            raise kind(_refusal(repo_id, error.response.status_code, error.response.headers)) from error
        except ValidationError as error:
            raise HubError(f"its list of the files of {repo_id} is not what a hub sends.") from error
        # A login page instead of JSON, an answer without what is needed, a SOCKS proxy that needs a package.
        except (HTTPError, OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise UnreachableError(f"cannot be reached ({_cause(error)}).") from error

    def url(self, repo_id: str, file: RemoteFile) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(repo_id, file.name, revision=file.revision)

    def headers(self) -> dict[str, str]:
        """With the token of HF_TOKEN or of `hf auth login`, if there is one."""
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        return dict(build_hf_headers(library_name="onecard"))

    def refusal(self, repo_id: str, response: httpx.Response) -> str:
        return _refusal(repo_id, response.status_code, response.headers)


def _file(sibling: "RepoSibling", commit: str) -> RemoteFile:
    """Raises ValidationError where the hub leaves out what the file is checked by."""
    large = sibling.lfs
    return RemoteFile.model_validate(
        {
            "name": sibling.rfilename,
            "size": large.size if large else sibling.size,
            "checksum": large.sha256 if large else sibling.blob_id,
            "revision": commit,
        }
    )


def _refusal(repo_id: str, status: int, headers: Mapping[str, str]) -> str:
    """What an answer means, as huggingface_hub's `hf_raise_for_status` reads it."""
    code, message = headers.get("X-Error-Code"), headers.get("X-Error-Message")
    if code == "GatedRepo":
        return f"{repo_id} is gated: accept its licence on the hub's page, then `hf auth login` or set HF_TOKEN."
    if status == 401 and message == "Invalid credentials in Authorization header":
        return "it does not know the token that HF_TOKEN or `hf auth login` has set."
    if code == "RepoNotFound" or status == 401:  # which it answers for what does not exist, too
        return f"there is no model {repo_id!r} (or it is private and needs HF_TOKEN)."
    return f"it answers {status}{f' ({message})' if message else ''}."


def _cause(error: BaseException) -> str:
    """The innermost cause in one line: what a person can act on."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
