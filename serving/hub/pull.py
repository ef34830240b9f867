"""A download: what is missing of a model is fetched and checked, and the whole made visible at the end.

What is to happen to a model that is here (such as warming the compile caches) gets the folder that `pull` returns.
"""

import shutil
from pathlib import Path

from serving.errors import CheckpointError, DiskFullError, OnecardError
from serving.hub.cache import Cache
from serving.hub.fetch import fetch, is_intact
from serving.hub.meter import Meter, gigabytes
from serving.hub.sources import with_a_hub
from serving.hub.transport import Transport


def pull(repo_id: str, revision: str) -> Path:
    """The folder of the whole model, which is downloaded unless it is here; from then on it needs no network.

    Raises HubError, CheckpointError for a model without safetensors, DiskFullError.
    """
    cache = Cache(repo_id)
    try:
        with cache.locked():
            return cache.find(revision) or with_a_hub(repo_id, revision, lambda hub: _download(cache, hub))
    except OSError as error:
        if error.errno in DiskFullError.numbers:
            raise DiskFullError(
                f"{cache.folder} takes no more ({error.strerror}). What has been downloaded of {repo_id} is kept: free some "
                "space and pull again, or set HF_HOME to a folder on a larger disk."
            ) from error
        raise OnecardError(
            f"{error.filename or cache.folder} cannot be written ({error.strerror}). Set HF_HOME to a folder that can."
        ) from error


def _download(cache: Cache, hub: Transport) -> Path:
    listing = hub.listing
    if not any(file.name.endswith(".safetensors") for file in listing.files):
        raise CheckpointError(
            f"{listing.repo_id} has no *.safetensors at {listing.revision}. Weights of other kinds are not downloaded, since "
            "a pickle can run code: take a model that is published as safetensors."
        )
    cache.blobs.mkdir(parents=True, exist_ok=True)
    by_checksum = {file.checksum: file for file in sorted(listing.files, key=lambda file: file.size)}
    missing = [file for file in by_checksum.values() if not is_intact(cache.blob(file.checksum), file)]
    total = sum(file.size for file in missing)
    have = sum(part.stat().st_size for file in missing if (part := cache.partial(file.checksum)).exists())
    free = shutil.disk_usage(cache.blobs).free
    if total - have > free:
        raise DiskFullError(
            f"{listing.repo_id} needs {gigabytes(total - have)} more, and {gigabytes(free)} are free in {cache.folder}. "
            "Free some, or set HF_HOME to a folder on a larger disk."
        )
    with Meter(f"{listing.repo_id} from {hub.source.title}, commit {listing.commit}", total, have) as meter:
        for file in missing:
            fetch(hub, file, cache.blob(file.checksum), cache.partial(file.checksum), meter)
    return cache.publish(listing)
