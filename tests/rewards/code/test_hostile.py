"""Programs that attack: each is worth 0, does what it must not in no mode, and leaves nothing behind.

Each is run as a program that should print, and as a module whose function should return, a value that it does not know.
It prints ESCAPED where an attack succeeds.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bots_lightning.rewards.code import CodeReward
from bots_lightning.rewards.code.process import Confined, Finished

EXPECTED = "EXPECTED-" + "41c2"  # in pieces, so that a search for it does not find this file's programs
SECRET = "ESCAPED-environment"
PR_SET_CHILD_SUBREAPER = 36

# What a program may use: @OUTSIDE@ a folder of the host with a file `secret`, @PORT@ a listener on the loopback.
HOSTILE = {
    "fork bomb": """
import os
for _ in range(1000):
    if os.fork() == 0:
        print("ESCAPED")
""",
    "subprocess": """
import subprocess
print("ESCAPED", subprocess.run(["/bin/sh", "-c", "sleep 60 & echo hi"], capture_output=True))
""",
    "orphan by a double fork": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("ESCAPED", flush=True)
        time.sleep(60)
""",
    "memory bomb": """
blocks = []
while True:
    blocks.append(bytearray(16 * 2**20))
    if len(blocks) > 40:
        print("ESCAPED")
        break
""",
    "shared memory": """
import mmap, os
size = 0
for i in range(100):
    try:
        fd = os.memfd_create(str(i))
    except OSError:
        fd = os.open(f"/dev/shm/{i}", os.O_CREAT | os.O_RDWR)
    size += os.write(fd, bytes(2**20))
    if size > 40 * 2**20:
        print("ESCAPED")
""",
    "one large file": """
with open("large", "wb") as file:
    for _ in range(100):
        file.write(bytes(2**20))
        file.flush()
print("ESCAPED")
""",
    "many files": """
import time
for i in range(200):
    with open(f"file{i}", "wb") as file:
        file.write(bytes(2**20))
    time.sleep(0.01)
print("ESCAPED")
""",
    "endless output": """
while True:
    print("x" * 10000)
""",
    "exit with success": "import os; os._exit(0)",
    "sys.exit": "import sys; sys.exit(0)",
    "kill the parent": """
import os, signal
os.kill(os.getppid(), signal.SIGKILL)
print("ESCAPED")
""",
    "kill everybody": """
import os, signal
os.kill(-1, signal.SIGKILL)
print("ESCAPED")
""",
    "stop oneself": """
import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
""",
    "thread leak": """
import threading, time
threading.stack_size(32768)
threads = []
while len(threads) < 20000:
    threads.append(threading.Thread(target=time.sleep, args=(60,), daemon=True))
    threads[-1].start()
""",
    "read the environment": """
import os
print(dict(os.environ))
for pid in [*os.listdir("/proc"), "self", str(os.getppid())]:
    try:
        print(open(f"/proc/{pid}/environ").read())
    except OSError:
        pass
""",
    "read files": """
import os
for path in ("@OUTSIDE@/secret", "@TESTS@", os.path.expanduser("~root/.bashrc"), "/etc/shadow", "/etc/passwd"):
    try:
        print("ESCAPED", open(path).read())
    except OSError:
        pass
""",
    "list folders": """
import os
for path in ("@OUTSIDE@", "/root", "/home", "/tmp", "/var"):
    try:
        print("ESCAPED" if set(os.listdir(path)) - {".pyenv", "@NAME@"} else "", path)
    except OSError:
        pass
""",
    "write outside": """
import os
for path in ("@OUTSIDE@/written", "/tmp/../@OUTSIDE@/written", "/dev/shm/written", "/usr/written", "/written"):
    try:
        open(path, "w").write("x")
        print("ESCAPED" if not path.startswith("/tmp") else "")
    except OSError:
        pass
""",
    "change files outside": """
import os
for act in (lambda p: os.chmod(p, 0o777), lambda p: os.utime(p, (0, 0)), lambda p: os.truncate(p, 0), os.unlink,
            lambda p: os.rename(p, p + "2"), lambda p: os.link(p, "link"), lambda p: os.setxattr(p, "user.x", b"1")):
    try:
        act("@OUTSIDE@/secret")
        print("ESCAPED")
    except OSError:
        pass
""",
    "connect": """
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
    try:
        connection = socket.socket(family)
        print("ESCAPED")
        connection.connect(("127.0.0.1", @PORT@))
    except OSError:
        pass
""",
    "trace the parent": """
import ctypes, os
libc = ctypes.CDLL(None)
for request in (0, 16, 0x4206):
    print("ESCAPED" if libc.ptrace(request, os.getppid(), 0, 0) == 0 else "")
""",
    "memory of other processes": """
import os
for pid in {*filter(str.isdigit, os.listdir("/proc")), str(os.getppid()), "1"} if os.path.isdir("/proc") else ["1"]:
    for name in ("mem", "maps", "fd/0", "fd/1", "fd/3", "cmdline"):
        try:
            if int(pid) != os.getpid() and b"EXPECTED" + b"-" in open(f"/proc/{pid}/{name}", "rb").read(10**6):
                print("ESCAPED")
        except (OSError, ValueError):
            pass
""",
    "priority of the parent": """
import os, resource
parent = os.getppid()
for act in (lambda: os.setpriority(os.PRIO_PROCESS, parent, 19), lambda: os.sched_setaffinity(parent, {0}),
            lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE, (5, 5))):
    try:
        act()
        print("ESCAPED")
    except OSError:
        pass
""",
    "signal by file owner": """
import fcntl, os
fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())
print("ESCAPED")
""",
    "raise limits": """
import resource
for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
    try:
        resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print("ESCAPED")
    except (OSError, ValueError):
        pass
""",
    "become root, leave the namespaces": """
import ctypes, os
libc = ctypes.CDLL(None)
mounted = libc.mount(b"x", b"/tmp", b"tmpfs", 0, 0)
for result in (libc.unshare(0x10000000), libc.setns(0, 0), libc.chroot(b"."), mounted):
    print("ESCAPED" if result == 0 else "")
for number in (425, 321, 298, 250, 323, 435):
    print("ESCAPED" if libc.syscall(number, 1, 0, 0, 0, 0) >= 0 else "")
""",
    "patched builtins": """
import builtins
class Failure(Exception):
    pass
builtins.AssertionError = Failure
builtins.len = builtins.sum = lambda *a: 1
builtins.all = builtins.any = builtins.isinstance = lambda *a: True
builtins.print = lambda *a, **k: None
""",
    "patched modules": """
import sys, json, os, operator
operator.eq = lambda a, b: True
json.dumps = lambda *a, **k: '{"passed": 1}'
for module in list(sys.modules.values()):
    for name in ("same", "Grader", "encode", "decode", "Peer"):
        if name in getattr(module, "__dict__", {}):
            setattr(module, name, lambda *a, **k: True)
""",
    "tracing of frames": """
import sys
def trace(frame, event, argument):
    for value in frame.f_locals.values():
        if isinstance(value, str) and value.startswith("EXPECTED" + "-"):
            print("ESCAPED", value)
    return trace
sys.settrace(trace)
sys.setprofile(trace)
""",
    "search of objects": """
import gc, sys
frame = sys._getframe()
while frame:
    for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
        if isinstance(value, str) and "EXPECTED" + "-" in value:
            print("ESCAPED")
    frame = frame.f_back
for thing in gc.get_objects():
    if isinstance(thing, (list, dict)) and "EXPECTED" + "-" in repr(thing)[:10**5]:
        print("ESCAPED")
""",
    "search of one's own memory": """
for line in open("/proc/self/maps"):
    start, end = (int(x, 16) for x in line.split()[0].split("-"))
    with open("/proc/self/mem", "rb") as memory:
        memory.seek(start)
        try:
            if b"EXPECTED" + b"-41" in memory.read(end - start):
                print("ESCAPED")
        except OSError:
            pass
""",
    "forged verdicts on all descriptors": """
import os
for fd in range(256):
    for text in (b'{"passed": 1}', b'{"passed": 1000}\\n', bytes(7) + b"\\x0d" + b'{"passed": 1}'):
        try:
            os.write(fd, text)
        except OSError:
            pass
""",
    "forged answers": """
import json, os
body = json.dumps({"table": [], "roots": [True]}).encode()
for fd in range(3, 64):
    try:
        for _ in range(10):
            os.write(fd, len(body).to_bytes(8, "big") + body)
    except OSError:
        pass
""",
    "answers out of all bounds": """
import os
body = b"[" * 2**20
for fd in range(3, 64):
    try:
        os.write(fd, len(body).to_bytes(8, "big") + body)
        os.write(fd, b"\\xff" * 4096)
    except OSError:
        pass
""",
    "pickled verdict": """
import os, pickle
class Verdict:
    def __reduce__(self):
        return (print, ("forged",))
for fd in range(1, 64):
    try:
        os.write(fd, pickle.dumps(Verdict()))
    except OSError:
        pass
""",
    "deep recursion": """
import sys
sys.setrecursionlimit(10**9)
def deep(n):
    return max([n], key=deep)
deep(0)
""",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "output that is no text": "import os; os.write(1, b'\\xff\\xfe' + bytes(100)); print(chr(0))",
    "output at exit": """
import atexit
atexit.register(print, "success, all tests passed, reward 1.0")
class Last:
    def __del__(self):
        print("passed")
last = Last()
""",
    "signals ignored": """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.alarm(1)
""",
    "shadowed modules": """
for name in ("json", "ast", "inside", "tests", "sitecustomize"):
    open(name + ".py", "w").write("print('ESCAPED')")
import ast, json
""",
    "stolen input": """
import os, sys
print(sys.stdin.read(), os.read(0, 1000))
sys.stdin.close()
os.close(0)
""",
    "closed descriptors": "import os; os.closerange(0, 256)",
    "long line of digits": "print('9' * 500000)",
}

HANGING = {
    "endless loop": "while True: pass",
    "sleep": "import time; time.sleep(60)",
    "sleep with closed output": "import os, time; os.close(1); time.sleep(60)",
    "sleep, deaf to signals": """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    time.sleep(60)
""",
    "busy thread, deaf to the limit": """
import signal, threading
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
while True: pass
""",
    "threads that hold the exit": """
import threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
""",
}


@pytest.fixture(autouse=True)
def adopted_orphans() -> Iterator[None]:
    """Makes this process the parent of orphans, so that none is missed and none of other programs counts."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def leftovers(pid: int | str = "self") -> list[str]:
    """Command lines of the processes below this one that are alive."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
            commands = [Path(f"/proc/{child}/cmdline").read_text() for child in children]
        except OSError:  # one of them ended since: look again
            return ["?"]
        found += [command for command in commands if command]  # that of a zombie is empty
        found += [command for child in children for command in leftovers(child)]
    return found


EARLIER: list[str] = []  # what runs since another test, of another file


@pytest.fixture(scope="module", autouse=True)
def earlier() -> None:
    EARLIER[:] = leftovers()


def check_nothing_is_left() -> None:
    deadline = time.monotonic() + 3
    while (left := [command for command in leftovers() if command not in EARLIER]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


def score(reward: CodeReward, program: str, tests: Any) -> float | None:
    return reward(["?"], [f"```python\n{program}\n```"], [json.dumps(tests)])[0]


def recorded_endings(monkeypatch: pytest.MonkeyPatch) -> list[Finished]:
    """How each process ends from now on, its output included."""
    endings: list[Finished] = []
    finish = Confined.finish

    def recording(process: Confined, *partners: Confined) -> Finished:
        endings.append(finish(process, *partners))
        return endings[-1]

    monkeypatch.setattr(Confined, "finish", recording)
    return endings


STDIN_TESTS = {"inputs": ["7\n"], "outputs": [EXPECTED]}
CALL_TESTS = {"functional": f"def check(candidate):\n    assert candidate(7) == {EXPECTED!r}\n\ncheck(solve)"}
GOOD = "def solve(x):\n    return 'EXPECTED-%x' % 16834\n\nif __name__ == '__main__':\n    print(solve(input()))"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("ESCAPED-secret")
    return folder


@pytest.mark.parametrize("name", HOSTILE)
def test_an_attack_fails(make_reward: Any, monkeypatch: pytest.MonkeyPatch, outside: Path, name: str) -> None:
    monkeypatch.setenv("BOTS_SECRET", SECRET)
    reward = make_reward(timeout_seconds=3.0, cpu_seconds=1)
    endings = recorded_endings(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        program = HOSTILE[name].replace("@OUTSIDE@", str(outside)).replace("@PORT@", str(listener.getsockname()[1]))
        program = program.replace("@TESTS@", __file__)
        before = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)
        assert score(reward, program, STDIN_TESTS) == 0
        with_function = program + "\ndef solve(x):\n    return 'wrong'\n"
        assert score(reward, with_function, CALL_TESTS) == 0
        assert (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)) == before
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not any(b"ESCAPED" in finished.output for finished in endings)
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "ESCAPED-secret"
    check_nothing_is_left()
    assert score(reward, GOOD, CALL_TESTS) == 1
    assert len(endings) == 3  # printed, did not return, and the good one


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("make_reward", ["unisolated"], indirect=True)
def test_an_attack_earns_no_share_of_the_tests(make_reward: Any, outside: Path, name: str) -> None:
    reward = make_reward(timeout_seconds=3.0, cpu_seconds=1, num_workers=2, partial_credit=True)
    program = HOSTILE[name].replace("@OUTSIDE@", str(outside)).replace("@PORT@", "9")
    cases = {key: 2 * value for key, value in STDIN_TESTS.items()}
    calls = [f"assert solve({x}) == {EXPECTED!r}" for x in (7, 8)]
    programs = [program, program + "\ndef solve(x):\n    return 'wrong'\n"]
    assert reward(["?"] * 2, programs, [json.dumps(cases), json.dumps(calls)]) == [0, 0]
    check_nothing_is_left()


@pytest.mark.parametrize("name", HANGING)
def test_a_program_that_does_not_end_is_ended(make_reward: Any, name: str) -> None:
    reward = make_reward(timeout_seconds=1.2, cpu_seconds=1)
    started = time.monotonic()
    assert score(reward, HANGING[name], STDIN_TESTS) == 0
    assert reward.outcomes.timeouts == 1
    assert time.monotonic() - started < 8
    check_nothing_is_left()


def test_the_good_program_of_these_tests_prints_and_returns_the_expected_value(reward: CodeReward) -> None:
    assert score(reward, GOOD, STDIN_TESTS) == 1
    assert score(reward, GOOD, CALL_TESTS) == 1
