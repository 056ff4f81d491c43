"""What deploy/ holds: the Kubernetes manifest, and Ray Serve's configuration with its handler, run without Ray."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.requests import Request
from typer.main import get_command

from support.endpoint import made_bundle, payment
from tsa.cli import app
from tsa.inference.scorer import Scorer
from tsa.serving.settings import ServeSettings

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return {found["kind"]: found for found in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


@pytest.fixture(scope="module")
def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["Deployment"]["spec"]["template"]["spec"]
    return found


def test_the_service_and_the_budget_find_the_pods(manifest: dict[str, Any]) -> None:
    labels = manifest["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifest["Service"]["spec"]["selector"] == labels
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert manifest[kind]["spec"]["selector"]["matchLabels"] == labels
    assert manifest["PodDisruptionBudget"]["spec"]["minAvailable"] < manifest["Deployment"]["spec"]["replicas"]


def test_the_pod_runs_without_rights_and_within_limits(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    secured = container["securityContext"]
    assert (secured["readOnlyRootFilesystem"], secured["allowPrivilegeEscalation"]) == (True, False)
    assert secured["capabilities"]["drop"] == ["ALL"]
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_its_command_is_one_that_tsa_knows(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert container["command"][:2] == ["tsa", "serve"]
    known = {name for option in get_command(app).commands["serve"].params for name in option.opts}  # type: ignore[attr-defined]
    given = dict(argument.split("=", 1) for argument in container["args"])
    assert set(given) <= known
    assert "--history" not in given, "a password in it would stand in the list of processes"
    assert container["env"][0]["name"] == "TSA_HISTORY"
    assert int(given["--port"]) == container["ports"][0]["containerPort"]
    longest = float(given["--drain-seconds"]) + float(ServeSettings.model_fields["stop_seconds"].default)
    assert longest <= 30 < pod["terminationGracePeriodSeconds"]


def test_its_probes_ask_what_the_server_answers_without_a_token(pod: dict[str, Any]) -> None:
    from tsa.serving.http.route_roles import OPEN

    (container,) = pod["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert set(paths.values()) <= set(OPEN)
    assert (paths["readiness"], paths["liveness"]) == ("/v2/health/ready", "/v2/health/live")


@pytest.mark.parametrize(("name", "paths"), [("score", ["bundle", "out"]), ("train", ["out"])])
def test_the_jobs_on_ray_are_ones_that_tsa_knows(name: str, paths: list[str]) -> None:
    job = yaml.safe_load((DEPLOY / "ray" / f"{name}.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    words = shlex.split(job["spec"]["entrypoint"])
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    assert words[:2] == ["tsa", name]
    given = command.make_context(name, words[2:]).params
    assert (given["executor"], given["ray_address"], given["quiet"]) == ("ray", "auto", True)
    pinned = (DEPLOY.parent / "constraints.txt").read_text()
    assert f"ray=={cluster['rayVersion']}\n" in pinned
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    mounted = []
    for pod in (group["template"]["spec"] for group in (head, *workers)):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
        assert container["env"][0]["value"] in mounts, "the cache is a volume"
        assert "secretRef" in container["envFrom"][0], "credentials are in no file"
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounted.append(mounts)
    for path in paths:
        assert str(given[path].parent) in mounted[0]
    if name == "train":
        processors = sum(
            int(group["replicas"]) * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
            for group in workers
        )
        assert given["workers"] == processors, "a processor each"
        assert all(str(given["out"].parent) in mounts for mounts in mounted), "all nodes share the run folder"


@pytest.fixture(scope="module")
def deployment() -> Any:
    spec = importlib.util.spec_from_file_location("ray_deployment", DEPLOY / "ray" / "deployment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rays_configuration_names_the_deployment_and_its_settings(deployment: Any) -> None:
    config = yaml.safe_load((DEPLOY / "ray" / "config.yaml").read_text())
    (found,) = config["applications"]
    module, builder = found["import_path"].split(":")
    assert (DEPLOY / "ray" / f"{module}.py").is_file()
    assert callable(getattr(deployment, builder))
    assert [one["name"] for one in found["deployments"]] == [deployment.Endpoint.__name__]
    assert set(found["args"]) <= set(ServeSettings.model_fields)


def request_of(path: str, body: Any) -> Request:
    """A request as Ray's proxy hands it to a replica."""
    messages = iter([{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}])

    async def receive() -> Any:
        return next(messages)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "scheme": "http",
    }
    return Request(scope, receive)


def test_a_replica_answers_as_the_server_does(deployment: Any, tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "bundle")
    (tmp_path / "admin").write_text("admin-token-0123456789\n")
    settings = {
        "bundle": str(bundle),
        "history": f"sqlite:///{tmp_path}/h.db",
        "new_store": True,
        "token_env": [],
        "admin_token_files": [str(tmp_path / "admin")],
    }
    replica = deployment.Endpoint(settings)

    async def ask() -> list[Any]:
        rows = (payment("a"), payment("b", amount="much"))
        return [await replica(request_of("/v1/score", row)) for row in rows] + [await replica(request_of("/no", {}))]

    good, bad, nowhere = asyncio.run(ask())
    assert replica.watching is not None, "for another bundle"
    assert replica.service.secrets.tokens.grant("admin-token-0123456789").roles == {"admin"}
    offline = Scorer.load(bundle).score([payment("a")])["raw_score"][0]
    assert good.status_code == 200
    assert json.loads(good.body)["raw_score"] == pytest.approx(offline, abs=1e-6)
    assert int(good.headers["content-length"]) == len(good.body)
    assert (bad.status_code, json.loads(bad.body)["rule"]) == (422, "not_a_number")
    assert nowhere.status_code == 404
    replica.check_health()
    replica.service.draining = True
    with pytest.raises(RuntimeError, match="being stopped"):
        replica.check_health()
    replica.service.close()
