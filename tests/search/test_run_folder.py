from __future__ import annotations

import errno
from pathlib import Path

import pytest

from modeltailor import durable
from modeltailor.errors import EnvironmentFault, StudyConflict
from modeltailor.search import run_folder as module
from modeltailor.search.records import TrialRecord
from modeltailor.search.run_folder import RunFolder


def trial(folder: RunFolder, number: int, data: bytes) -> TrialRecord:
    digest = folder.keep_artifact(data)
    return TrialRecord(
        number=number, key=f"{number:08d}", role="search", recipe={}, sha256=digest, size_bytes=len(data)
    )


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.create()
    return made


def test_the_front_holds_what_is_on_it_and_nothing_else(folder: RunFolder) -> None:
    a, b = trial(folder, 1, b"a"), trial(folder, 2, b"b")
    folder.publish(a, [a, b])
    folder.publish(b, [b])
    assert [p.name for p in (folder.path / "front").iterdir()] == ["00-00000002.onnx"]
    assert (folder.path / "best.onnx").read_bytes() == b"b"
    folder.publish(None, [b])
    assert not (folder.path / "best.onnx").exists()


def test_public_files_that_stay_are_neither_read_nor_copied_again(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifteen models of 100 MB after every trial are minutes of a run."""
    a, b, c = (trial(folder, i, bytes([i])) for i in range(3))
    folder.publish(a, [a, b])

    def busy(*_: object) -> None:
        raise AssertionError("was read again")

    copied: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(module, "sha256_file", busy)
        patch.setattr(module, "_copy", lambda _, target: copied.append(target.name))
        folder.publish(a, [a, b])
        folder.publish(a, [c, a, b])  # all move on by one
    assert copied == ["00-00000002.onnx"]
    names = {p.name: p.read_bytes() for p in (folder.path / "front").iterdir()}
    assert names == {"01-00000000.onnx": b"\0", "02-00000001.onnx": b"\1"}
    again = RunFolder(folder.path)  # another process looks whether they are what they should be
    (folder.path / "best.onnx").write_bytes(b"?")
    again.publish(a, [a, b])
    assert (folder.path / "best.onnx").read_bytes() == b"\0"


def test_a_lost_or_changed_artifact_is_noticed(folder: RunFolder) -> None:
    kept, gone, changed = (trial(folder, i, bytes([i])) for i in range(3))
    folder.artifact(gone.sha256).unlink()
    folder.artifact(changed.sha256).write_bytes(b"other")
    assert set(folder.lost_artifacts([kept, gone, changed])) == {gone.key, changed.key}
    failed = gone.model_copy(update={"outcome": "TIMEOUT"})
    assert folder.lost_artifacts([failed]) == []


def test_two_processes_cannot_work_in_one_folder(folder: RunFolder) -> None:
    folder.lock()
    other = RunFolder(folder.path)
    with pytest.raises(StudyConflict, match="another process"):
        other.lock()
    folder.unlock()
    other.lock()
    other.unlock()


def test_a_full_disk_leaves_no_partial_file(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="No space left on device") as caught:
        folder.keep_artifact(b"x" * 100)
    assert "--resume" in caught.value.line()
    assert list(folder.artifacts.iterdir()) == []


def test_the_masked_storage_error_of_a_full_disk_is_told_apart() -> None:
    with pytest.raises(EnvironmentFault, match="cannot be stored"), module.disk_faults("study.db"):
        raise AssertionError("Should not reach.")
    with pytest.raises(AssertionError, match="ours"), module.disk_faults("study.db"):
        raise AssertionError("ours")


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(StudyConflict, match="not empty"):
        RunFolder(tmp_path / "photos").create()
    (tmp_path / "file").touch()
    with pytest.raises(StudyConflict, match="is a file"):
        RunFolder(tmp_path / "file").create()


def test_reading_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for content in (None, b"", b"not a database"):
        if content is not None:
            (tmp_path / "study.db").write_bytes(content)
        with pytest.raises((StudyConflict, EnvironmentFault)) as caught:
            RunFolder(tmp_path).read()
        assert caught.value.exit_code in (5, 7)


def test_what_to_do_about_a_full_disk_fits_what_was_written(folder: RunFolder, tmp_path: Path) -> None:
    def line(where: object) -> str:
        with pytest.raises(EnvironmentFault) as caught, module.disk_faults(where):
            raise OSError(errno.ENOSPC, "No space left on device")
        return caught.value.line()

    for elsewhere in (tmp_path / "picked.onnx", folder.path / "certified" / "x.json", "anything"):
        told = line(elsewhere)
        assert "resume" not in told
        assert "run the same command again" in told
    folder.study(create=True)
    assert f"`modeltailor resume {folder.path}`" in line(folder.path)
    (folder.path / "report.md").mkdir()  # where a file is to be written
    with pytest.raises(EnvironmentFault) as caught:
        folder.write_text("report.md", "x")
    assert f"`modeltailor resume {folder.path}`" in caught.value.line()


def test_a_run_that_knows_nothing_yet_names_the_command_that_goes_on(folder: RunFolder) -> None:
    folder.study(create=True)
    with pytest.raises(StudyConflict) as caught:
        folder.read()
    assert f"`modeltailor resume {folder.path}`" in caught.value.line()
