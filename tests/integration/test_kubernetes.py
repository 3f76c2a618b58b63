"""What a cluster would be given: Prefect's own code fills in our job template, and a strict validator reads the result."""

import asyncio
import copy
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import kubernetes_validate
import pytest
import yaml
from prefect.client.schemas.objects import Flow, FlowRun
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

from flows.deployments import HEARTBEATS, job_template, read_service
from img2mesh.errors import InputError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra/kubernetes"
VERSION = "1.33"
# Stands for the API, which is asked for blocks and variables only; the templates name none.
_NOT_ASKED: Any = object()


def rendered(template: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The manifest of a run's job, as a worker would send it."""
    defaults = {key: value["default"] for key, value in template["variables"]["properties"].items() if "default" in value}
    template = copy.deepcopy(template)

    async def prepare() -> KubernetesWorkerJobConfiguration:
        configuration = await KubernetesWorkerJobConfiguration.from_template_and_values(
            template, {**defaults, **values}, client=_NOT_ASKED
        )
        run = FlowRun(id=uuid4(), flow_id=uuid4(), name="owl")
        configuration.prepare_for_flow_run(run, flow=Flow(id=run.flow_id, name="batch"))
        return configuration

    manifest: dict[str, Any] = asyncio.run(prepare()).job_manifest
    return manifest


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    one: dict[str, Any]
    (one,) = manifest["spec"]["template"]["spec"]["containers"]
    return one


def test_our_job_template_passes_strict_validation_with_and_without_a_gpu() -> None:
    template = job_template(FOLDER / "job-template.json")
    plain = rendered(template)
    kubernetes_validate.validate(plain, VERSION, strict=True)
    assert container(plain)["envFrom"] == [{"secretRef": {"name": "img2mesh"}}]
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    selected = {"nvidia.com/gpu.present": "true"}
    with_gpu = rendered(template, gpus=1, node_selector=selected, tolerations=[toleration], image="registry/img2mesh:1")
    kubernetes_validate.validate(with_gpu, VERSION, strict=True)
    pod = with_gpu["spec"]["template"]["spec"]
    assert (pod["nodeSelector"], pod["tolerations"]) == (selected, [toleration])
    assert container(with_gpu)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container(with_gpu)["image"] == "registry/img2mesh:1"
    assert "flow-run" in " ".join(container(with_gpu)["args"])


def test_the_validator_would_refuse_prefect_s_default() -> None:
    template = KubernetesWorker.get_default_base_job_template()
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(rendered(template), VERSION, strict=True)


def test_runs_may_do_little_and_send_heartbeats() -> None:
    manifest = rendered(job_template(FOLDER / "job-template.json"))
    pod = manifest["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    secure = container(manifest)["securityContext"]
    assert (secure["readOnlyRootFilesystem"], secure["capabilities"]) == (True, {"drop": ["ALL"]})
    assert {"name": "weights", "mountPath": "/weights", "readOnly": True} in container(manifest)["volumeMounts"]
    sent = {one["name"]: one["value"] for one in container(manifest)["env"] if "value" in one}
    name = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
    assert sent[name] == HEARTBEATS[name]


def test_the_worker_s_manifests_pass_strict_validation() -> None:
    documents = list(yaml.safe_load_all((FOLDER / "worker.yaml").read_text(encoding="utf-8")))
    for document in documents:
        kubernetes_validate.validate(document, VERSION, strict=True)
    (worker,) = (one for one in documents if one["kind"] == "Deployment")
    sent = {one["name"]: one["value"] for one in container({"spec": worker["spec"]})["env"]}
    name = "PREFECT_WORKER_HEARTBEAT_SECONDS"
    assert sent[name] == HEARTBEATS[name]


def test_templates_hold_no_secrets() -> None:
    text = (FOLDER / "job-template.json").read_text(encoding="utf-8")
    variables = json.loads(text)["variables"]["properties"]
    assert set(variables["env"]["default"]) == {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY"}
    assert 'SECRET_ACCESS_KEY":' not in text.replace(" ", "")


def test_the_shipped_service_can_be_read(tmp_path: Path) -> None:
    service = read_service(ROOT / "infra/prefect/service.toml")
    assert [batch.name for batch in service.batches] == ["daily"]
    file = tmp_path / "service.toml"
    file.write_text(f'[pool]\ntype = "kubernetes"\njob_template = "{FOLDER / "job-template.json"}"\n')
    template = read_service(file).pool.job_template
    assert template is not None
    assert job_template(Path(template))["variables"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[pool", "is no TOML"),
        ('[pool]\nkind = "process"', "pool.kind: extra inputs are not permitted"),
        ('[[batches]]\nname = "a"', "batches.0.inbox: field required"),
        ('[pool]\ntype = "cloud"', "pool.type"),
    ],
)
def test_a_service_that_is_none_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "service.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=reason) as caught:
        read_service(file)
    assert "\n" not in str(caught.value)
