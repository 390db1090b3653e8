"""Put a model folder on the Hugging Face Hub, with its card."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fullyconv.errors import DownloadError, first_line, tell
from fullyconv.files import aside
from fullyconv.weights import pretrained, repositories, sources
from fullyconv.weights.lock import COMMIT
from fullyconv.weights.pretrained import Dtype

PUBLISHED = (pretrained.WEIGHTS, pretrained.CONFIG, pretrained.CARD)
"""The files of a model folder that are uploaded; whatever else lies in the folder stays at home."""


class Uploads:
    """What has `save_pretrained` gets ``push_to_hub``."""

    if TYPE_CHECKING:

        def save_pretrained(self, folder: str | Path, dtype: Dtype = "float32", *, license: str | None = None) -> Path:
            """Write the model folder."""

    def push_to_hub(
        self,
        repo: str,
        *,
        license: str | None = None,
        dtype: Dtype = "float32",
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Upload the weights as they are now to the Hugging Face Hub, as a model folder with its card.

        The card bears the score that came with the weights; `fullyconv.publish` measures them first.

        Args:
            repo: "org/name"; it is made if it is not there.
            license: of the weights; None takes the one that they were loaded with.
            dtype: of the stored weights.
            private: whether a repository that is made is private.
            token: of the hub; None takes the one of ``hf auth login`` or HF_TOKEN.

        Returns:
            The address that loads what was uploaded, ``hf://ORG/NAME@COMMIT``.

        Raises:
            ValueError: if repo is no id, or no license is stated.
            DownloadError: if the hub refuses or cannot be reached; nothing is uploaded by halves.
        """
        check_repo(repo)
        with aside(tempfile.gettempdir()) as name:
            folder = self.save_pretrained(name / "model", dtype, license=license)
            return upload(folder, repo, private=private, token=token)


def check_repo(repo: str) -> None:
    """Check the name of a repository.

    Raises:
        ValueError: if it is none.
    """
    if not sources.REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ValueError(f"repo={repo!r}: write ORG/NAME, of letters, digits, '-', '_' and '.'")


def upload(folder: Path, repo: str, *, private: bool = False, token: str | None = None, notes: str = "") -> str:
    """Upload a model folder; its card is written anew, for the name that it gets.

    Args:
        folder: the model folder; its card is replaced.
        repo: "org/name".
        private: whether a repository that is made is private.
        token: of the hub; None takes the one that it knows.
        notes: what the card says beside what the configuration holds.

    Returns:
        The address that loads it, ``hf://ORG/NAME@COMMIT``.

    Raises:
        ValueError: if no license is stated.
        DownloadError: if the hub refuses or cannot be reached.
    """
    config = pretrained.read_config(folder)
    if config.license in ("", "unstated"):
        raise ValueError(
            "license: nobody states the license of these weights; pass license='...' (--license). The license of "
            "the data they were trained on binds you, not that of fullyconv's code"
        )
    (folder / pretrained.CARD).write_text(pretrained.card(config, repo, notes), encoding="utf-8")
    if not config.score:
        tell(
            f"{repo}: nobody measured these weights, and the card says so; fullyconv.publish(FOLDER, REPO, data=...) "
            "(--data) measures them"
        )
    from huggingface_hub import HfApi

    api = HfApi(endpoint=repositories.endpoint(), token=token, library_name="fullyconv")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(PUBLISHED),
            commit_message=f"Upload {config.kind} with fullyconv",
        )
    except Exception as error:  # the client's own, its transport's, or OSError: which one differs between releases
        raise DownloadError(
            f"{repo}: the hub did not take it ({type(error).__name__}: {first_line(error)}); check "
            "network and name, and log in with a token that may write (hf auth login, or HF_TOKEN)"
        ) from error
    oid = str(getattr(commit, "oid", "") or "")
    return f"hf://{repo}@{oid if COMMIT.fullmatch(oid) else 'main'}"
