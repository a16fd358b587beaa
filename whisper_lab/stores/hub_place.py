"""Repositories of the Hugging Face Hub: hf://datasets/USER/NAME/FOLDER, hf://USER/NAME/FOLDER for models.

fsspec's own writing makes a commit of each file, and the Hub allows 128 an hour:
https://github.com/braindecode/braindecode/issues/947. So here files are sent as they come and committed together.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from .. import faults
from .places import FsspecPlace

TOGETHER = 50  # files in a commit
SMALL = 1 << 20  # bytes; a smaller file is committed at once, with those that wait: claims and listings are such


class HubPlace(FsspecPlace):
    """A folder of a repository. A file of SMALL bytes or more is there from the next small one or sizes() on."""

    def __init__(self, url: str, protocol: str):
        super().__init__(url, protocol)
        self.waiting, self.lock = {}, threading.Lock()

    def sizes(self) -> dict[str, int]:
        self._commit()
        return super().sizes()

    def put(self, file: Path, name: str, sent: Callable[[int], None] = lambda count: None) -> None:
        from huggingface_hub import CommitOperationAdd

        size = file.stat().st_size
        with faults.explained(self.url):
            addition = CommitOperationAdd(self.fs.resolve_path(self._path(name)).path_in_repo, str(file))
            self.fs._api.preupload_lfs_files(additions=[addition], free_memory=False, **self._repository())
        with self.lock:
            self.waiting[name] = addition
        if size < SMALL or len(self.waiting) >= TOGETHER:
            self._commit()
        sent(size)

    def _repository(self) -> dict[str, str]:
        where = self.fs.resolve_path(self.root)
        return {"repo_id": where.repo_id, "repo_type": where.repo_type, "revision": where.revision}

    def _commit(self) -> None:
        with self.lock, faults.explained(self.url):
            if self.waiting:
                additions, message = list(self.waiting.values()), f"Publish {', '.join(sorted(self.waiting)[:3])} …"
                self.fs._api.create_commit(operations=additions, commit_message=message, **self._repository())
                self.waiting.clear()
                self.fs.invalidate_cache()
