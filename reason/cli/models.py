"""`reason models`: what there is, what is here, get it, find it, delete it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import typer

from reason.cli.errors import exit_on_error
from reason.errors import ModelNotFound
from reason.models import CATALOGUE, DEFAULT_CPU, EMBEDDING_MODELS, Cache, entry, pull, resolve
from reason.models.install import gguf_name
from reason.models.progress import folder_bytes, megabytes

__all__ = ["app"]

app = typer.Typer(name="models", help="List, get and delete model weights.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="A catalogue name (see `reason models list`).", show_default=False)]


@dataclass(frozen=True)
class _Row:
    name: str
    licence: str
    description: str
    download_bytes: int
    cached_bytes: int
    default: bool
    folder: str | None

    @property
    def cached(self) -> bool:
        return self.folder is not None


@app.command("list")
@exit_on_error()
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """The catalogue, and what else is in the cache."""
    rows = _rows(Cache.default())
    if as_json:
        print(json.dumps([vars(row) | {"cached": row.cached} for row in rows], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for heading in ("download", "on disk", "licence", "what"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row.name + (" *" if row.default else ""),
            megabytes(row.download_bytes) if row.download_bytes else "",
            megabytes(row.cached_bytes) if row.cached_bytes else "no",
            row.licence,
            row.description,
        )
    Console().print(table)
    Console().print("* the default on CPU", highlight=False)


@app.command("pull")
@exit_on_error()
def pull_model(
    name: Annotated[str, typer.Argument(help="A catalogue name, a hub repository or a GGUF file.", show_default=False)],
) -> None:
    """Download and convert a model. Checks the checksums of one that is already here, and mends it."""
    found = CATALOGUE.get(name.lower())
    print(pull(found, checksums=True) if found is not None else resolve(name).folder)


@app.command("where")
@exit_on_error()
def where_model(name: _Name) -> None:
    """Print a model's folder; fails if it is not on this machine."""
    cache = Cache.default()
    other = cache.find(name) if name in cache.names() and name not in CATALOGUE else None
    print(other or resolve(name, pull=False).folder)


@app.command("rm")
@exit_on_error()
def remove_model(name: _Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Delete a model from the cache, with what is left of its download."""
    cache = Cache.default()
    name = _cached_name(cache, name)
    size = folder_bytes(cache.folder(name)) + cache.used_by_download(name)
    if size == 0:
        raise ModelNotFound(f"{name} is not in the cache {cache.root}")
    if not yes:
        typer.confirm(f"Delete {cache.folder(name)} ({megabytes(size)})?", abort=True)
    print(f"freed {megabytes(cache.remove(name))}")


def _rows(cache: Cache) -> list[_Row]:
    rows = [
        _Row(
            name=model.name,
            licence=model.licence,
            description=model.description,
            download_bytes=model.size_bytes,
            cached_bytes=folder_bytes(cache.folder(model.name)),
            default=model.name == DEFAULT_CPU,
            folder=_text(cache.find(model.name)),
        )
        for model in CATALOGUE.values()
    ]
    return [*rows, *(_other_row(cache, name) for name in cache.names() if name not in CATALOGUE)]


def _other_row(cache: Cache, name: str) -> _Row:
    """Of what is in the cache beside the catalogue."""
    embeds, folder = EMBEDDING_MODELS.get(name), cache.find(name)
    description = "your GGUF file" if embeds is None else embeds.description
    if folder is None:
        description = f"half of it, or damaged: `reason models rm {name}` frees its room"
    return _Row(
        name=name,
        licence="" if embeds is None else embeds.licence,
        description=description,
        download_bytes=0 if embeds is None else embeds.size_bytes,
        cached_bytes=folder_bytes(cache.folder(name)) + cache.used_by_download(name),
        default=False,
        folder=_text(folder),
    )


def _cached_name(cache: Cache, name: str) -> str:
    """The cache's name for what the user named: as listed, or a GGUF file."""
    from pathlib import Path

    if Path(name).suffix.lower() == ".gguf" and Path(name).is_file():
        return gguf_name(Path(name))
    return name if name in cache.names() else entry(name).name


def _text(folder: object | None) -> str | None:
    return None if folder is None else str(folder)
