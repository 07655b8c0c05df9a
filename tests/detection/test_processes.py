"""Processes that could not start, or would wait forever, are refused before anything starts."""

import socket

import pytest
from torch.multiprocessing import ProcessExitedException

from svit_det.detection.processes import (
    check_processes,
    run_parser,
    run_processes,
    what_was_said,
)
from svit_det.errors import InputError


def arguments(*flags):
    return run_parser().parse_args([*map(str, flags), "--config-file", "x.yaml"])


def test_what_may_start():
    check_processes(arguments())
    check_processes(arguments("--num-gpus", 2))
    check_processes(arguments("--num-gpus", 2, "--dist-url", "auto"))
    check_processes(arguments("--dist-url", "whatever"))  # one process asks nobody
    check_processes(arguments("--num-machines", 2, "--dist-url", "tcp://127.0.0.1:0029301"))
    check_processes(arguments("--num-machines", 2, "--dist-url", "file:///tmp/meeting"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num-gpus", 0], "--num-gpus"),
        (["--num-gpus", -1, "--num-machines", -1], "--num-gpus"),
        (["--machine-rank", 1], "--machine-rank 1: the ranks of 1 machines are 0 to 0"),
        (["--num-machines", 2, "--machine-rank", 2], "--machine-rank 2: the ranks of 2 machines"),
        (["--num-machines", 2, "--machine-rank", -1], "--machine-rank -1"),
        (["--num-machines", 2, "--dist-url", "auto"], "--dist-url auto: several machines"),
        (["--num-gpus", 10_000], "--num-gpus 10000: "),
        (["--num-gpus", 2, "--dist-url", "file:///"], "file:///: is a folder or a device"),
        (["--num-gpus", 2, "--dist-url", "file:///dev/null"], "is a folder or a device"),
        (["--num-gpus", 2, "--dist-url", "file:///no/such/x"], "its folder is not there"),
        (["--num-gpus", 2, "--dist-url", "nonsense"], "'nonsense' is not auto, tcp://HOST:PORT"),
        (["--num-gpus", 2, "--dist-url", ""], "'' is not auto"),
        (["--num-gpus", 2, "--dist-url", "tcp://127.0.0.1"], "is not auto"),
        (["--num-gpus", 2, "--dist-url", "tcp://127.0.0.1:99999"], "is not auto"),
        (["--num-gpus", 2, "--dist-url", "tcp://127.0.0.1:port"], "is not auto"),
        (["--num-gpus", 2, "--dist-url", "http://127.0.0.1:80"], "is not auto"),
        (["--num-gpus", 2, "--dist-url", "tcp://no.such.host.invalid:8000"], "no machine 'no.such"),
        (["--num-gpus", 2, "--dist-url", f"tcp://{'h' * 300}:8000"], "no name that a machine"),
        (["--num-gpus", 2, "--dist-url", "tcp://192.0.2.1:8000"], "cannot be listened on"),
    ],
)
def test_what_may_not(flags, said):
    with pytest.raises(InputError) as refusal:
        check_processes(arguments(*flags))
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_port_that_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        url = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(InputError, match=r"cannot be listened on \(Address already in use\)"):
            check_processes(arguments("--num-gpus", 2, "--dist-url", url))
    check_processes(arguments("--num-gpus", 2, "--dist-url", url))


def test_a_file_that_a_killed_run_has_left(tmp_path):
    """On several machines it may be the file of the machine that came first."""
    url = f"file://{tmp_path}/meeting"
    alone = arguments("--num-gpus", 2, "--dist-url", url)
    check_processes(alone)
    (tmp_path / "meeting").touch()  # as from mktemp
    check_processes(alone)
    (tmp_path / "meeting").write_bytes(b"the address of a process that is gone")
    with pytest.raises(InputError) as refusal:
        check_processes(alone)
    said = f"--dist-url {url}: the file is there already, perhaps left by a run that was killed; "
    assert str(refusal.value).startswith(said)
    check_processes(arguments("--num-machines", 2, "--dist-url", url))
    check_processes(arguments("--dist-url", url))  # one process asks nobody


def test_rank_beyond_the_machines_ends_at_once(refused, tiny_yaml, tmp_path):
    flags = ["--num-machines", 2, "--machine-rank", 2, "--config-file", tiny_yaml]
    assert "--machine-rank 2" in refused("train_net.py", *flags, "OUTPUT_DIR", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ how it ends


def test_the_end_of_a_process_is_told():
    killed = ProcessExitedException(
        "x", error_index=1, error_pid=7, exit_code=-9, signal_name="SIGKILL"
    )
    assert what_was_said(killed).startswith("process 1 ended by itself (SIGKILL)")
    ended = ProcessExitedException("x", error_index=0, error_pid=7, exit_code=3)
    assert what_was_said(ended).startswith("process 0 ended by itself (status 3)")
    worker = RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
    assert "loads images was killed" in what_was_said(worker)
    assert what_was_said(RuntimeError("shapes cannot be multiplied")) is None


def test_how_a_run_ends():
    def raises(problem):
        def work(args):
            raise problem

        return work

    run_processes(lambda args: {"AP": 1.0}, arguments())
    with pytest.raises(InputError, match=r"^no\.$"):
        run_processes(raises(InputError("no.")), arguments())
    with pytest.raises(KeyboardInterrupt, match="--resume goes on"):
        run_processes(raises(KeyboardInterrupt()), arguments())
    with pytest.raises(RuntimeError, match="other"):
        run_processes(raises(RuntimeError("other")), arguments())


@pytest.mark.long
def test_more_processes_than_images_evaluate(fork_tool, tiny_yaml, discs, tmp_path):
    """Two processes, one image; and a training in which each has an image of the same one."""
    import json

    content = json.loads((discs / "val.json").read_text())
    content["images"] = content["images"][:1]
    kept = content["images"][0]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == kept]
    (tmp_path / "one.json").write_text(json.dumps(content))
    entry = f"[['one', '{tmp_path.as_posix()}/one.json', '{discs.as_posix()}/images']]"
    flags = ["--num-gpus", 2, "--dist-url", "auto", "--config-file", tiny_yaml]
    options = ["DATASETS.COCO_FORMAT", entry, "DATASETS.TRAIN", "('one',)", "SOLVER.MAX_ITER", 2]
    options += ["DATASETS.TEST", "('one',)", "OUTPUT_DIR", tmp_path / "out"]
    run = fork_tool("train_net.py", *flags, *options)
    assert run.returncode == 0, run.stdout + run.stderr
    written = json.loads((tmp_path / "out/token_usage.json").read_text())
    assert [image["image_id"] for image in written["images"]] == [kept]
