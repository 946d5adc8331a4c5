"""One file of a repository on the model hub, and whether the hub can be reached at all."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reason.models.progress import Progress, folder_bytes
from reason.models.sources.protocol import SourceUnavailable, disk_failed, flag_set, offline

__all__ = ["HubFile", "explain", "hub_problem", "quiet_hub"]

_ANSWER_WITHIN = 3.0  # seconds


@dataclass(frozen=True)
class HubFile:
    """``filename`` in the hub repository ``repo``; an interrupted download resumes where the hub client can."""

    repo: str
    filename: str
    size_bytes: int | None = None  # for the progress bar

    @property
    def label(self) -> str:
        return f"model hub {self.repo}"

    def fetch(self, target: Path, progress: Progress) -> None:
        if problem := hub_problem():
            raise SourceUnavailable(problem)
        from huggingface_hub import hf_hub_download

        folder = target.parent / "hub"
        task = progress.task(self.filename, self.size_bytes)
        try:
            with quiet_hub(), task.watching(lambda: folder_bytes(folder)):
                got = hf_hub_download(self.repo, self.filename, local_dir=folder, etag_timeout=_ANSWER_WITHIN)
        except Exception as error:  # the hub client passes on whatever its HTTP library raises
            if disk_failed(error):
                raise
            raise SourceUnavailable(explain(error)) from error
        os.replace(got, target)
        shutil.rmtree(folder, ignore_errors=True)
        task.finish()


def hub_problem(timeout: float = _ANSWER_WITHIN) -> str | None:
    """Why the model hub cannot be used now, in a few words; None when it answers.

    The question runs in a thread, because a name server that does not answer ignores socket timeouts.
    """
    if offline():
        return "REASON_OFFLINE is set"
    if flag_set("HF_HUB_OFFLINE"):
        return "HF_HUB_OFFLINE is set"
    problem: list[str | None] = [f"no answer within {timeout:g} s"]

    def ask() -> None:
        try:
            from huggingface_hub import constants, get_session

            get_session().head(constants.ENDPOINT, timeout=timeout)  # any status is an answer
            problem[0] = None
        except Exception as error:  # the HTTP library behind the hub client differs between its versions
            problem[0] = f"not reachable ({explain(error)})"

    thread = threading.Thread(target=ask, daemon=True, name="reason-hub-check")
    thread.start()
    thread.join(timeout + 1.0)
    return problem[0]


def explain(error: BaseException) -> str:
    """The first line of an error, for a list of reasons."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return first or type(error).__name__


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Without the hub client's own progress bars: ours are shown instead."""
    import huggingface_hub.utils

    bars: Any = huggingface_hub.utils  # it re-exports these without saying so to type checkers
    before = bars.are_progress_bars_disabled()
    bars.disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            bars.enable_progress_bars()
