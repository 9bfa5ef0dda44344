import copy
import functools
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
import jsonschema  # noqa: E402
import referencing  # noqa: E402

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kubernetes"
OVERLAYS = ("minio", "s3")
# The oldest Kubernetes that is still maintained, about, and the newest that there are schemas of.
VERSIONS = ("1.33", "1.37")
KUBERAY = json.loads((Path(__file__).parent / "kuberay.schema.json").read_text(encoding="utf-8"))
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


@functools.cache
def kustomize(folder: Path) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    built = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return documents(built.stdout)


@pytest.fixture(scope="module")
def job():
    (found,) = documents((FOLDER / "job" / "rayjob.yaml").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request):
    return kustomize(FOLDER / request.param)


@functools.cache
def schema_file(version: str, name: str) -> dict[str, Any]:
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    return kubernetes_validate.utils.schema_contents(f"{folder}/{name}.json", version)


@functools.cache
def registry(version: str) -> referencing.Registry:
    shared = (schema_file(version, "_definitions"), KUBERAY)
    return referencing.Registry().with_resources(
        (one["$id"], referencing.Resource.from_contents(one)) for one in shared
    )


def validate(document: dict[str, Any], version: str) -> None:
    """Hold a document against Kubernetes' own schema, or KubeRay's fields around Kubernetes' own pods."""
    kind, group = document["kind"], document["apiVersion"]
    if group == "ray.io/v1":
        schema = {"$ref": f"{KUBERAY['$id']}#/$defs/{kind}"}
    else:
        schema = schema_file(version, f"{kind.lower()}-{re.sub(r'[.][^/]*', '', group).replace('/', '-')}")
    jsonschema.Draft202012Validator(schema, registry=registry(version)).validate(document)


def walk(node: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return every value in a document with the keys that lead to it."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [(path, node), *(found for key, child in children for found in walk(child, f"{path}/{key}"))]


def pods(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pod specifications in a document, wherever they stand."""
    return [node for _, node in walk(document) if isinstance(node, dict) and "containers" in node]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["containers"], *pod.get("initContainers", [])]


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_keep_to_the_schemas(overlay, job, version):
    assert {document["kind"] for document in overlay} >= {"RayCluster", "Deployment", "StatefulSet", "NetworkPolicy"}
    for document in [*overlay, job]:
        validate(document, version)


WRONG = {
    "a misspelt field of KubeRay": ("RayCluster", "/spec", "authOption", {"mode": "token"}),
    "an unknown mode": ("RayCluster", "/spec/authOptions", "mode", "tokens"),
    "a number where KubeRay wants a string": ("RayCluster", "/spec/headGroupSpec/rayStartParams", "num-cpus", 0),
    "a misspelt field of a pod": ("RayCluster", "/spec/workerGroupSpecs/0/template/spec", "toleration", []),
    "a misspelt field of a policy": ("NetworkPolicy", "/spec", "ingres", []),
    "text where a number is wanted": ("StatefulSet", "/spec", "replicas", "one"),
}


@pytest.mark.parametrize(("kind", "path", "key", "value"), WRONG.values(), ids=WRONG)
def test_the_schemas_refuse_what_is_wrong(overlay, kind, path, key, value):
    document = copy.deepcopy(next(one for one in overlay if one["kind"] == kind))
    dict(walk(document))[path][key] = value
    with pytest.raises(jsonschema.ValidationError, match=re.escape(key) if key not in path else ""):
        validate(document, VERSIONS[-1])


def test_everything_that_is_named_is_there(overlay, job):
    made = {(document["kind"], document["metadata"]["name"]) for document in overlay}
    assert all(document["metadata"].get("namespace", "cisray") == "cisray" for document in [*overlay, job])
    readme = (ROOT / "infra" / "README.md").read_text(encoding="utf-8")
    for document in [*overlay, job]:
        for path, node in walk(document):
            if path.endswith("configMapRef"):
                assert ("ConfigMap", node["name"]) in made
            elif path.endswith("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", node["claimName"]) in made
            elif path.endswith("secretKeyRef"):  # made by hand, as the README says
                assert re.search(rf"create secret generic {node['name']}\b[^\n]*(\\\n[^\n]*)*{node['key']}=", readme)
        for pod in pods(document):
            volumes = {volume["name"] for volume in pod.get("volumes", [])}
            volumes |= {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
            assert {mount["name"] for one in containers(pod) for mount in one.get("volumeMounts", [])} <= volumes
    for service in (document for document in overlay if document["kind"] == "Service"):
        selected = service["spec"]["selector"].items()
        ports = [
            port["containerPort"]
            for document in overlay
            if document["kind"] in {"Deployment", "StatefulSet"}
            and selected <= document["spec"]["template"]["metadata"]["labels"].items()
            for one in pods(document)[0]["containers"]
            for port in one["ports"]
        ]
        assert [port["port"] for port in service["spec"]["ports"]] == ports


def test_secrets_are_referred_to_and_never_written(overlay, job):
    secret = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|ROOT_USER")
    referred = 0
    for document in [*overlay, job]:
        assert document["kind"] != "Secret"
        if document["kind"] == "ConfigMap":
            assert not [name for name in document["data"] if secret.search(name)]
        for pod in pods(document):
            for variable in (variable for one in containers(pod) for variable in one.get("env", [])):
                if secret.search(variable["name"]):
                    assert set(variable["valueFrom"]) == {"secretKeyRef"}
                    referred += 1
                else:  # an address may hold a password only by reference
                    assert not re.search(r"://[^/]*:(?!\$\()[^/]*@", variable["value"])
    assert referred >= 4


def test_pods_keep_to_the_restricted_standard(overlay, job):
    found = [pod for document in [*overlay, job] for pod in pods(document)]
    assert len(found) >= 8
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all("hostPath" not in volume for volume in pod.get("volumes", []))
        for one in containers(pod):
            assert one["securityContext"]["allowPrivilegeEscalation"] is False
            assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in one["securityContext"]
            assert all("hostPort" not in port for port in one.get("ports", []))
            assert "memory" in one["resources"]["limits"]
            assert "cpu" in one["resources"]["requests"]


def test_only_the_autoscaler_may_speak_to_kubernetes(overlay, job):
    for document in [*overlay, job]:
        for path, node in walk(document):
            if isinstance(node, dict) and "containers" in node:
                scaled_head = document["kind"] == "RayCluster" and "headGroupSpec" in path
                assert node.get("automountServiceAccountToken", True) is scaled_head, path


def test_nothing_is_published(overlay, job):
    assert not {document["kind"] for document in overlay} & {"Ingress", "Gateway", "HTTPRoute"}
    for document in [*overlay, job]:
        for path, node in walk(document):
            assert not path.endswith(("/nodePort", "/enableIngress", "/externalIPs"))
            if path.endswith("/serviceType") or (path == "/spec/type" and document["kind"] == "Service"):
                assert node == "ClusterIP"


def ray_clusters(overlay: list[dict[str, Any]], job: dict[str, Any]) -> list[dict[str, Any]]:
    return [next(one for one in overlay if one["kind"] == "RayCluster")["spec"], job["spec"]["rayClusterSpec"]]


def test_ray_clusters_ask_for_a_token_and_run_the_pinned_ray(overlay, job):
    pins = (ROOT / "infra" / "constraints.txt").read_text(encoding="utf-8")
    (ray,) = re.findall(r"^ray==(\S+)$", pins, re.MULTILINE)
    for cluster in ray_clusters(overlay, job):
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["rayVersion"] == ray
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        for pod in (group["template"]["spec"] for group in groups):
            (ray_container,) = pod["containers"]
            assert ray_container["workingDir"] == "/cisray"  # a job's relative paths are the same on every machine
            assert {"name": "cisray", "mountPath": "/cisray"} in ray_container["volumeMounts"]
            # what the object store takes counts as the container's memory
            (shm,) = (volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm")
            limit = ray_container["resources"]["limits"]["memory"]
            assert 0 < int(shm["sizeLimit"].removesuffix("Gi")) <= int(limit.removesuffix("Gi")) / 2
        for group in cluster["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_objects_are_kept_in_memory(overlay, job):
    cluster = next(document for document in overlay if document["kind"] == "RayCluster")
    for spec in (cluster["spec"], job["spec"]["rayClusterSpec"]):
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            (shm,) = [one for one in group["template"]["spec"]["volumes"] if one["name"] == "shm"]
            room = int(shm["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 30
            assert room / 2 < int(group["rayStartParams"]["object-store-memory"]) < room


def test_the_job_is_one_that_there_is(job):
    program, verb, path = job["spec"]["entrypoint"].split()
    assert program == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    assert verb == "train"
    assert (ROOT / path).is_file()


def test_one_setting_names_the_images_everywhere(tmp_path):
    for name in OVERLAYS:
        change = {"name": "cisray", "newName": "registry.example/team/cisray"}
        change |= {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
        folder = tmp_path / name
        folder.mkdir()
        # kustomize takes relative paths alone
        base = os.path.relpath(FOLDER / name, folder)
        written = {"resources": [base], "images": [{key: change[key] for key in ("name", "newName")}]}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
        images = [one["image"] for document in kustomize(folder) for pod in pods(document) for one in containers(pod)]
        own = [image for image in images if "cisray" in image]
        assert {image.rsplit(":")[-1] for image in own} == {"cpu", "gpu", "mlflow"}
        assert all(image.startswith("registry.example/team/cisray:") for image in own)


class Pod(NamedTuple):
    """Somebody who speaks or listens: the labels of a pod and of its namespace; None for the world outside."""

    labels: dict[str, str] | None
    namespace: str = "cisray"


def component(name: str) -> Pod:
    return Pod({"app.kubernetes.io/component": name})


HEAD = Pod({"ray.io/is-ray-node": "yes", "ray.io/node-type": "head"})
WORKER = Pod({"ray.io/is-ray-node": "yes", "ray.io/node-type": "worker"})
MLFLOW, POSTGRES, MINIO, SUBMITTER = map(component, ("mlflow", "postgres", "minio", "submitter"))
KUBERAY_OPERATOR, STRANGER = Pod(OPERATOR, "kuberay-system"), Pod({"app": "other"}, "default")
NEIGHBOUR, IMPOSTOR = Pod({"app": "other"}), Pod(OPERATOR, "default")
WORLD, NAMES = Pod(None), Pod({"k8s-app": "kube-dns"}, "kube-system")


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def names_peer(peers: list[dict[str, Any]] | None, pod: Pod) -> bool:
    """Say whether one of the peers of a rule is this pod; a rule without peers means everyone."""
    if peers is None:
        return True
    if pod.labels is None:
        return False
    for peer in peers:
        inside = {"kubernetes.io/metadata.name": pod.namespace}
        at_home = pod.namespace == "cisray"
        in_namespace = selects(peer["namespaceSelector"], inside) if "namespaceSelector" in peer else at_home
        if in_namespace and selects(peer.get("podSelector", {}), pod.labels):
            return True
    return False


def lets(policies: list[dict[str, Any]], pod: Pod, other: Pod, port: int, direction: str) -> bool:
    """Say whether a pod's own policies let it send to, or receive from, another on a TCP port."""
    if pod.namespace != "cisray" or pod.labels is None:
        return True
    key, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    mine = [one for one in policies if direction in one["policyTypes"] and selects(one["podSelector"], pod.labels)]
    return not mine or any(
        names_peer(rule.get(peers), other)
        and ("ports" not in rule or any(one == {"protocol": "TCP", "port": port} for one in rule["ports"]))
        for one in mine
        for rule in one.get(key, [])
    )


def reaches(policies: list[dict[str, Any]], source: Pod, target: Pod, port: int) -> bool:
    return lets(policies, source, target, port, "Egress") and lets(policies, target, source, port, "Ingress")


ALLOWED = [
    (HEAD, WORKER, 40001),
    (WORKER, HEAD, 6379),
    (WORKER, WORKER, 40001),
    (SUBMITTER, HEAD, 8265),
    (KUBERAY_OPERATOR, HEAD, 8265),
    (HEAD, MLFLOW, 5000),
    (WORKER, MLFLOW, 5000),
    (MLFLOW, POSTGRES, 5432),
    (WORKER, NAMES, 53),
    (MLFLOW, NAMES, 53),
    (HEAD, WORLD, 443),  # the API server
]
DENIED = [
    (STRANGER, HEAD, 8265),
    (NEIGHBOUR, HEAD, 8265),
    (WORLD, HEAD, 8265),
    (IMPOSTOR, HEAD, 8265),
    (KUBERAY_OPERATOR, HEAD, 6379),
    (SUBMITTER, HEAD, 6379),
    (SUBMITTER, WORKER, 8265),
    (STRANGER, MLFLOW, 5000),
    (NEIGHBOUR, MLFLOW, 5000),
    (SUBMITTER, MLFLOW, 5000),
    (WORKER, POSTGRES, 5432),
    (HEAD, POSTGRES, 5432),
    (STRANGER, POSTGRES, 5432),
    (WORKER, MINIO, 9000),
    (WORKER, WORLD, 443),
    (POSTGRES, WORLD, 443),
    (WORKER, WORLD, 80),
    (MLFLOW, HEAD, 8265),
]


def test_the_network_lets_through_what_is_needed_and_nothing_else():
    for name in OVERLAYS:
        policies = [one["spec"] for one in kustomize(FOLDER / name) if one["kind"] == "NetworkPolicy"]
        own = {"minio": [(MLFLOW, MINIO, 9000)], "s3": [(MLFLOW, WORLD, 443)]}
        other = {"minio": own["s3"], "s3": own["minio"]}
        assert [case for case in [*ALLOWED, *own[name]] if not reaches(policies, *case)] == []
        assert [case for case in [*DENIED, *other[name]] if reaches(policies, *case)] == []


def test_workers_reach_stores_outside_where_the_policy_for_uris_is_added():
    policies = [one["spec"] for one in kustomize(FOLDER / "minio") if one["kind"] == "NetworkPolicy"]
    (added,) = documents((FOLDER / "uris" / "network.yaml").read_text(encoding="utf-8"))
    for version in VERSIONS:
        validate(added, version)
    policies.append(added["spec"])
    assert reaches(policies, WORKER, WORLD, 443)
    assert not reaches(policies, WORKER, WORLD, 80)
    assert not reaches(policies, POSTGRES, WORLD, 443)
