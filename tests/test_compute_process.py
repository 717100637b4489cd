"""Real compute processes, killed and abused in every way user code can think of."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import standin_trainer
import trio
import trio.testing
from standin_trainer import Behavior

from quidnunc.crypto.errors import ConfigError, LocalProtocolError
from quidnunc.gossip.jobs import Described, DescribeJob, Evaluated, EvaluateJob, JobFailed, Trained, TrainJob
from quidnunc.peer import compute
from quidnunc.peer.blobs import FileBlobs
from quidnunc.peer.child import Death
from quidnunc.peer.compute import ComputeProcess
from quidnunc.peer.pipe import Setup
from quidnunc.peer.task_loader import load_task

STAND_IN = (sys.executable, str(Path(standin_trainer.__file__)))


@pytest.fixture(autouse=True)
def _fast_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "BACKOFF_FIRST_S", 0.01)


def job(behavior: Behavior) -> EvaluateJob:
    return EvaluateJob(int(behavior), b"s" * 32)


def process(task: str = "plain", stall_s: float = 20.0, start_s: float = 60.0, **fields: object) -> ComputeProcess:
    setup = Setup(task=task, blobs="/nonexistent", **fields)  # type: ignore[arg-type]
    return ComputeProcess(setup, stall_s=stall_s, start_s=start_s, command=STAND_IN)


async def good(child: ComputeProcess) -> Evaluated:
    result = await child.run(job(Behavior.GOOD))
    assert isinstance(result, Evaluated), result
    return result


async def appears(path: Path) -> None:
    while not path.exists() or not path.read_text():
        await trio.sleep(0.01)


async def gone(pid: int) -> None:
    """Until a process has ended; a zombie nobody reaped has."""
    stat = Path(f"/proc/{pid}/stat")
    while stat.exists() and stat.read_text().rsplit(") ", 1)[1][0] != "Z":
        await trio.sleep(0.01)


@pytest.mark.trio
async def test_jobs_are_answered_by_one_process() -> None:
    async with process() as child:
        first, second = await good(child), await good(child)
        assert first.accuracy == second.accuracy == child.pid
        assert (first.loss, second.loss) == (0.0, 1.0)
        assert child.restarts == 0
        pid = child.pid
    assert child.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.trio
async def test_concurrent_callers_are_served_one_at_a_time() -> None:
    async with process() as child:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(good, child)
        assert (await good(child)).loss == 5.0
        assert child.restarts == 0


@pytest.mark.trio
async def test_a_kill_in_mid_job_fails_that_job_and_no_other(tmp_path: Path) -> None:
    running = tmp_path / "running"
    async with process(path=str(running)) as child:
        results: list[object] = []

        async def hang() -> None:
            results.append(await child.run(job(Behavior.HANG)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang)
            await appears(running)
            os.kill(int(running.read_text()), signal.SIGKILL)
        (failure,) = results
        assert isinstance(failure, JobFailed)
        assert failure.job == "EvaluateJob"
        assert "SIGKILL" in failure.why
        await good(child)
        assert child.restarts == 1


@pytest.mark.trio
async def test_a_kill_between_jobs_fails_no_job() -> None:
    async with process() as child:
        before = await good(child)
        os.kill(int(before.accuracy), signal.SIGKILL)
        while child.pid is not None:
            await trio.sleep(0.01)
        after = await good(child)
        assert after.accuracy != before.accuracy
        assert child.restarts == 1


@pytest.mark.trio
async def test_a_hang_is_ended_after_stall_s(tmp_path: Path) -> None:
    running = tmp_path / "running"
    async with process(path=str(running), stall_s=1.0) as child:
        failure = await child.run(job(Behavior.HANG))
        assert isinstance(failure, JobFailed)
        assert failure.why == "the compute process made no progress for 1 s (training.stall_s)"
        await gone(int(running.read_text()))
        await good(child)


@pytest.mark.trio
async def test_steps_of_a_long_job_count_as_progress() -> None:
    async with process(stall_s=2.0) as child:
        assert isinstance(await child.run(job(Behavior.SLOW_STEPS)), Evaluated)


@pytest.mark.trio
@pytest.mark.parametrize(
    ("behavior", "why", "restarts"),
    [
        (Behavior.RAISE, "ZeroDivisionError: user code divided by nothing (standin_trainer.py:", 0),
        (Behavior.SYS_EXIT, "SystemExit: leaving", 0),
        (Behavior.WRONG_TYPE, "a str does not travel on this pipe", 0),
        (Behavior.LONG_ERROR, "ValueError: xxxx", 0),
        (Behavior.UGLY_ERROR, "ValueError:   [2J second line", 0),
        (Behavior.OS_EXIT, "the compute process exited with status 7", 1),
        (Behavior.SEGFAULT, "the compute process was killed by SIGSEGV", 1),
        (Behavior.FORK_AND_DIE, "the compute process was killed by SIGKILL, perhaps for want of memory", 1),
    ],
)
async def test_what_user_code_does_wrong_fails_its_job_with_the_reason(
    behavior: Behavior, why: str, restarts: int
) -> None:
    async with process() as child:
        failure = await child.run(job(behavior))
        assert isinstance(failure, JobFailed)
        assert failure.why.startswith(why)
        assert len(failure.why) <= 500
        await good(child)
        assert child.restarts == restarts
        trouble = child.trouble(100.0)
        assert trouble is not None
        assert trouble.at <= 100.0
        assert trouble.death == (Death.RAISED if not restarts else Death.ENDED if "status" in why else Death.KILLED)
        assert child.died == restarts


@pytest.mark.trio
async def test_what_user_code_prints_reaches_stderr_and_not_the_pipe(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with process() as child:
        assert isinstance(await child.run(job(Behavior.PRINT)), Evaluated)
        await good(child)
        assert child.restarts == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "printed by user code" in err
    assert "written to descriptor 1" in err
    assert "printed by a child of user code" in err


@pytest.mark.trio
async def test_a_loss_that_is_not_a_number_is_an_answer_like_any_other() -> None:
    async with process() as child:
        result = await child.run(job(Behavior.NAN))
        assert isinstance(result, Evaluated)
        assert math.isnan(result.loss)


@pytest.mark.trio
async def test_user_code_cannot_eat_jobs_from_stdin() -> None:
    async with process() as child:
        result = await child.run(job(Behavior.READ_STDIN))
        assert isinstance(result, Evaluated)
        assert result.loss == 0.0
        await good(child)


@pytest.mark.trio
async def test_allocating_over_the_limit_fails_the_job() -> None:
    async with process(memory_bytes=512 * 1024 * 1024) as child:
        failure = await child.run(job(Behavior.ALLOCATE))
        assert isinstance(failure, JobFailed)
        assert failure.why.startswith("MemoryError")
        assert failure.exhausted
        await good(child)
        assert child.restarts == 1, "its heap is not to be trusted any more"
        trouble = child.trouble(100.0)
        assert trouble is not None
        assert (trouble.death, trouble.count) == (Death.MEMORY, 1)


@pytest.mark.trio
async def test_cancelling_a_job_kills_its_process(tmp_path: Path) -> None:
    running = tmp_path / "running"
    async with process(path=str(running)) as child:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.run, job(Behavior.HANG))
            await appears(running)
            nursery.cancel_scope.cancel()
        await gone(int(running.read_text()))
        await good(child)


@pytest.mark.trio
async def test_programs_of_user_code_inherit_no_pipe() -> None:
    async with process() as child:
        result = await child.run(job(Behavior.DESCRIPTORS))
        assert isinstance(result, Evaluated)
        assert result.loss == 0.0


@pytest.mark.trio
async def test_every_start_gets_noise_of_its_own() -> None:
    keys = set()
    async with process() as child:
        for _ in range(3):
            result = await child.run(job(Behavior.NOISE))
            assert isinstance(result, Evaluated)
            keys.add(result.loss)
            await child.run(job(Behavior.OS_EXIT))
    assert len(keys) == 3


@pytest.mark.trio
async def test_a_noise_seed_repeats_between_runs_but_not_between_starts() -> None:
    runs = []
    for _ in range(2):
        keys = []
        async with ComputeProcess(Setup("plain", ""), noise_seed=b"seed", command=STAND_IN) as child:
            for _ in range(2):
                result = await child.run(job(Behavior.NOISE))
                assert isinstance(result, Evaluated)
                keys.append(result.loss)
                await child.run(job(Behavior.OS_EXIT))
        runs.append(keys)
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("raise", "FileNotFoundError: no such table: patients.csv"),
        ("exit", "exited with status 3 before it was ready"),
        ("hang", "made no progress for 1 s"),
    ],
)
async def test_a_task_that_cannot_be_loaded_is_a_configuration_error(task: str, message: str) -> None:
    child = process(task, start_s=1.0 if task == "hang" else 60.0)
    with pytest.raises(ConfigError, match=message):
        await child.start()
    failure = await child.run(job(Behavior.GOOD))
    assert isinstance(failure, JobFailed)
    assert message.split(" before")[0] in failure.why
    await child.stop()


@pytest.mark.trio
async def test_restarts_wait_longer_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "BACKOFF_FIRST_S", 0.5)
    waits: list[float] = []

    async def sleep_until(deadline: float) -> None:
        waits.append(max(0.0, round(deadline - trio.current_time(), 1)))

    monkeypatch.setattr(trio, "sleep_until", sleep_until)
    child = ComputeProcess(Setup("plain", ""), command=(sys.executable, "-S", "-c", ""))
    for _ in range(10):
        assert isinstance(await child.run(job(Behavior.GOOD)), JobFailed)
    assert waits == [0, 0.5, 1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.trio
async def test_a_good_job_forgives_the_crashes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep_until(deadline: float) -> None:
        waits.append(deadline)

    monkeypatch.setattr(trio, "sleep_until", sleep_until)
    monkeypatch.setattr(compute, "BACKOFF_FIRST_S", 1000.0)
    monkeypatch.setattr(compute, "BACKOFF_MAX_S", 1e9)
    async with process() as child:
        for _ in range(3):
            await child.run(job(Behavior.OS_EXIT))
            await good(child)
    assert all(wait - trio.current_time() < 1500 for wait in waits)


@pytest.mark.trio
async def test_a_process_that_writes_garbage_is_given_up() -> None:
    garbage = "import os, time; os.write(1, b'\\xff' * 64); time.sleep(3600)"
    child = ComputeProcess(Setup("plain", ""), command=(sys.executable, "-c", garbage))
    with pytest.raises(ConfigError, match="wrote garbage: pipe frame of 4294967295 bytes"):
        await child.start()
    assert child.pid is None


@pytest.mark.trio
async def test_a_job_with_a_wrong_field_is_our_bug_and_costs_no_process() -> None:
    async with process() as child:
        with pytest.raises(LocalProtocolError):
            await child.run(EvaluateJob("one", b""))  # type: ignore[arg-type]
        await good(child)
        assert child.restarts == 0


@pytest.mark.trio
async def test_the_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    running = tmp_path / "running"
    parent = textwrap.dedent(f"""
        import sys, trio
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_compute_process import Behavior, job, process
        async def main():
            await process(path={str(running)!r}).run(job(Behavior.HANG))
        trio.run(main)
    """)
    with subprocess.Popen([sys.executable, "-c", parent]) as daemon:
        await appears(running)
        daemon.kill()
    await gone(int(running.read_text()))


DAEMON = """
import sys, tempfile, trio
from quidnunc.gossip.jobs import DescribeJob, Described
from quidnunc.peer.child import Death
from quidnunc.peer.compute import ComputeProcess
from quidnunc.peer.pipe import Setup
async def main():
    with tempfile.TemporaryDirectory() as blobs:
        async with ComputeProcess(Setup("digits", blobs)) as child:
            assert isinstance(await child.run(DescribeJob()), Described)
trio.run(main)
import quidnunc.peer.trainer
sys.exit("torch" in sys.modules)
"""


def test_the_parent_never_imports_torch_even_while_its_child_uses_it() -> None:
    assert subprocess.run([sys.executable, "-c", DAEMON], check=False).returncode == 0


PRIVATE = """
import sys
from quidnunc.gossip.jobs import DescribeJob, PrivacyStep, TrainJob, Trained
from quidnunc.peer.pipe import Setup
from quidnunc.peer.trainer import build_compute
computer = build_compute(Setup("digits", sys.argv[1], peers=4, noise_key=b"k" * 32))
genesis = computer.handle(DescribeJob()).genesis
before = computer.progress
trained = computer.handle(TrainJob(1, 1, genesis, genesis, True, 1.0, PrivacyStep(1.0, 1.0)))
assert isinstance(trained, Trained), trained
assert computer.progress > before
sys.exit("torch._dynamo" in sys.modules)
"""


def test_a_private_step_of_a_built_in_task_uses_the_known_gradient_of_its_loss(tmp_path: Path) -> None:
    """Regression: counting steps hid the loss, so that daemons differentiated it by tracing, which loads a compiler."""
    (tmp_path / "blobs").mkdir()
    done = subprocess.run([sys.executable, "-c", PRIVATE, str(tmp_path / "blobs")], check=False)
    assert done.returncode == 0


USER_TASK = """
import time
import torch
from quidnunc.gossip.task import Task

def build(site):
    print("building with", dict(site.options))
    x = torch.linspace(-1, 1, 64).reshape(64, 1)
    y = (x[:, 0] > 0).long()
    def loss(outputs, targets):
        time.sleep(float(site.options.get("sleep", 0)))
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
    return Task(lambda: torch.nn.Linear(1, 2), loss, (x, y), (x, y), (x, y))

def broken(site):
    return {"rows": 7}
"""


def user_setup(directory: Path, task: str = "ward_d:build", **fields: object) -> Setup:
    (directory / "ward_d.py").write_text(USER_TASK)
    return Setup(task, str(directory / "blobs"), local_steps=8, learning_rate=0.5, **fields)  # type: ignore[arg-type]


@pytest.mark.trio
async def test_a_users_own_model_is_trained_and_the_blobs_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blobs = FileBlobs(tmp_path / "blobs")
    async with ComputeProcess(user_setup(tmp_path, options={"fold": 3}), noise_seed=b"seed") as child:
        described = await child.run(DescribeJob())
        assert isinstance(described, Described), described
        assert (described.dim, described.examples) == (4, 64)
        genesis = described.genesis
        assert len(blobs.get(genesis) or b"") == 16
        trained = await child.run(TrainJob(1, 1, genesis, genesis, True, 1.0, None))
        assert isinstance(trained, Trained), trained
        assert blobs.get(trained.delta)
        before = await child.run(EvaluateJob(0, genesis))
        after = await child.run(EvaluateJob(1, trained.result))
        assert isinstance(before, Evaluated)
        assert isinstance(after, Evaluated)
        assert after.loss < before.loss
        missing = await child.run(EvaluateJob(1, b"m" * 32))
        assert isinstance(missing, JobFailed)
        assert missing.missing == b"m" * 32
        assert child.restarts == 0
    assert "building with {'fold': 3}" in capfd.readouterr().err


@pytest.mark.trio
async def test_local_steps_of_a_users_model_count_as_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    setup = user_setup(tmp_path, options={"sleep": 0.6}, beat_s=0.1)
    async with ComputeProcess(setup, stall_s=3.0) as child:
        described = await child.run(DescribeJob())
        assert isinstance(described, Described), described
        job = TrainJob(1, 1, described.genesis, described.genesis, True, 1.0, None)
        assert isinstance(await child.run(job), Trained)


@pytest.mark.trio
async def test_a_function_that_returns_no_task_fails_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with ComputeProcess(user_setup(tmp_path, "ward_d:broken")) as child:
        failure = await child.run(DescribeJob())
        assert isinstance(failure, JobFailed)
        assert "returned dict, must return" in failure.why


@pytest.mark.trio
async def test_a_built_in_task_that_does_not_exist_is_named_with_those_that_do() -> None:
    child = ComputeProcess(Setup("digitz", ""))
    with pytest.raises(ConfigError, match="no built-in task 'digitz'; there are: breast-cancer, csv, digits"):
        await child.start()


WriteModule = Callable[[str, str], object]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return lambda name, text: (tmp_path / f"{name}.py").write_text(text)


def test_a_task_is_found_in_the_current_directory(write_module: WriteModule) -> None:
    write_module("ward_a", "def build(site):\n    return site\nclass Sites:\n    north = build\n")
    assert load_task("ward_a:build")(7) == 7  # type: ignore[arg-type, comparison-overlap]
    assert load_task("ward_a:Sites.north") is load_task("ward_a:build")


def test_a_file_in_the_current_directory_cannot_replace_an_installed_module(
    write_module: WriteModule,
) -> None:
    write_module("textwrap", "def build(site): ...")
    with pytest.raises(ConfigError, match=r"'build' is not there in .*/textwrap\.py"):
        load_task("textwrap:build")


@pytest.mark.parametrize(
    ("reference", "message", "hint"),
    [
        ("ward_b:biuld", "'biuld' is not there in", "did you mean ward_b:build?"),
        ("ward_b:zzz", "'zzz' is not there in", "callable there: build"),
        ("ward_b:rows", "'rows' is not callable in", "callable there: build"),
        ("ward_b:", "'' is not there in", "callable there: build"),
        ("nowhere_at_all:build", "no module 'nowhere_at_all'", "install it"),
        ("ward_b.inner:build", "no module 'ward_b.inner'", "install it"),
        ("ward_c:build", "ward_c needs 'no_such_dependency', which is not installed", ""),
        (":build", "not of the form package.module:function", ""),
        ("..:build", "not of the form package.module:function", ""),
    ],
)
def test_a_wrong_task_reference_says_what_is_wrong(
    write_module: WriteModule, reference: str, message: str, hint: str
) -> None:
    write_module("ward_b", "rows = 7\ndef build(site): ...\n")
    write_module("ward_c", "import no_such_dependency\n")
    with pytest.raises(ConfigError) as caught:
        load_task(reference)
    assert message in caught.value.message
    assert hint in caught.value.hint
