"""The Ray job of `launch/`: it has KubeRay's fields, and its command scores."""

import pathlib
import shlex

import yaml

from arniqa_jax import command, score
from arniqa_jax.version import __version__

_ROOT = pathlib.Path(__file__).parents[1]
_LAUNCH = _ROOT / "launch"

# Fields of KubeRay's types, version ray.io/v1: (required, optional). Kubernetes drops
# or refuses fields that it does not know. Source: ray-operator/apis/ray/v1 of
# ray-project/kuberay, commit 026f143 and, for RayJobSpec, 0057210.
_RAY_JOB = (
    {"entrypoint", "rayClusterSpec"},
    {"activeDeadlineSeconds", "backoffLimit", "metadata", "runtimeEnvYAML",
     "shutdownAfterJobFinishes", "submissionMode", "submitterPodTemplate", "suspend",
     "ttlSecondsAfterFinished"},
)  # fmt: skip
_RAY_CLUSTER = (
    {"headGroupSpec"},
    {"autoscalerOptions", "enableInTreeAutoscaling", "rayVersion", "workerGroupSpecs"},
)
_RAY_GROUP = ({"rayStartParams", "template"}, set())
_RAY_WORKERS = (
    {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "template"},
    {"numOfHosts", "replicas", "scaleStrategy"},
)


def test_the_ray_job_has_the_fields_of_kuberay():
    document = yaml.safe_load((_LAUNCH / "score_ray.yaml").read_text())
    assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayJob")
    cluster = document["spec"]["rayClusterSpec"]
    workers = cluster["workerGroupSpecs"]
    checked = [
        (document["spec"], _RAY_JOB),
        (cluster, _RAY_CLUSTER),
        (cluster["headGroupSpec"], _RAY_GROUP),
        *((group, _RAY_WORKERS) for group in workers),
    ]
    for found, (required, optional) in checked:
        assert required <= found.keys() <= required | optional
    for group in (cluster["headGroupSpec"], *workers):
        # The map of parameters of `ray start` has strings only.
        assert all(isinstance(v, str) for v in group["rayStartParams"].values())
    for group in workers:
        counts = [group[name] for name in ("minReplicas", "replicas", "maxReplicas")]
        assert counts == sorted(counts)


def test_the_ray_job_is_a_command_that_scores():
    job = yaml.safe_load((_LAUNCH / "score_ray.yaml").read_text())["spec"]
    words = shlex.split(job["entrypoint"])
    assert words[:3] == ["python", "-m", "arniqa_jax.score"]
    paths = command.parse_flags(words[2:], score.FLAGS)
    assert score.FLAGS["engine"].value == "ray" and score.FLAGS["resume"].value
    cluster = job["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (volume,), (container,) = pod["volumes"], pod["containers"]
        (mount,) = container["volumeMounts"]
        assert volume["name"] == mount["name"]
        assert f":{cluster['rayVersion']}-" in container["image"]
        for path in (*paths, score.FLAGS["output"].value):
            assert path.startswith(mount["mountPath"] + "/")
    (wheel, _) = yaml.safe_load(job["runtimeEnvYAML"])["pip"]
    assert f"/arniqa_jax-{__version__}-" in wheel and wheel.endswith("[ray]")
    pins = (_ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins
