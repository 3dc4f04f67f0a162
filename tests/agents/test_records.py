"""The records of a run: only what its supervisor wrote counts, and nothing in these files raises anything else."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.agents.process.records import ExitRecord, read_cancellation, read_exit
from daemon.agents.process.supervisor import status
from tests.support.status_files import EXIT, damaged_records, forged_records, line, senseless_records, status_file

KEY = b"k" * 32
OTHER = b"o" * 32


def exit_of(folder: Path, content: bytes, key: bytes | None) -> ExitRecord | None:
    (folder / status.NAME).write_bytes(content)
    with (folder / status.NAME).open("rb") as stream:
        return read_exit(stream.fileno(), key)


def written(folder: Path, slot: str, record: dict[str, Any], key: bytes | None) -> None:
    status.preallocate(str(folder))
    with (folder / status.NAME).open("r+b") as stream:
        status.write_record(stream.fileno(), slot, record, key)


@pytest.mark.parametrize(("name", "record"), [*senseless_records(), *damaged_records()])
@pytest.mark.parametrize("key", [None, KEY], ids=["without a key", "with a key"])
def test_an_unusable_exit_record_is_refused(tmp_path: Path, name: str, record: bytes, key: bytes | None) -> None:
    with pytest.raises(status.DamagedRecordError) as refused:
        exit_of(tmp_path, status_file(record), key)
    assert str(refused.value).startswith(("the exit record", "the run's supervisor did not")), name


@pytest.mark.parametrize(("name", "record"), [*forged_records()])
def test_a_record_without_the_key_counts_only_for_a_run_without_one(tmp_path: Path, name: str, record: bytes) -> None:
    assert isinstance(exit_of(tmp_path, status_file(record), None), ExitRecord), name
    with pytest.raises(status.DamagedRecordError, match="the run's supervisor did not write the exit record"):
        exit_of(tmp_path, status_file(record), KEY)


@given(st.binary(max_size=status.SIZE))
def test_whatever_is_in_the_file_nothing_else_is_raised(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    for content in (data, status_file(data), status_file(line(data))):
        for key in (None, KEY):
            with contextlib.suppress(status.DamagedRecordError):
                exit_of(folder, content, key)
            with (folder / status.NAME).open("rb") as stream:
                read_cancellation(stream.fileno(), key)
            status.may_have_started(str(folder), key)
        status.belongs_to_another_run(str(folder), "x")


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()))


@given(st.dictionaries(st.sampled_from([*EXIT, "output_bytes", "cpu_seconds", "left_over"]), VALUES))
def test_no_value_of_any_type_is_taken_for_another(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    record = line(json.dumps({**EXIT, **values}).encode())
    with contextlib.suppress(status.DamagedRecordError):
        found = exit_of(tmp_path_factory.getbasetemp(), status_file(record), None)
        assert found is not None
        for number in (found.exit_code, found.signal, found.output_bytes, found.left_over):
            assert number is None or (type(number) is int and 0 <= number < 2**63)


def test_a_record_counts_only_with_its_key_and_in_its_place(tmp_path: Path) -> None:
    written(tmp_path, "exit", {**EXIT, "exit_code": 3}, KEY)
    content = (tmp_path / status.NAME).read_bytes()
    found = exit_of(tmp_path, content, KEY)
    assert found is not None
    assert found.exit_code == 3
    assert exit_of(tmp_path, content, None) == found  # as an earlier version reads it
    for spoilt, key in [(content, OTHER), (content.replace(b'"exit_code": 3', b'"exit_code": 0'), KEY)]:
        with pytest.raises(status.DamagedRecordError):
            exit_of(tmp_path, spoilt, key)
    written(tmp_path, "cancel", {**EXIT}, KEY)
    moved = (tmp_path / status.NAME).read_bytes()[1024:2048]
    with pytest.raises(status.DamagedRecordError, match="did not write"):
        exit_of(tmp_path, status_file(moved), KEY)


def test_no_two_supervisors_share_a_key() -> None:
    keys = {status.start_key(KEY, boot, pid, started) for boot in ("a", "b") for pid in (1, 2) for started in (1, 2)}
    assert len({*keys, KEY}) == 9


def test_a_forged_cancellation_is_ignored(tmp_path: Path) -> None:
    for key, expected in [(None, None), (OTHER, None), (KEY, "by alice")]:
        written(tmp_path, "cancel", {"error": "by alice"}, key)
        with (tmp_path / status.NAME).open("rb") as stream:
            assert read_cancellation(stream.fileno(), KEY) == expected


@pytest.mark.parametrize("error", ["\0\x1f" * 500, '"\\' * 500, "\udcff" * 900, "ä" * 900])
def test_a_long_error_never_keeps_the_end_from_being_recorded(tmp_path: Path, error: str) -> None:
    written(tmp_path, "exit", {**EXIT, "reason": "exec_failed", "error": error}, KEY)
    with (tmp_path / status.NAME).open("rb") as stream:
        found = read_exit(stream.fileno(), KEY)
    assert found is not None
    assert found.error
    assert (tmp_path / status.NAME).stat().st_size == status.SIZE


def test_only_the_proof_that_a_command_was_not_started_lets_it_start_again(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert status.may_have_started(folder, KEY)
    status.preallocate(folder)
    assert status.may_have_started(folder, KEY)  # a blank file proves nothing: the agent may have made it
    assert not status.may_have_started(folder)  # but it does for a run of an earlier version
    status.preallocate(folder, OTHER)
    assert status.may_have_started(folder, KEY)
    status.preallocate(folder, KEY)
    assert not status.may_have_started(folder, KEY)
    assert not status.may_have_started(folder)
    with (tmp_path / status.NAME).open("r+b") as stream:
        status.write_record(stream.fileno(), "exec", {"pid": 1, "key": "x"}, KEY)
    assert status.may_have_started(folder, KEY)
    assert status.may_have_started(folder)
    assert status.belongs_to_another_run(folder, "y")
    assert not status.belongs_to_another_run(folder, "x")


@pytest.mark.parametrize("instead", ["link", "pipe", "folder"])
def test_a_status_file_is_never_something_else(tmp_path: Path, instead: str) -> None:
    elsewhere, file = tmp_path / "elsewhere", tmp_path / status.NAME
    elsewhere.write_bytes(b"precious")
    match instead:
        case "link":
            file.symlink_to(elsewhere)
        case "pipe":
            os.mkfifo(file)
        case _:
            file.mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - which depends on what is there
        status.preallocate(str(tmp_path), KEY)
    assert status.may_have_started(str(tmp_path), KEY)
    assert elsewhere.read_bytes() == b"precious"
