"""Hostile programs get no further than honest ones, reach nothing, and leave nothing running.

Each runs under several sets of protections, so that those further back are tried too and
not only the first that refuses. Sets that this system does not allow are skipped, with the reason.
"""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hostile_programs import REACH, STDIN
from pipo_sandbox import Closed, Launcher, Limits, WireError, client, stdin_program
from pipo_sandbox.protections import PROTECTIONS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the protections are those of Linux")

ALWAYS = ("no new privileges", "resource limits", "process limit")
LAYERS: dict[str, tuple[str, ...]] = {
    "everything": tuple(PROTECTIONS),
    "namespaces": ("namespaces", "own user", *ALWAYS),
    "filter": ("own user", "system call filter", "file rules", *ALWAYS),
}
DECISIVE = {"everything": "namespaces", "namespaces": "namespaces", "filter": "system call filter"}
# It stands in the command line of the processes; no other test uses it, nor these in another pytest worker.
MEMORY_MB = 520 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
SLOTS = 12
PACKAGES = Path(sysconfig.get_paths()["purelib"])


def launcher_with(layer: str, monkeypatch: pytest.MonkeyPatch, hidden: Iterable[Path] = ()) -> Launcher:
    monkeypatch.setattr(client, "USE", LAYERS[layer])
    limits = Limits(cpu_s=2, memory_mb=MEMORY_MB, output_kb=256)
    launcher = Launcher(limits=limits, slots=SLOTS, hidden=[*hidden])
    if reason := launcher.report[DECISIVE[layer]]:
        launcher.close()
        pytest.skip(f"{DECISIVE[layer]}: {reason}")
    return launcher


@pytest.fixture(params=LAYERS)
def launcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    launcher = launcher_with(request.param, monkeypatch)
    yield launcher
    assert left_running() == 1, "only the launcher may be left"
    launcher.close()
    assert left_running() == 0


def left_running() -> int:
    """Processes forked from a launcher of this file, the launcher included."""
    found = 0
    for folder in Path("/proc").iterdir():
        try:
            found += folder.name.isdigit() and f'"memory_mb": {MEMORY_MB}' in (folder / "cmdline").read_text()
        except OSError:
            continue
    return found


def doubles(launcher: Launcher, source: str) -> bool:
    """Whether a program that is given a 7 prints 14 and comes to a normal end."""
    with stdin_program(launcher, source, wall_s=300.0) as program:  # on a busy machine too
        if program.problem:
            return False
        try:
            ended = program.run(b"7\n", seconds=1.0, wall_s=300.0, output_bytes=256 << 10)
        except (Closed, WireError):  # it has ended its sandbox
            return False
    return ended.status == 0 and ended.printed.strip() == b"14"


def all_double(launcher: Launcher, programs: Iterable[str]) -> list[bool]:
    with ThreadPoolExecutor(SLOTS) as pool:
        return list(pool.map(lambda source: doubles(launcher, source), programs))


def test_hostile_programs_get_no_further_than_honest_ones(launcher: Launcher) -> None:
    found = all_double(launcher, [program for program, _ in STDIN.values()])

    got = dict(zip(STDIN, found, strict=True))
    assert got == {name: got[name] if right is None else right for name, (_, right) in STDIN.items()}
    assert doubles(launcher, "print(int(input()) * 2)")


def test_programs_reach_nothing_outside(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, shared, secret = tmp_path / "home", tmp_path / "shared", tmp_path / "expected.json"
    home.mkdir()
    shared.mkdir()
    shared.chmod(0o777)
    tmp_path.chmod(0o755)
    secret.write_text("14")
    monkeypatch.setenv("PIPO_SECRET", "14")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        port = server.getsockname()[1]
        unix.bind(f"\0pipo-test-{port}")
        unix.listen()
        values = {"home": str(home), "shared": str(shared), "secret": str(secret), "port": port}
        values |= {"pid": os.getpid(), "uid": os.getuid()}
        programs = {name: text.format(**values) + "\nprint(14)" for name, text in REACH.items()}
        found = all_double(launcher, programs.values())
    reached = {name for name, did in zip(REACH, found, strict=True) if did}
    # By itself harmless: in a namespace of its own a program has rights over nothing but that.
    assert reached <= ({"new user namespace"} if launcher.report["system call filter"] else set())
    assert sorted(tmp_path.rglob("*")) == [secret, home, shared]


READS_ANY = """
for path in {paths!r}:
    try:
        open(path).read(1)
    except OSError:
        continue
    print(14)
    break
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_a_program_sees_packages_but_not_the_hidden_one_nor_who_runs_it(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = PACKAGES / "pluggy"  # stands for an installed package that grades
    module = str(hidden / "__init__.py")
    repository = Path(__file__).resolve().parents[2]  # holds the graders, the tests, this file
    folders = [repository / name for name in ("pipo", "tests", "sandbox/tests")]
    files = [str(path) for folder in folders for path in folder.rglob("*.py")]
    assert str(Path(__file__).resolve()) in files
    with launcher_with(layer, monkeypatch, hidden=[hidden]) as launcher:
        if launcher.report["namespaces"] and launcher.report["file rules"]:
            pytest.skip(f"file rules: {launcher.report['file rules']}")
        assert doubles(launcher, "import iniconfig\nprint(14)")  # its neighbour is there
        assert not doubles(launcher, READS_ANY.format(paths=[module]))
        assert not doubles(launcher, "from pluggy import HookspecMarker\nprint(14)")
        assert not doubles(launcher, READS_ANY.format(paths=files))
    with launcher_with(layer, monkeypatch) as launcher:  # so it was hidden by the option alone
        assert doubles(launcher, READS_ANY.format(paths=[module]))
