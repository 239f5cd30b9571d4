"""The doctor: each finding from what a machine says, and advice exactly where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipo.distributed.cgroup import cpu_quota, memory_limit
from pipo.doctor import __main__ as doctor
from pipo.doctor import gpus, machine, packages
from pipo.doctor.finding import Finding

# As nvidia-smi prints them: an H100, another in use or divided; and a GPU that shares the CPU's memory.
H100 = "0, NVIDIA H100 80GB HBM3, 580.95.05, 81559, 4, 9.0, Disabled"
IN_USE = "1, NVIDIA H100 80GB HBM3, 580.95.05, 81559, 40960, 9.0, Disabled"
DIVIDED = "1, NVIDIA H100 80GB HBM3, 580.95.05, 81559, 4, 9.0, Enabled"
SHARED = "0, NVIDIA GB10, 580.95.05, [N/A], [N/A], 12.1, [N/A]"
FOR_CUDA = gpus.TorchBuild(
    version="2.13.0",
    cuda="13.0",
    architectures=("sm_75", "sm_80", "sm_90", "sm_100", "sm_120", "compute_120"),
    count=2,
    problem=None,
    nccl="2.28.9",
    peers=True,
)
MOUNTS = """\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:25 / /dev/shm rw shared:2 - tmpfs tmpfs rw,size=65536k
41 22 0:52 / /shared/with\\040space rw,relatime shared:3 - nfs4 store:/export rw,vers=4.2
42 22 0:53 / /fast rw shared:4 - lustre 10.0.0.1@o2ib:/fast rw
"""


def changed(**changes) -> gpus.TorchBuild:
    return gpus.TorchBuild(**{**vars(FOR_CUDA), **changes})


def advice(findings: list[Finding]) -> dict[str, str]:
    return {each.name: each.advice for each in findings if each.advice is not None}


def test_every_part_is_reported_for_people_and_for_programs(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    doctor.main([str(tmp_path / "runs")])
    report = capsys.readouterr().out
    doctor.main(["--json", str(tmp_path / "runs")])
    findings = json.loads(capsys.readouterr().out)

    names = {(each["about"], each["name"]) for each in findings}
    assert {
        ("packages", "torch"),
        ("packages", "vllm"),
        ("GPUs", "driver"),
        ("cores and memory", "cores"),
        ("disks", "output"),
        ("programs under test", "sandbox"),
    } <= names
    for each in findings:
        assert each["name"] in report
    assert str(tmp_path / "runs") in report
    assert list(tmp_path.iterdir()) == []  # looking makes nothing


def test_two_whole_gpus_that_torch_can_use_need_no_advice():
    cards = gpus.parse_cards(f"{H100}\n{H100.replace('0,', '1,', 1)}\n")

    found = gpus.describe(cards, FOR_CUDA, {"NCCL_DEBUG": "WARN"})

    assert advice(found) == {}
    said = {each.name: each.found for each in found}
    assert said["driver"] == "580.95.05"
    assert said["GPU 1"] == "NVIDIA H100 80GB HBM3, 80 GiB, 80 GiB free"
    assert said["NCCL"] == "2.28.9, GPUs reach each other directly, NCCL_DEBUG=WARN"


@pytest.mark.parametrize(
    ("lines", "build", "environment", "name", "words"),
    [
        (f"{H100}\n{IN_USE}", {}, {}, "GPU 1", "40 GiB are taken by other programs"),
        (f"{H100}\n{DIVIDED}", {}, {}, "GPU 1", "NCCL needs whole GPUs"),
        (H100, {"architectures": ("sm_75", "sm_80")}, {}, "GPU 0", "no kernels for capability 9.0"),
        (
            H100,
            {"version": "2.13.0+cpu", "cuda": None, "count": 0, "nccl": None, "peers": None},
            {},
            "torch",
            "pip install --force-reinstall torch==2.13.0,",
        ),
        (H100, {"count": 0, "problem": "The driver is too old"}, {}, "torch", "too old; update the driver"),
        (f"{H100}\n{H100}", {"count": 1}, {"CUDA_VISIBLE_DEVICES": "0"}, "torch", "VISIBLE_DEVICES=0 hides"),
        (f"{H100}\n{H100}", {"peers": False}, {}, "NCCL", "goes through main memory"),
        (f"{H100}\n{H100}", {"nccl": None}, {}, "NCCL", "need NCCL between GPUs"),
    ],
)
def test_what_is_wrong_with_gpus_is_advised_on_where_it_is(lines, build, environment, name, words):
    found = gpus.describe(gpus.parse_cards(lines), changed(**build), environment)

    assert set(advice(found)) == {name}
    assert words in advice(found)[name]


def test_a_machine_without_gpus_needs_no_advice_and_a_broken_driver_does():
    on_cpu = changed(cuda=None, count=0, nccl=None, peers=None)
    assert advice(gpus.describe(None, on_cpu, {})) == {}
    broken = gpus.describe("Failed to initialize NVML: Driver/library version mismatch", on_cpu, {})
    assert set(advice(broken)) == {"driver"}


def test_code_to_compile_runs_on_newer_gpus_and_kernels_on_those_of_their_major_version():
    assert gpus.has_kernels((9, 0), ("sm_80", "sm_90"))
    assert gpus.has_kernels((8, 6), ("sm_80",))
    assert not gpus.has_kernels((8, 0), ("sm_86",))
    assert not gpus.has_kernels((9, 0), ("sm_80",))
    assert gpus.has_kernels((12, 1), ("sm_80", "compute_120"))
    (card,) = gpus.parse_cards(SHARED)
    assert (card.total_mib, card.capability) == (None, (12, 1))


def test_versions_outside_of_what_a_package_asks_for_are_named(tmp_path, monkeypatch):
    """Of distributions written for it: one asks for torch 1.0, and for a package that is not there."""
    folder = tmp_path / "asking-1.0.dist-info"
    folder.mkdir()
    lines = (
        "Requires-Dist: torch==1.0",
        "Requires-Dist: no-such-thing>=2",
        "Requires-Dist: numpy<1; extra == 'old'",
        "Requires-Dist: no-such-extra>=2; extra == 'old'",
        "Requires-Dist: mpmath>=1",
    )
    (folder / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", "Name: asking", "Version: 1.0", *lines])
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    wrong = packages.out_of_range("asking")

    assert set(wrong) == {"torch", "no-such-thing", "numpy"}
    assert wrong["torch"] == "pip install 'torch==1.0': asking asks for it"
    assert packages.out_of_range("not-installed-at-all") == {}
    found = packages.vllm(gpus=True, names=("asking",), module="sys")
    assert found.advice == wrong["torch"]


def test_vllm_is_tried_and_missed_only_where_there_are_gpus():
    assert packages.vllm(gpus=False, names=("no-such-thing",)).advice is None
    assert "pip install" in str(packages.vllm(gpus=True, names=("no-such-thing",)).advice)
    broken = packages.vllm(gpus=True, names=("pydantic",), module="pipo_no_such_module")
    assert "No module named 'pipo_no_such_module'" in broken.found
    assert broken.advice is not None
    assert packages.vllm(gpus=True, names=("pydantic",), module="sys").advice is None


def test_a_quota_below_the_machine_asks_for_fewer_threads():
    assert machine.cores(64, 64, None, None) == Finding(about="cores and memory", name="cores", found="64")
    limited = machine.cores(64, 4, 4.0, None)
    assert "4 of 64, a container's quota is 4" in limited.found
    assert "OMP_NUM_THREADS=4" in str(limited.advice)
    assert machine.cores(64, 4, 4.0, "4").advice is None


def test_memory_is_what_machine_and_container_leave():
    gib = 2**30
    assert machine.memory(256 * gib, 200 * gib, None).advice is None
    inside = machine.memory(256 * gib, 200 * gib, (16 * gib, 15 * gib))
    assert "may use 16.0 GiB, of which 15.0 GiB are taken" in inside.found
    assert inside.advice is not None


def test_file_systems_are_told_by_the_longest_mount():
    kinds = {
        path: machine.file_system(Path(path), MOUNTS)
        for path in ("/", "/home/me", "/dev/shm", "/shared/with space/runs", "/fast/a/b", "/fastest")
    }
    assert list(kinds.values()) == ["ext4", "ext4", "tmpfs", "nfs4", "lustre", "ext4"]
    assert machine.file_system(Path("/x"), "") is None


def test_places_without_room_or_over_a_network_are_advised_on(tmp_path, monkeypatch):
    over = f"1 0 0:1 / {tmp_path.resolve()} rw - nfs4 store:/x rw"
    there = machine.output_folder(tmp_path / "runs", over)
    assert "nfs4, over a network" in there.found
    assert "local output_dir=" in str(there.advice)
    assert "TMPDIR" in str(machine.temporary(tmp_path, over).advice)
    local = over.replace("nfs4", "xfs")
    assert machine.output_folder(tmp_path / "runs", local).advice is None
    (tmp_path / "file").touch()
    assert "is a file" in str(machine.output_folder(tmp_path / "file", local).advice)
    full = machine.shutil.disk_usage("/")._replace(free=64 * 2**20)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: full)
    assert "12 bytes" in str(machine.output_folder(tmp_path / "runs", local).advice)
    assert "--shm-size" in str(machine.shared_memory(tmp_path, local).advice)


def test_limits_of_control_groups_of_both_versions(tmp_path):
    """The tightest group above a process decides; the numbers are those that the files hold."""
    second = {
        "proc/self/cgroup": "0::/job/step\n",
        "sys/fs/cgroup/job/cpu.max": "250000 100000\n",
        "sys/fs/cgroup/job/step/cpu.max": "max 100000\n",
        "sys/fs/cgroup/job/memory.max": "4096\n",
        "sys/fs/cgroup/job/memory.current": "1024\n",
        "sys/fs/cgroup/job/step/memory.max": "max\n",
        "sys/fs/cgroup/job/step/memory.current": "1000\n",
    }
    # In a container the path is the host's, and the files lie at the root that is seen.
    first = {
        "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "8192\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "100\n",
    }
    free = {**first, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}
    free["sys/fs/cgroup/memory/memory.limit_in_bytes"] = "9223372036854771712\n"
    for name, files, quota, memory in (
        ("second", second, 2.5, (4096, 1024)),
        ("first", first, 1.5, (8192, 100)),
        ("free", free, None, None),
        ("none", {}, None, None),
    ):
        for file, text in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert cpu_quota(tmp_path / name) == quota
        assert memory_limit(tmp_path / name) == memory
