"""The manifests of examples/cluster: what they refer to is there, and their commands are ones that `reason` has."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import typer
import yaml

from reason.cli.main import app

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def check_command(words: list[str]) -> None:
    """Raises on a command or an option that is not there."""
    assert words[:2] == ["reason", "eval"]
    group: Any = typer.main.get_command(app)
    command = group.commands[words[1]]
    with command.context_class(command, info_name=words[1]) as context:
        command.make_parser(context).parse_args(words[2:])


def test_the_composition_names_what_it_has() -> None:
    (composition,) = documents("compose.yaml")
    services = composition["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        named = [volume.partition(":")[0] for volume in service["volumes"]]
        assert {name for name in named if not name.startswith((".", "/"))} <= set(composition["volumes"])
    for name, waited_for in services["evaluation"]["depends_on"].items():
        assert waited_for["condition"] == "service_healthy"
        assert "healthcheck" in services[name]
    check_command(services["evaluation"]["command"])
    assert "--base-url=http://model:8000/v1" in services["evaluation"]["command"]


def test_the_job_has_room_for_its_workers() -> None:
    claims = {document["metadata"]["name"] for document in documents("rayjob.yaml")[:2]}
    job = documents("rayjob.yaml")[2]["spec"]
    words = shlex.split(job["entrypoint"])
    check_command(words)
    cluster = job["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert int(words[words.index("--workers") + 1]) == group["maxReplicas"]
    for pod in (cluster["headGroupSpec"]["template"]["spec"], group["template"]["spec"]):
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert set(volumes.values()) <= claims
        assert container["resources"]["limits"] == container["resources"]["requests"]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    out = words[words.index("--out") + 1]
    mounts = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert any(out.startswith(f"{mount['mountPath']}/") for mount in mounts)


def test_one_version_of_ray_everywhere() -> None:
    constraints = (FOLDER.parents[1] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (version,) = (line.removeprefix("ray==") for line in constraints if line.startswith("ray=="))
    assert documents("rayjob.yaml")[2]["spec"]["rayClusterSpec"]["rayVersion"] == version
    image = next(line for line in (FOLDER / "Dockerfile").read_text().splitlines() if line.startswith("FROM "))
    assert image.startswith(f"FROM rayproject/ray:{version}-")
