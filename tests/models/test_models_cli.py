"""`reason models` as a user sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from reason.cli.errors import exit_on_error
from reason.cli.models import app
from reason.errors import ModelNotFound, UsageError
from reason.models import CATALOGUE, Cache, LocalFile, ModelEntry

runner = CliRunner()


@pytest.fixture
def tiny_in_catalogue(
    make_entry: Callable[..., ModelEntry], tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> ModelEntry:
    model = make_entry(LocalFile(tiny_gguf))
    monkeypatch.setitem(CATALOGUE, "tiny", model)
    return model


def test_pull_where_list_rm(tiny_in_catalogue: ModelEntry) -> None:
    missing = runner.invoke(app, ["where", "tiny"])
    assert missing.exit_code == 1
    assert missing.stderr.startswith("error: tiny is not in the cache")
    assert "reason models pull tiny" in missing.stderr

    pulled = runner.invoke(app, ["pull", "TINY"])
    assert pulled.exit_code == 0
    folder = Path(pulled.stdout.strip())
    assert (folder / "config.json").is_file()
    assert runner.invoke(app, ["where", "tiny"]).stdout.strip() == str(folder)

    rows = {row["name"]: row for row in json.loads(runner.invoke(app, ["list", "--json"]).stdout)}
    assert rows["tiny"]["cached"] is True
    assert rows["tiny"]["folder"] == str(folder)
    assert rows["qwen2.5-coder-0.5b-instruct"]["cached"] is False
    assert rows["qwen2.5-coder-0.5b-instruct"]["default"] is True
    table = runner.invoke(app, ["list"])
    assert table.exit_code == 0
    assert "tiny" in table.stdout

    assert runner.invoke(app, ["rm", "tiny"], input="n\n").exit_code == 1
    assert folder.exists()
    assert runner.invoke(app, ["rm", "Tiny", "--yes"]).exit_code == 0
    assert not folder.exists()
    assert runner.invoke(app, ["rm", "tiny", "--yes"]).exit_code == 1


def test_pull_mends_what_sizes_do_not_show(tiny_in_catalogue: ModelEntry) -> None:
    folder = Path(runner.invoke(app, ["pull", "tiny"]).stdout.strip())
    weights = folder / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert runner.invoke(app, ["pull", "tiny"]).exit_code == 0
    assert weights.read_bytes() == good


def test_your_own_gguf_file(tiny_gguf: Path) -> None:
    folder = Path(runner.invoke(app, ["pull", str(tiny_gguf)]).stdout.strip())
    rows = json.loads(runner.invoke(app, ["list", "--json"]).stdout)
    assert rows[-1]["name"] == folder.name
    assert runner.invoke(app, ["rm", str(tiny_gguf), "-y"]).exit_code == 0
    assert not folder.exists()


def test_what_is_damaged_can_be_seen_and_deleted(tiny_gguf: Path) -> None:
    folder = Path(runner.invoke(app, ["pull", str(tiny_gguf)]).stdout.strip())
    assert runner.invoke(app, ["where", folder.name]).stdout.strip() == str(folder)
    (folder / "model.safetensors").write_bytes(b"")
    (row,) = [row for row in json.loads(runner.invoke(app, ["list", "--json"]).stdout) if row["name"] == folder.name]
    assert (row["cached"], row["cached_bytes"] > 0) == (False, True)
    assert "damaged" in row["description"]
    assert runner.invoke(app, ["where", folder.name]).exit_code == 2
    assert runner.invoke(app, ["rm", folder.name, "-y"]).exit_code == 0
    assert not folder.exists()


def test_embedders_are_listed_as_what_they_are(cache: Cache) -> None:
    with cache.lock("all-minilm-l6-v2"), cache.building("all-minilm-l6-v2") as folder:
        (folder / "model.safetensors").write_bytes(b"weights")
    row = json.loads(runner.invoke(app, ["list", "--json"]).stdout)[-1]
    assert (row["name"], row["licence"], row["cached"]) == ("all-minilm-l6-v2", "Apache-2.0", True)
    assert "GGUF" not in row["description"]


@pytest.mark.parametrize("command", ["pull", "where", "rm"])
def test_unknown_names_exit_with_2_and_one_line(command: str) -> None:
    result = runner.invoke(app, [command, "qwen2.5-coder-0.5b"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: unknown model 'qwen2.5-coder-0.5b'. Did you mean")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("error", "code"), [(UsageError("x"), 2), (ModelNotFound("x"), 1), (KeyboardInterrupt(), 130)])
def test_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, exit_on_error():
        raise error
    assert caught.value.exit_code == code
    assert "Traceback" not in capsys.readouterr().err
