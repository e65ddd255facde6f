"""A finished folder on the hub: checked first, then sent whole, private unless it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenkit.errors import ConfigError, TokenkitError, one_line


class Push:
    """A repository that a folder is to go to.

    Args:
        repository: ``owner/name``.
        public: whether a new one is; a public one that exists is refused without it.
        api: stands for :class:`huggingface_hub.HfApi`.

    Raises:
        ConfigError: if the name cannot be one.
    """

    def __init__(self, repository: str, public: bool = False, api: Any = None) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        try:
            validate_repo_id(repository)
        except HFValidationError as error:
            raise ConfigError(f"--push '{repository}': expected owner/name ({error})") from None
        self.repository, self.public = repository, public
        self.api = HfApi() if api is None else api

    def check(self) -> None:
        """Find out before the work whether the hub would take it; changes nothing there.

        Raises:
            TokenkitError: if nobody is logged in, the hub cannot be reached, or the repository is
                public and that was not asked for.
        """
        try:
            self.api.whoami()
        except Exception as error:  # of networks, tokens, and the hub
            raise TokenkitError(
                f"--push '{self.repository}': the hub does not know you ({one_line(error, 120)}); "
                "run `hf auth login` first"
            ) from error
        try:
            exists = self.api.repo_exists(self.repository)
            private = not exists or self.api.repo_info(self.repository).private
        except Exception as error:
            raise TokenkitError(f"--push '{self.repository}': {one_line(error, 160)}") from error
        if not private and not self.public:
            raise ConfigError(
                f"--push '{self.repository}' is public: give --public too, or another name"
            )

    def send(self, folder: Path, message: str) -> str:
        """Make the repository if there is none, and upload the folder; returns its address.

        Raises:
            TokenkitError: if that fails; the folder stays.
        """
        try:
            made = self.api.create_repo(self.repository, private=not self.public, exist_ok=True)
            self.api.upload_folder(
                repo_id=self.repository, folder_path=str(folder), commit_message=message
            )
        except Exception as error:
            raise TokenkitError(
                f"--push '{self.repository}' failed ({one_line(error, 120)}); '{folder}' is whole: "
                f"`hf upload {self.repository} {folder}` sends it"
            ) from error
        return str(getattr(made, "url", made))
