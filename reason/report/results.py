"""An evaluation's folder: what was asked, what came of each problem, and who is writing to it.

    config.json      what decides the results; written first
    results.jsonl    a line for each problem that is done, in the order in which they were
    samples.jsonl    their texts, if asked for
    sittings.json    when the evaluation ran, for how long, and on what
    summary.json     the figures
    traces/ID.jsonl  each problem's journal, from which an interrupted one goes on

A kill at any moment leaves whole files, and at most one torn last line, which the next sitting cuts off.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from reason.errors import ReasonError, UsageError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "PACE",
    "CandidateResult",
    "ProblemResult",
    "Result",
    "ResultsFolder",
    "ResultsOf",
    "brief",
    "compared_settings",
    "differences",
    "is_disk_error",
]

FORMAT = "reason-eval-1"
PACE = ("draft", "concurrency", "workers")
"""Of an evaluation's environment: what decides how fast results come, not which."""

_LOCK = ".lock"
_NEXT = ".next.json"
_FILES = ("config.json", "results.jsonl", "samples.jsonl", "sittings.json", "summary.json")
_NOT_COMPARED = ("format", "environment", "task.source")  # a file is known by its checksum, wherever it lies


class Result(Protocol):
    """What came of one problem: a line of results.jsonl."""

    @property
    def id(self) -> str: ...

    @property
    def error(self) -> str | None:
        """Why there is nothing else in it."""
        ...

    @property
    def settled(self) -> bool:
        """Whether it stays; otherwise the problem is tried again in the next sitting."""
        ...

    @property
    def usage(self) -> Mapping[str, float]:
        """Its row of the ledger; empty where it failed."""
        ...

    @property
    def verdict(self) -> str:
        """In a few words, for people who watch."""
        ...

    def as_dict(self) -> dict[str, Any]: ...

    @classmethod
    def from_dict(cls, line: Mapping[str, Any]) -> Self: ...


R = TypeVar("R", bound=Result)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateResult:
    """One whole solution, graded. ``answer_class`` is equal for equivalent answers of one problem."""

    answer: str | None
    answer_class: int | None
    correct: bool
    num_tokens: int
    finish_reason: str
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemResult:
    """What came of one problem. With an ``error`` the run failed, which counts as wrong; with ``failed_samples`` it
    came to its answer without them. Either is tried again in the next sitting. ``marks`` are the task's for the
    answer, and ``part`` is the problem's of the task."""

    id: str
    answer: str | None
    reference: str
    correct: bool
    confidence: float
    stopped_by: str | None
    usage: Mapping[str, float]
    candidates: tuple[CandidateResult, ...] = ()
    failed_samples: int = 0
    error: str | None = None
    marks: Mapping[str, float] = field(default_factory=dict)
    part: str = ""

    @property
    def settled(self) -> bool:
        return self.error is None and self.failed_samples == 0

    @property
    def verdict(self) -> str:
        mark = "✗ failed" if self.error is not None else "✓" if self.correct else "✗"
        return f"{mark} {self.id}: {self.answer or 'none'}"

    def as_dict(self) -> dict[str, Any]:
        """A line of results.jsonl."""
        return {**asdict(self), "num_candidates": len(self.candidates)}

    @classmethod
    def from_dict(cls, line: Mapping[str, Any]) -> Self:
        values = {name: line[name] for name in cls.__slots__ if name not in ("marks", "part")}
        values |= {"marks": line.get("marks", {}), "part": line.get("part", "")}  # older folders have none and go on
        return cls(**{**values, "candidates": tuple(CandidateResult(**c) for c in line["candidates"])})


class ResultsOf(Generic[R]):
    """See the module. Everything is read and written through here.

    Args:
        kind: of the results.

    Raises (all methods):
        ReasonError: the folder cannot be read or written; says what to do.
        UsageError: what is there is not this evaluation's.
    """

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self._kind = kind

    # -- whose it is -----------------------------------------------------------------------------------------------

    def check(self, config: Mapping[str, Any], *, overwrite: bool) -> None:
        """Whether an evaluation with this configuration may write here. The model's name is None where it is not known
        yet."""
        there = self.config()
        if there is None:
            foreign = [name for name in _listed(self.path) if not self._left_over(name)]
            if foreign:
                raise UsageError(f"{self.path} holds something else ({foreign[0]}, …); use another --out")
        elif not overwrite and (changed := differences(there, config)):
            raise UsageError(
                f"{self.path} was begun with other settings: {'; '.join(changed)}. "
                "Use another --out, or --overwrite to start anew."
            )
        with self._writing("the folder"):
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else may write while this lasts.

        Raises:
            UsageError: another process does.
        """
        from filelock import FileLock, Timeout

        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is not a folder; use another --out")
        with self._writing("the folder"):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / _LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UsageError(
                    f"another process is writing to {self.path}; wait for it or use another --out"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def open(self, config: Mapping[str, Any], *, overwrite: bool) -> None:
        """Makes the folder this evaluation's: new, cleared, or as an earlier sitting left it less what is torn."""
        self.check(config, overwrite=overwrite)
        if overwrite and self.config() is not None:
            self.write(_NEXT, config)  # so that nothing is deleted where there is no room for what follows
            self._clear()
        if self.config() is None:
            self.write("config.json", {"format": FORMAT, **config})
        with self._writing("the folder"):
            (self.path / _NEXT).unlink(missing_ok=True)
        results = self.results()
        for result in results.values():
            if not result.settled:  # it is tried again, and not bound by what came after the failure
                self.discard_traces(result.id)
        for name in ("results.jsonl", "samples.jsonl"):
            self._keep(name, {result.id for result in results.values() if result.settled})

    def config(self) -> dict[str, Any] | None:
        """What the evaluation that is here was begun with."""
        config = self.read("config.json")
        if config is not None and (not isinstance(config, dict) or config.get("format") != FORMAT):
            raise UsageError(f"{self.path / 'config.json'} is not an evaluation's; use another --out")
        return config

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, name: str) -> Any:
        """A JSON file, or None if there is none."""
        file = self.path / name
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read {file}: {error}") from None

    def results(self) -> dict[str, R]:
        """What is done, by problem id. A problem's last line counts."""
        try:
            return {line["id"]: self._kind.from_dict(line) for line, _ in self._lines("results.jsonl")}
        except (KeyError, TypeError) as error:
            raise UsageError(f"{self.path / 'results.jsonl'} has a line without what belongs there: {error}") from None

    def not_logged(self) -> int:
        """How many problems are done and not in samples.jsonl; failed ones have no texts."""
        logged = {line["id"] for line, _ in self._lines("samples.jsonl")}
        return sum(result.error is None and name not in logged for name, result in self.results().items())

    def _lines(self, name: str) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The whole lines of a file; what is torn at its end is left out."""
        file = self.path / name
        try:
            content = file.read_bytes() if file.exists() else b""
        except OSError as error:
            raise UsageError(f"cannot read {file}: {error}") from None
        for number, raw in enumerate(content.splitlines(keepends=True), 1):
            if not raw.endswith(b"\n"):
                return
            try:
                line = json.loads(raw.decode("utf-8", "surrogatepass"))
                assert isinstance(line, dict) and isinstance(line["id"], str)
            except (ValueError, KeyError, AssertionError):
                raise UsageError(f"{file} has no result in line {number}; mend it, or use another --out") from None
            yield line, raw

    def trace(self, problem: str) -> Path:
        """The file of a problem's journal."""
        return self.path / "traces" / f"{problem}.jsonl"

    def read_traces(self, problem: str) -> dict[str, bytes]:
        """A problem's journals, by the names of their files; none where it was not begun."""
        try:
            return {file.name: file.read_bytes() for file in self._traces(problem) if file.exists()}
        except OSError as error:
            raise ReasonError(f"cannot read a trace of {problem} in {self.path}: {error.strerror or error}") from error

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, name: str, content: Any) -> None:
        """``replace`` with JSON."""
        text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        self.replace(name, text.encode("utf-8", "surrogatepass"))

    def replace(self, name: str, data: bytes) -> None:
        """Replaces a file whole, or leaves it as it was."""
        file = self.path / name
        temporary = file.with_name(f".{name}.tmp")
        with self._writing(name):
            try:
                with temporary.open("wb", buffering=0) as stream:
                    _write_whole(stream, data)
                    os.fsync(stream.fileno())
                os.replace(temporary, file)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Adds a line, or leaves the file as it was."""
        data = json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        with self._writing(name), (self.path / name).open("ab", buffering=0) as stream:
            end = stream.tell()
            try:
                _write_whole(stream, data.encode("utf-8", "surrogatepass") + b"\n")
            except BaseException:
                stream.truncate(end)
                raise

    def write_traces(self, problem: str, traces: Mapping[str, bytes]) -> None:
        """What ``read_traces`` gave, of the same problem in another folder. A kill leaves a part of a
        file, as it does of a journal."""
        with self._writing("a trace"):
            for file in self._traces(problem):
                if (data := traces.get(file.name)) is not None:
                    file.parent.mkdir(exist_ok=True)
                    file.write_bytes(data)

    def discard_traces(self, problem: str) -> None:
        """Deletes a problem's journals."""
        with self._writing("a trace"):
            for file in self._traces(problem):
                file.unlink(missing_ok=True)

    def _traces(self, problem: str) -> tuple[Path, Path, Path]:
        """A problem's journal, that of the small model which answers first under a plan, and the screen's verdict."""
        trace = self.trace(problem)
        return trace, trace.with_suffix(f".plan{trace.suffix}"), trace.with_suffix(f".screen{trace.suffix}")

    def _keep(self, name: str, problems: Set[str]) -> None:
        """Rewrites a file of lines, if need be, to the last line of each of these problems."""
        lines = {line["id"]: raw for line, raw in self._lines(name) if line["id"] in problems}
        file = self.path / name
        if file.exists() and file.read_bytes() != (data := b"".join(lines.values())):
            self.replace(name, data)

    def _clear(self) -> None:
        """Deletes what evaluations write, config.json last, and nothing else."""
        with self._writing("the folder"):
            for trace in (self.path / "traces").glob("*.jsonl"):
                trace.unlink()
            for name in reversed(_FILES):
                (self.path / name).unlink(missing_ok=True)

    def _left_over(self, name: str) -> bool:
        """Whether a file in a folder without a config.json is what we may have left there when we were killed."""
        if name == "traces":
            return not _listed(self.path / name)
        return name in (_LOCK, _NEXT) or name.startswith(".probe-") or (name.startswith(".") and name.endswith(".tmp"))

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = "free some space" if error.errno == errno.ENOSPC else "make it writable"
            raise ReasonError(
                f"cannot write {what} in {self.path}: {error.strerror or error}. What was done before is kept: "
                f"{advice} and run the same again, or use another --out."
            ) from error


class ResultsFolder(ResultsOf[ProblemResult]):
    """The folder of an evaluation that solves problems."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, ProblemResult)


def is_disk_error(error: BaseException) -> bool:
    """Whether it came of writing: then no problem would fare better."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    return cause is not None


def _write_whole(stream: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}; use another --out") from None


def compared_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration that decide results, with dotted names."""
    return {key: value for key, value in _flat(config) if not _ignored(key)}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The settings in which two configurations differ, as people read them. The second may not know its model yet."""
    old, new = compared_settings(there), compared_settings(json.loads(json.dumps(here)))
    if here["model"]["name"] is None:  # not loaded yet
        for key in [key for key in old if key == "model.name" or (key.startswith("heads.") and key not in new)]:
            del old[key]
        del new["model.name"]
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key} {brief(old.get(key))}, now {brief(new.get(key))}" for key in changed]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _ignored(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _NOT_COMPARED)


def brief(value: Any) -> str:
    """A setting as people read it, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
