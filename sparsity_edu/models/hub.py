"""The Hugging Face hub, asked once before anything is downloaded: its own client retries a missing network for long."""

from __future__ import annotations

from pathlib import Path

SECONDS = 5  # to wait for the hub's answer


def why_unreachable(repository: str, repo_type: str = "model") -> str:
    """Return in a few words why a repository on the hub cannot be had, or "" if it can."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        HfApi().repo_info(repository, repo_type=repo_type, timeout=SECONDS)
    except HFValidationError:
        return "it is not a name the Hugging Face hub allows"
    except RepositoryNotFoundError:
        return "the Hugging Face hub has no such repository"
    except OfflineModeIsEnabled:
        return "the Hugging Face hub is switched off by HF_HUB_OFFLINE"
    except Exception as error:  # the client lets many network errors of its transport through
        return f"the Hugging Face hub cannot be reached ({one_line(error)})"
    return ""


def fetch_file(repository: str, file: str, *, title: str) -> Path:
    """Return the local path of one file of a data set on the hub, downloading it if the hub's cache lacks it.

    Raises:
        ConnectionError: the file is not in the hub's cache and cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download

    reason = why_unreachable(repository, "dataset")
    try:
        return Path(hf_hub_download(repository, file, repo_type="dataset", local_files_only=bool(reason)))
    except Exception as error:
        raise ConnectionError(f"{title} is not in the local cache and {reason or one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, without a closing full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
