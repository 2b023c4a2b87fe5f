"""What a run says, how it ends early, and that nothing trained is lost."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from intaglio.adapters.header import find_file
from intaglio.cli.show import Show, command_to_go_on
from intaglio.errors import Problems, UserError
from intaglio.events import Encoded, Finished, Loading, Planned, Saved, Stepped, Warned
from intaglio.runtime.lock import LOCK
from intaglio.training import keep
from intaglio.training.checkpoint import list_checkpoints, read_checkpoint
from intaglio.training.loop import fit, train

SAME = {"method": "qlora", "rank": 2, "max_train_steps": 4, "lr_scheduler": "cosine"}


def tensors(folder):
    return load_file(find_file(folder))


def equal(first, second):
    torch.testing.assert_close(tensors(first), tensors(second), rtol=0, atol=0)


def until(recipe, step):
    """Train until the event of `step`, and close."""
    events = train(recipe)
    for event in events:
        if isinstance(event, Stepped) and event.step == step:
            break
    events.close()


def test_the_events_of_a_run_and_their_record(recipe):
    made = recipe(**SAME, checkpointing_steps=2)
    events = list(train(made))
    kinds = [type(event) for event in events]
    step, saved = [Stepped], [Saved]
    assert kinds == [Planned, Loading, Encoded, *(step * 2 + saved), *(step * 2 + saved), Saved, Finished]
    assert [e.step for e in events if isinstance(e, Stepped)] == [1, 2, 3, 4]
    assert all(e.learning_rate > 0 and e.seconds > 0 and e.memory_bytes > 0 for e in events if isinstance(e, Stepped))
    assert events[-1].result.steps == 4
    lines = [json.loads(line) for line in (made.output.output_dir / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == [kind.__name__.lower() for kind in kinds]
    assert [line["loss"] for line in lines if line["event"] == "stepped"] == [
        e.loss for e in events if isinstance(e, Stepped)
    ]
    assert lines[-1]["result"]["loss_last"] == events[-1].result.loss_last


def test_closing_keeps_what_is_trained_and_it_goes_on_bit_for_bit(recipe, tmp_path):
    whole = recipe(**SAME, ema_decay=0.9, output_dir=tmp_path / "whole")
    fit(whole)
    first = recipe(**SAME, ema_decay=0.9, output_dir=tmp_path / "first")
    until(first, 3)
    assert [p.name for p in list_checkpoints(tmp_path / "first")] == ["checkpoint-3"]
    assert not (tmp_path / "first" / LOCK).exists()
    fit(first.changed(resume_from_checkpoint="latest"))
    equal(tmp_path / "first", tmp_path / "whole")
    assert not list_checkpoints(tmp_path / "first"), "one that was made at a stop goes when the adapter is there"
    lines = [json.loads(line) for line in (tmp_path / "first" / "events.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "stepped"] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["sgd", "adamw_8bit", "prodigy", "schedule_free"])
def test_every_optimizer_goes_on_bit_for_bit(name, recipe, tmp_path):
    library = {"adamw_8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedule_free": "schedulefree"}.get(name)
    if library is not None:
        pytest.importorskip(library)
    options = {**SAME, "optimizer": name, **({"min_8bit_size": 16} if name == "adamw_8bit" else {})}
    fit(recipe(**options, output_dir=tmp_path / "whole"))
    first = recipe(**options, output_dir=tmp_path / "first")
    until(first, 2)
    fit(first.changed(resume_from_checkpoint="latest"))
    equal(tmp_path / "first", tmp_path / "whole")


@pytest.fixture
def interruptible():
    """A job in the background of a shell ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("where", ["in the loss", "in the update"])
def test_an_interrupt_in_a_step_keeps_the_steps_before(where, recipe, tmp_path, monkeypatch):
    """In the update it waits until the step is whole."""
    whole = recipe(**SAME, output_dir=tmp_path / "whole")
    fit(whole)
    first = recipe(**SAME, output_dir=tmp_path / "first")
    events = train(first)
    for event in events:
        if isinstance(event, Stepped) and event.step == 2:
            break
    if where == "in the loss":
        monkeypatch.setattr(
            "intaglio.training.step.Loss.__call__", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)
        )
    else:
        step = torch.optim.AdamW.step

        def interrupted(self, *arguments):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            return step(self, *arguments)

        monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(events)
    monkeypatch.undo()
    done = 2 if where == "in the loss" else 3
    assert [p.name for p in list_checkpoints(tmp_path / "first")] == [f"checkpoint-{done}"]
    fit(first.changed(resume_from_checkpoint="latest"))
    equal(tmp_path / "first", tmp_path / "whole")


def test_a_fault_in_a_step_keeps_the_steps_before(recipe, monkeypatch):
    made = recipe(**SAME)
    events = train(made)
    next(event for event in events if isinstance(event, Stepped))

    def out_of_memory(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("intaglio.training.step.Loss.__call__", out_of_memory)
    with pytest.raises(MemoryError):
        next(events)
    assert [p.name for p in list_checkpoints(made.output.output_dir)] == ["checkpoint-1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_in_order(number, recipe, tmp_path):
    made = recipe(**{**SAME, "max_train_steps": 100_000})
    flags = ["--pretrained_model_name_or_path", made.model.pretrained_model_name_or_path, "--instance_prompt", "a 'b'"]
    flags += ["--instance_data_dir", str(made.data.instance_data_dir), "--output_dir", str(tmp_path / "o u t")]
    flags += ["--max_train_steps", "100000", "--train_batch_size", "1", "--method", "qlora"]
    process = subprocess.Popen(
        [sys.executable, "-m", "intaglio.cli", "train", *flags],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # under nohup it is ignored, and would stay so
    )
    record = tmp_path / "o u t" / "events.jsonl"
    deadline = time.monotonic() + 240
    while not (record.exists() and "stepped" in record.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    process.send_signal(number)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert f"stopped {number.name}" in printed
    assert len(list_checkpoints(tmp_path / "o u t")) == 1
    assert not [p.name for p in (tmp_path / "o u t").glob(".*")]
    command = next(line for line in printed.splitlines() if line.startswith("intaglio train"))
    assert shlex.split(command)[1:] == ["train", *flags, "--resume_from_checkpoint", "latest"]


def test_the_command_to_go_on():
    typed = ["train", "my recipe.toml", "--resume-from-checkpoint", "latest", "--instance_prompt", "$(rm) 'x'"]
    command = command_to_go_on(typed)
    expected = ["intaglio", "train", "my recipe.toml", "--instance_prompt", "$(rm) 'x'"]
    assert shlex.split(command) == [*expected, "--resume_from_checkpoint", "latest"]
    again = command_to_go_on(["train", "--resume_from_checkpoint=x", "r"])
    assert again == "intaglio train r --resume_from_checkpoint latest"


def test_checkpoints_by_minutes_replace_each_other(recipe):
    made = recipe(**SAME, checkpointing_minutes=1e-9, checkpointing_steps=2)
    out = made.output.output_dir
    found = [[p.name for p in list_checkpoints(out)] for event in train(made) if isinstance(event, Saved)]
    assert found == [
        ["checkpoint-1"],
        ["checkpoint-2"],
        ["checkpoint-2", "checkpoint-3"],
        ["checkpoint-2", "checkpoint-4"],
        ["checkpoint-2", "checkpoint-4"],
    ]


@pytest.mark.parametrize("how", ["flip a bit", "cut", "no header", "a file is gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(how, recipe, tmp_path):
    fit(recipe(**SAME, output_dir=tmp_path / "whole"))
    first = recipe(**SAME, checkpointing_steps=1, output_dir=tmp_path / "first")
    until(first, 3)  # and closing saves step 3
    file = tmp_path / "first" / "checkpoint-3" / "training_state.safetensors"
    content = file.read_bytes()
    if how == "flip a bit":
        file.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "no header":
        file.write_bytes(b"\xff" * 100)
    else:
        find_file(file.parent).unlink()
    with pytest.raises(UserError, match="checkpoint-3: damaged"):
        read_checkpoint(file.parent)
    events = list(train(first.changed(resume_from_checkpoint="latest")))
    warned = [event.message for event in events if isinstance(event, Warned)]
    assert len(warned) == 1
    assert "checkpoint-3: damaged" in warned[0]
    assert "the one before is taken" in warned[0]
    assert events[0].done == 2
    equal(tmp_path / "first", tmp_path / "whole")


def test_no_checkpoint_is_whole(recipe):
    made = recipe(**SAME)
    until(made, 2)
    (made.output.output_dir / "checkpoint-2" / "checksums.json").write_text("{")
    with pytest.raises(Problems, match=r"no checkpoint is whole(.|\n)*checkpoint-2: damaged"):
        fit(made.changed(resume_from_checkpoint="latest"))


def test_checkpoints_of_an_earlier_run_stay_and_are_not_resumed(recipe):
    """The earlier run went further than the new one."""
    made = recipe(**SAME, checkpointing_steps=1, checkpoints_total_limit=1)
    until(made, 3)
    out = made.output.output_dir
    old = {p.name: p.read_bytes() for p in (out / "checkpoint-3").iterdir()}
    other = made.changed(seed=5)
    events = train(other)
    warned = []
    for event in events:
        warned += [event.message] if isinstance(event, Warned) else []
        if isinstance(event, Stepped) and event.step == 2:
            break
    events.close()
    assert "earlier-1" in warned[0]
    assert [p.name for p in list_checkpoints(out)] == ["checkpoint-2"]
    assert {p.name: p.read_bytes() for p in (out / "earlier-1" / "checkpoint-3").iterdir()} == old
    assert next(train(other.changed(resume_from_checkpoint="latest"))).done == 2
    with pytest.raises(Problems, match="seed: was 5, now 0"):
        fit(made.changed(resume_from_checkpoint="latest"))


def test_another_length_is_said_where_the_rate_depends_on_it(recipe):
    made = recipe(**SAME)
    until(made, 2)
    longer = made.changed(resume_from_checkpoint="latest", max_train_steps=8)
    events = train(longer)
    assert [type(next(events)) for _ in range(2)] == [Planned, Warned]
    events.close()
    constant = recipe(**{**SAME, "lr_scheduler": "constant"}, output_dir=made.output.output_dir.with_name("c"))
    until(constant, 2)
    events = list(train(constant.changed(resume_from_checkpoint="latest", max_train_steps=5)))
    assert not [event for event in events if isinstance(event, Warned)]


def test_two_runs_into_one_folder(recipe):
    made = recipe(**SAME)
    events = train(made)
    next(event for event in events if isinstance(event, Stepped))
    with pytest.raises(UserError, match=rf"process {os.getpid()} on .* writes there now"):
        fit(made)
    lines = (made.output.output_dir / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines].count("planned") == 1, "the second left no trace"
    events.close()
    fit(made)


def test_the_lock_of_a_killed_run_keeps_nobody_out(recipe):
    made = recipe(**{**SAME, "max_train_steps": 1})
    out = made.output.output_dir
    out.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    own = {"pid": dead.pid, "started": 0.0, "host": os.uname().nodename}
    for left in (json.dumps(own), json.dumps({**own, "pid": os.getpid()}), "{"):
        (out / LOCK).write_text(left)
        fit(made)
    (out / LOCK).write_text(json.dumps({**own, "host": "another machine"}))
    with pytest.raises(UserError, match="on another machine writes there now"):
        fit(made)


def test_what_a_kill_left_is_swept(recipe):
    made = recipe(**{**SAME, "max_train_steps": 1})
    out = made.output.output_dir
    (out / ".checkpoint-7.abcd_123").mkdir(parents=True)
    (out / ".checkpoint-8.tmp-xyz").mkdir()
    (out / ".checkpoint-9.old").mkdir()
    (out / "checkpoint-9").mkdir()
    (out / ".mine").write_text("stays")
    fit(made)
    assert [p.name for p in out.glob(".*")] == [".mine"]


def full_disk(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(recipe, tmp_path, monkeypatch):
    fit(recipe(**SAME, output_dir=tmp_path / "whole"))
    made = recipe(**SAME, checkpointing_steps=2, output_dir=tmp_path / "full")
    monkeypatch.setattr(keep, "save_checkpoint", full_disk)
    events = list(train(made))
    warned = [event.message for event in events if isinstance(event, Warned)]
    assert len(warned) == 2
    assert "checkpoint of step 2 could not be written" in warned[0]
    equal(tmp_path / "full", tmp_path / "whole")


def test_an_adapter_that_cannot_be_written_is_written_elsewhere(recipe, tmp_path, monkeypatch):
    fit(recipe(**SAME, output_dir=tmp_path / "whole"))
    made = recipe(**SAME, output_dir=tmp_path / "full")
    save = keep.save_adapter_file
    monkeypatch.setattr(
        keep,
        "save_adapter_file",
        lambda adapter, folder: full_disk() if folder == tmp_path / "full" else save(adapter, folder),
    )
    with pytest.raises(UserError, match=r"No space left on device.*What was trained is in .*") as caught:
        fit(made)
    equal(Path(str(caught.value).rpartition(" ")[2]), tmp_path / "whole")


def test_a_disk_that_is_too_small_is_seen_before_the_first_step(recipe, monkeypatch):
    made = recipe(**SAME)
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    events = train(made)
    with pytest.raises(UserError, match="100 B are free, and the adapter takes"):
        list(events)
    assert not list_checkpoints(made.output.output_dir)


def test_weights_that_are_not_finite_are_never_saved(recipe, monkeypatch):
    made = recipe(**SAME)
    events = train(made)
    next(event for event in events if isinstance(event, Stepped))
    frame = events.gi_yieldfrom.gi_frame.f_locals["events"].gi_frame.f_locals["run"]
    next(iter(frame.job.adapter.parameters())).data.fill_(float("nan"))
    events.close()
    assert not list_checkpoints(made.output.output_dir)


def test_one_process_trains_in_one_precision_after_another(recipe, tmp_path):
    losses = []
    for number, precision in enumerate(("no", "bf16", "no")):
        summary = fit(recipe(**SAME, mixed_precision=precision, output_dir=tmp_path / str(number)))
        losses.append(summary.loss_last)
        assert summary.mixed_precision == precision
    assert losses[0] == losses[2] != losses[1]


def test_fp16_goes_on_with_its_scale(recipe, tmp_path):
    same = {**SAME, "mixed_precision": "fp16"}
    fit(recipe(**same, output_dir=tmp_path / "whole"))
    first = recipe(**same, output_dir=tmp_path / "first")
    until(first, 2)
    fit(first.changed(resume_from_checkpoint="latest"))
    equal(tmp_path / "first", tmp_path / "whole")


def test_modes_follow_the_umask(recipe):
    made = recipe(**SAME)
    mask = os.umask(0o027)
    try:
        until(made, 1)
    finally:
        os.umask(mask)
    folder = made.output.output_dir / "checkpoint-1"
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o640}


def test_what_the_terminal_shows(recipe, capsys):
    from rich.console import Console

    with Show(Console(width=200, force_terminal=False), "Training") as show:
        fit(recipe(**SAME, validation_prompt=("a [red] cat",), num_validation_images=1), show)
    printed = capsys.readouterr().out
    assert "qlora(rank=2) over int4" in printed
    assert "encoded 3 images and 3 texts" in printed
    assert "4/4" in printed
    assert "samples/final.png" in printed
    assert (show.step, show.steps) == (4, 4)
