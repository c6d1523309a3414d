"""The launch files: parsed, linted, held against what weavejax knows, one screen each."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from weavejax import evaluate, train
from weavejax.runs import sweep
from weavejax.runtime import cli

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
FILES = sorted(path for path in LAUNCH.iterdir() if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix in (".sh", ".sbatch")]
JOBSETS = sorted(LAUNCH.glob("*.jobset.yaml"))
ENVIRONMENTS = sorted(LAUNCH.glob("*.env"))
OTHERS = ("README.md", "again.sh", "beside.sh", "when.sh")  # no way to start one config
STARTERS = [p for p in FILES if p.suffix != ".env" and p.name not in OTHERS]

# What others define; a name that is misspelt here is silently ignored there.
KNOWN_ENVIRONMENT = {
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "GLIBC_TUNABLES",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_LOCAL_DEVICE_IDS",
    "JAX_NUM_CPU_DEVICES",
    "JOB_COMPLETION_INDEX",
    "LIBTPU_INIT_ARGS",
    "NCCL_DEBUG",
    "NCCL_NVLS_ENABLE",
    "NCCL_SOCKET_IFNAME",
    "SKYPILOT_NODE_IPS",
    "SKYPILOT_NODE_RANK",
    "SKYPILOT_NUM_NODES",
    "SLURM_CPUS_PER_TASK",
    "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_SUBMIT_DIR",
    "SRUN_CPUS_PER_TASK",
    "TPU_LOG_DIR",
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
}
FAMILIES = r"\b(?:WEAVEJAX|JAX|XLA|NCCL|SLURM|SRUN|SKYPILOT|TPU|LIBTPU|CUDA|GLIBC|JOB)_[A-Z_]+\b"


def test_every_file_is_in_the_table_and_every_named_file_exists():
    table = (LAUNCH / "README.md").read_text()
    for path in FILES:
        assert path.name == "README.md" or f"`{path.name}" in table, path.name
    for name in re.findall(r"launch/([\w.]+)", "".join(p.read_text() for p in FILES)):
        assert (LAUNCH / name.rstrip(".")).exists(), name


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_one_screen(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 60
    if path.name != "README.md":
        assert max(map(len, lines)) <= 105, max(lines, key=len)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck(path):
    tool = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert tool, "shellcheck is missing: pip install -e '.[test]'"
    result = subprocess.run([tool, str(path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert path.read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_flags_keys_doors_variables_and_extras_exist(path):
    text = path.read_text()
    named = {ROOT / f"configs/{name}" for name in re.findall(r"\b\w+\.py\b", text)}
    configs = [place for place in named if place.exists()] or [ROOT / "configs/gram.py"]
    known = {key for place in configs for key in cli._keys(cli.load(str(place)))}
    for key in re.findall(r"--config\.([a-z_.]+[a-z])", text):
        assert key in known, key
    for door in re.findall(r"-m weavejax\.(\w+)", text):
        assert (ROOT / f"weavejax/{door}.py").exists(), door
    flags = {"config", *train.FLAGS, *sweep.FLAGS, *evaluate.FLAGS}
    for command in re.findall(r"weavejax\.train(.*)|launch/\w+\.(?:sh|sbatch)(.*)", text):
        used = re.findall(r"(?<![\w-])\"?--([a-z]+)(?=[= \"`\]]|$)", "".join(command))
        assert set(used) <= flags, command
    source = "".join(p.read_text() for p in (ROOT / "weavejax").rglob("*.py"))
    for name in set(re.findall(FAMILIES, text)):
        known_here = f'"{name}"' in source if name.startswith("WEAVEJAX_") else False
        assert known_here or name in KNOWN_ENVIRONMENT, name
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for names in re.findall(r"['\"]\.\[([\w,]+)\]", text):
        assert set(names.split(",")) <= set(extras), names


@pytest.mark.parametrize("path", STARTERS, ids=lambda p: p.name)
def test_the_same_settings_everywhere(path):
    text = path.read_text()
    for knob in ("CONFIG", "WORKDIR"):
        assert re.search(rf"\$\{{?{knob}\b", text), f"{path.name} does not use {knob}"
    assert "--config=" in text
    assert "--workdir=" in text
    assert '"$@"' in text or "FLAGS" in text, "no way to give further flags"


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda p: p.name)
def test_every_setting_has_its_reason_and_only_measured_ones_are_on(path):
    above = ""
    settings = 0
    for line in path.read_text().splitlines():
        match = re.fullmatch(r"(#?)([A-Z][A-Z_]+)=(\S+)", line)
        if match is None:
            assert line == "" or line.startswith("# "), line
            above = line
            continue
        settings += 1
        assert above.startswith("# "), f"{line} has no reason"
        assert match[2] in KNOWN_ENVIRONMENT, line
        if not match[1]:
            assert re.search(r"\d.*→.*\d.*\(20\d\d-\d\d\)", above), f"{line} is on, unmeasured"
        above = ""
    assert settings
    command = f"set -a; . {path}; env"
    found = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=True)
    for line in path.read_text().splitlines():
        if re.match(r"[A-Z]", line):
            assert line in found.stdout.splitlines()


@pytest.mark.parametrize("path", JOBSETS, ids=lambda p: p.name)
def test_jobsets_restart_as_they_should(path):
    manifest = yaml.safe_load(path.read_text())
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert manifest["kind"] == "JobSet"
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    mistake, preempted = policy["rules"]  # in this order: the first that matches counts
    assert mistake["action"] == "FailJobSet"
    message = (
        "Container train for pod a/b failed with exit code {} matching FailJob rule at index 0"
    )
    (pattern,) = mistake["onJobFailureMessagePatterns"]
    assert re.search(pattern, message.format(2))
    assert not any(re.search(pattern, message.format(code)) for code in (75, 12, 22, 1))
    assert preempted["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert "onJobFailureMessagePatterns" not in preempted

    (job,) = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["completions"] == spec["parallelism"]
    assert spec["backoffLimit"] == 0
    exits, disruption = spec["podFailurePolicy"]["rules"]
    assert exits["onExitCodes"]["values"] == [2, 75]
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 300
    assert pod["hostNetwork"] is True
    assert pod["dnsPolicy"] == "ClusterFirstWithHostNet"
    (container,) = pod["containers"]
    assert container["name"] == exits["onExitCodes"]["containerName"]
    assert container["image"] == "${IMAGE}"
    (command,) = container["args"]
    assert re.search(r"; exec python -m weavejax\.train [^;|&]*$", command)
    assert container["resources"]["limits"].keys() <= {"google.com/tpu", "nvidia.com/gpu"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert mounts["memory"] == "/dev/shm"
    assert volumes["memory"]["emptyDir"] == {"medium": "Memory"}


def test_the_gpu_jobset_tells_every_process_its_place():
    manifest = yaml.safe_load((LAUNCH / "gke_gpu.jobset.yaml").read_text())
    (job,) = manifest["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    environment = {row["name"]: row["value"] for row in container["env"]}
    name = manifest["metadata"]["name"]
    host, port = environment["WEAVEJAX_COORDINATOR"].split(":")
    assert host == f"{name}-{job['name']}-0-0.{name}"  # as JobSet names the first pod
    assert 1024 < int(port) < 65536
    assert environment["WEAVEJAX_PROCESSES"] == str(job["template"]["spec"]["completions"])
    assert "WEAVEJAX_PROCESS=$JOB_COMPLETION_INDEX" in container["args"][0]


def test_the_tpu_jobset_fills_its_topology():
    manifest = yaml.safe_load((LAUNCH / "gke_tpu.jobset.yaml").read_text())
    annotations = manifest["metadata"]["annotations"]
    assert "alpha.jobset.sigs.k8s.io/exclusive-topology" in annotations
    (job,) = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    side, other = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert spec["completions"] * chips == int(side) * int(other)


def test_skypilot_leaves_preemption_to_skypilot_and_crashes_to_again():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert set(task) == {"name", "num_nodes", "workdir", "resources", "envs", "setup", "run"}
    assert task["resources"]["job_recovery"] == {
        "recover_on_exit_codes": [75],
        "max_restarts_on_errors": 0,
    }
    assert set(task["envs"]) == {"CONFIG", "WORKDIR", "FLAGS"}
    script = (
        f"cd {ROOT}; export WORKDIR=gs://b/x SKYPILOT_NODE_IPS=$'10.0.0.1\\n10.0.0.2'\n"
        "export SKYPILOT_NUM_NODES=2 SKYPILOT_NODE_RANK=1 CONFIG=c FLAGS='--a --b'\n"
        'exec() { env | grep -E "^WEAVEJAX|^FINAL"; echo "$@"; }\n' + task["run"]
    )
    printed = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True)
    lines = printed.stdout.splitlines()
    assert {
        "WEAVEJAX_COORDINATOR=10.0.0.1:8476",
        "WEAVEJAX_PROCESSES=2",
        "WEAVEJAX_PROCESS=1",
        "FINAL=0 2 75 130 143",
    } <= set(lines)
    assert lines[-1].endswith("-m weavejax.train --config=c --workdir=gs://b/x --a --b")


def test_slurm_asks_for_signals_that_reach_the_tasks():
    text = (LAUNCH / "slurm.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)", text, re.M))
    name, seconds = options["signal"].split("@")
    assert name == "TERM"  # "B:TERM" would reach the batch script alone
    assert int(seconds) >= 300
    assert options["open-mode"] == "append"
    assert "requeue" in options
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert text.index("#SBATCH --open-mode") < text.index("\nset ")  # later ones are not read
