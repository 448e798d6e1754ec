"""Which models the hub's own cache on this machine holds. Asks no network and imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

_WEIGHTS = (".safetensors", ".bin", ".gguf")


@dataclass(frozen=True, slots=True)
class CachedModel:
    name: str  # "google/flan-t5-base"
    has_weights: bool  # in one of its revisions; False after a download that was broken off


def cached_models() -> list[CachedModel]:
    """By name; empty without a cache. Where it lies: HF_HUB_CACHE, HF_HOME, else ~/.cache/huggingface/hub."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    found = []
    for repository in repositories:
        files = [file for revision in repository.revisions for file in revision.files]
        if repository.repo_type == "model":
            weights = any(file.file_name.endswith(_WEIGHTS) for file in files)
            found.append(CachedModel(repository.repo_id, weights))
    return sorted(found, key=lambda model: model.name)
