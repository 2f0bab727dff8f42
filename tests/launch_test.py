"""The launch scripts: dry runs, reactions to exit codes, and two real processes.

Scripts replace the programs that they call (gcloud, srun, Python). These scripts
record their arguments and exit with a given code.
"""

import ast
import os
import pathlib
import runpy
import shlex
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
import yaml

from arniqa_jax import command, errors, main
from arniqa_jax.training import metrics_log
from benchmarks import soak

_ROOT = pathlib.Path(__file__).parents[1]
_LAUNCH = _ROOT / "launch"
_FLAGS = ["--config=configs/pod.py", "--workdir=a run", "--config.seed=3"]
_POD_FLAGS = [flag.replace("a run", "gs://bucket/a run") for flag in _FLAGS]
# Ends with the next line of the file with its codes, of which the last one stays.
_STAND_IN = """#!/usr/bin/env bash
cd "$(dirname "$0")"
echo "$(basename "$0") ${*@Q}" >> calls
case "$*" in *create_server*) echo 1234 ;; *describe*) cat state ;; esac
case "$*" in *arniqa_jax.main*) ;; *) exit 0 ;; esac
codes=codes
if [[ ${!#} == --process_id=1 ]]; then codes=codes_1; fi
code=$(head -n 1 $codes)
if (($(wc -l < $codes) > 1)); then sed -i 1d $codes; fi
case $code in
  KILL) kill -KILL $$ ;;
  WAIT) trap 'exit 75' TERM; trap 'exit 130' INT; echo $$ >> waiting
        for ((i = 0; i < 600; i++)); do sleep 0.1; done ;;
esac
exit "$code"
"""


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Puts the stand-ins first into PATH; returns their directory."""
    for name in ("gcloud", "git", "srun", "scontrol", "python"):
        (tmp_path / name).write_text(_STAND_IN)
        (tmp_path / name).chmod(0o755)
    for name, content in (("codes", "0"), ("codes_1", "0"), ("state", "READY")):
        (tmp_path / name).write_text(content + "\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHON", "python")
    monkeypatch.setenv("RESTARTS", "3")
    return tmp_path


def _calls(stand_ins) -> list[list[str]]:
    """Return the calls so far that change something."""
    path = stand_ins / "calls"
    calls = path.read_text().splitlines() if path.exists() else []
    return [
        shlex.split(call)
        for call in calls
        if "create_server" not in call and "describe" not in call
    ]


def _launch(script: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", _LAUNCH / script, *arguments],
        capture_output=True,
        text=True,
        cwd=_ROOT,
        timeout=600,
    )


def _fields_of(words: list[str]) -> dict[str, object]:
    """Parse the command with main's own flags; an unknown flag raises an error."""
    values = runpy.run_path(main.__file__)["FLAGS"]  # untouched ones
    start = words.index("arniqa_jax.main")
    assert words[start - 1] == "-m"
    with mock.patch.object(sys, "argv", words[start:]):  # ml_collections looks there
        assert command.parse_flags(sys.argv, values) == []
    return {name: values[name].value for name in values}


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("local.sh", ["2", *_FLAGS]),
        ("slurm.sh", _FLAGS),
        ("tpu_pod.sh", ["pod", *_POD_FLAGS]),
    ],
)
def test_a_dry_run_prints_what_a_run_does(stand_ins, script, arguments):
    dry = _launch(script, "--dry-run", *arguments)
    assert dry.returncode == 0, dry.stderr
    assert _calls(stand_ins) == []
    printed = [shlex.split(line) for line in (dry.stdout + dry.stderr).splitlines()]
    if script == "slurm.sh":
        (stand_ins / "codes").write_text("75\n")
    if script == "tpu_pod.sh":
        (stand_ins / "state").write_text("missing\n")
    _launch(script, *arguments)
    done = _calls(stand_ins)
    if script == "local.sh":
        printed = sorted(words[words.index("python") :] for words in printed)
    assert printed == sorted(done) if script == "local.sh" else printed == done


def test_local_starts_what_main_understands():
    dry = _launch("local.sh", "--dry-run", "2", *_FLAGS)
    for process_id, line in enumerate(dry.stdout.splitlines()):
        fields = _fields_of(shlex.split(line))
        assert fields["num_processes"] == 2 and fields["process_id"] == process_id
        assert fields["coordinator"].startswith("127.0.0.1:")
        assert fields["workdir"] == "a run" and fields["config"].seed == 3
    assert process_id == 1


@pytest.mark.parametrize(
    ("codes", "code", "starts"),
    [
        (("0", "0"), 0, 1),
        (("75 0", "75 0"), 0, 2),
        (("0", "KILL 0"), 0, 2),
        (("75 0", "KILL 0"), 0, 2),  # 75 is that of a process that has lost another
        (("75", "75"), 75, 4),
        (("1", "75"), 1, 1),
        (("75", "2"), 2, 1),
        (("130", "130"), 130, 1),
    ],
)
def test_local_starts_again(stand_ins, codes, code, starts):
    for name, each in zip(("codes", "codes_1"), codes, strict=True):
        (stand_ins / name).write_text(each.replace(" ", "\n") + "\n")
    done = _launch("local.sh", "2", *_FLAGS)
    assert done.returncode == code, done.stderr
    assert len(_calls(stand_ins)) == 2 * starts
    assert done.stderr.count("all start again") == starts - 1


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_local_ends_with_its_processes(stand_ins, number, code):
    for name in ("codes", "codes_1"):
        (stand_ins / name).write_text("WAIT\n")
    with subprocess.Popen([_LAUNCH / "local.sh", "2", *_FLAGS], cwd=_ROOT) as script:
        processes = _wait_for(lambda: _waiting(stand_ins))
        script.send_signal(number)
    assert script.returncode == code
    _wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in processes))
    assert len(_calls(stand_ins)) == 2


def _waiting(stand_ins) -> list[str]:
    """Return the two processes, or an empty list until both have started."""
    path = stand_ins / "waiting"
    processes = path.read_text().split() if path.exists() else []
    return processes if len(processes) == 2 else []


def _wait_for(condition):
    """Return the function's first true value; the time limit is generous."""
    for _ in range(600):
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(condition)


@pytest.mark.slow
def test_a_run_of_two_processes_survives_the_loss_of_one(tmp_path):
    soak.write_scored(tmp_path / "scored")
    fields = soak.FIELDS | {"evaluation.root": tmp_path, "data.workers": 1}
    options = [f"--config.{name}={value}" for name, value in fields.items()]
    outputs = {}
    for name in ("undisturbed", "disturbed"):
        run = tmp_path / name
        with subprocess.Popen(
            [
                *(_LAUNCH / "local.sh", "2", "--config=configs/pretrain.py"),
                *(f"--workdir={run}", *options),
            ],
            cwd=_ROOT,
            env=os.environ | soak.ENVIRONMENT | {"PYTHON": sys.executable},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as script:
            if name == "disturbed":
                _wait_for(
                    lambda run=run: len(metrics_log.read(run / "metrics.jsonl")) > 2
                )
                os.kill(_process(script.pid, "--process_id=1"), signal.SIGKILL)
            out, err = script.communicate()
        assert script.returncode == 0, err
        assert err.count("all start again") == (name == "disturbed"), err
        # Gloo tells of its connections before, two processes at a time in one line.
        ours = out[out.index("step 4: median") :]
        outputs[name] = ours.replace(str(run), "")
    assert outputs["undisturbed"] == outputs["disturbed"]
    assert outputs["disturbed"].count("written to") == 1
    assert soak.outcome(run) == soak.outcome(tmp_path / "undisturbed")


def _process(parent: int, argument: str) -> int:
    """The child that was started with an argument."""
    (found,) = (
        int(child)
        for child in pathlib.Path(f"/proc/{parent}/task/{parent}/children")
        .read_text()
        .split()
        if argument.encode() in pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
    )
    return found


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [
        ("0", 0, 0),
        ("75", 0, 1),
        ("137", 2, 1),
        ("75", 3, 0),
        ("1", 0, 0),
        ("130", 0, 0),
    ],
)
def test_slurm_requeues(stand_ins, monkeypatch, code, restarts, requeued):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    (stand_ins / "codes").write_text(code + "\n")
    done = _launch("slurm.sh", *_FLAGS)
    srun, *others = _calls(stand_ins)
    assert srun[0] == "srun" and _fields_of(srun)["config"].seed == 3
    assert others == [["scontrol", "requeue", "17"]] * requeued
    assert done.returncode == (0 if requeued else int(code)), done.stderr


def test_slurm_asks_for_a_signal_before_its_limit():
    lines = (_LAUNCH / "slurm.sh").read_text().splitlines()
    options = [line.split()[1] for line in lines if line.startswith("#SBATCH")]
    assert {"--signal=TERM@300", "--requeue", "--open-mode=append"} <= set(options)
    # sbatch reads no further than the first command.
    assert lines.index("set -euo pipefail") > lines.index(f"#SBATCH {options[-1]}")


@pytest.mark.parametrize(
    ("codes", "state", "code", "starts"),
    [
        ("0", "READY", 0, 1),
        ("75 0", "READY", 0, 2),
        ("255 0", "PREEMPTED", 0, 2),
        ("1", "READY", 1, 1),
        ("1 0", "PREEMPTED", 0, 2),
        ("2", "PREEMPTED", 2, 1),
        ("75", "READY", 75, 4),
    ],
)
def test_tpu_pod_starts_again(stand_ins, codes, state, code, starts):
    (stand_ins / "codes").write_text(codes.replace(" ", "\n") + "\n")
    (stand_ins / "state").write_text(state + "\n")
    done = _launch("tpu_pod.sh", "pod", *_POD_FLAGS)
    assert done.returncode == code, done.stderr
    kinds = [call[4] if call[0] == "gcloud" else call[0] for call in _calls(stand_ins)]
    made = {"READY": [], "PREEMPTED": ["delete", "create"]}[state]
    assert kinds == [*made, "git", "scp", "ssh", "ssh"] * starts
    (run,) = [word for word in _calls(stand_ins)[-1] if word.startswith("--command")]
    assert _fields_of(shlex.split(run))["workdir"] == "gs://bucket/a run"


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (_FLAGS, 2),
        (["--config=pod", "--workdir", "gs://bucket/run"], 0),
        (["--config=pod", "--config.data.root=gs://bucket/photos"], 2),
    ],
)
def test_tpu_pod_wants_a_workdir_that_all_hosts_see(stand_ins, flags, code):
    done = _launch("tpu_pod.sh", "pod", *flags)
    assert done.returncode == code
    assert bool(_calls(stand_ins)) == (code == 0)
    assert ("expected --workdir=gs://BUCKET/DIR" in done.stderr) == (code == 2)


@pytest.mark.parametrize("script", ["local.sh", "slurm.sh", "tpu_pod.sh"])
def test_wrong_use(stand_ins, script):
    done = _launch(script)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ") and _calls(stand_ins) == []


def _calls_get(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get"


def test_the_job_set_refers_to_what_there_is():
    text = (_LAUNCH / "gke_jobset.yaml").read_text()
    job_set = yaml.safe_load(text)
    assert job_set["kind"] == "JobSet"
    (job,) = (each["template"]["spec"] for each in job_set["spec"]["replicatedJobs"])
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    # The topology is that of all chips of all hosts.
    x, y = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert int(x) * int(y) == chips * job["parallelism"]
    assert job["completions"] == job["parallelism"] and job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    final = {errors.FAILURE, errors.WRONG_USE, errors.INTERRUPTED}
    assert set(rule["onExitCodes"]["values"]) == final
    # No shared file system: code, photographs and run lie in one bucket.
    assert "volumes" not in pod and "volumeMounts" not in container
    make, change, tool, get, unpack, install, run = (
        shlex.split(line, comments=True)
        for line in container["args"][0].replace("\\\n", "").splitlines()
    )
    assert make == ["mkdir", change[1]] and tool[-1] == "gcsfs"
    assert (_ROOT / "constraints.txt").exists()
    assert "--constraint=constraints.txt" in install and ".[gcs]" in install
    (code,) = get[2:]
    (call,) = (node for node in ast.walk(ast.parse(code)) if _calls_get(node))
    source, target = (argument.value for argument in call.args)
    assert unpack == ["tar", "-xzf", target]
    # The comment at the top says how the code comes to the bucket.
    assert f"gcloud storage cp {target} {source}" in text
    fields = _fields_of(run)
    for path in (source, fields["workdir"], fields["config"].data.root):
        assert path.startswith("gs://BUCKET/")
