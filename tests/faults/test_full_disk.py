"""A full disk, simulated where files are written: one clear line, nothing half-written, and all is well once there is room."""

import errno
import os
from pathlib import Path

import pytest

from flows import assets as published
from flows.submit import Report, Request, submit
from img2mesh import storage
from img2mesh.errors import TransientError
from tests.command import broken_assets, picture
from tests.small_cli import in_a_loop, steps


class Disk:
    """Takes so many bytes, then is full."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._write = storage.write_durably

    def write(self, path: Path, data: bytes) -> None:
        """In place of `write_durably`."""
        if len(data) > self.room:
            path.write_bytes(data[: self.room])
            self.room = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.room -= len(data)
        self._write(path, data)


def submitted(tmp_path: Path) -> Report:
    request = Request.of([str(picture(tmp_path / "in/owl.png"))], assets=str(tmp_path / "assets"))
    return submit(request, steps(seed=0), run_pending=in_a_loop)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.99])
def test_a_full_disk_is_one_line_and_the_next_submit_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    plenty = 10**9
    disk = Disk(plenty)
    monkeypatch.setattr(storage, "write_durably", disk.write)
    monkeypatch.setattr(published, "write_durably", disk.write)
    assert submitted(tmp_path / "elsewhere").exit_code == 0
    disk.room = int((plenty - disk.room) * share)
    try:
        (row,) = (outcome.row() for outcome in submitted(tmp_path).outcomes)
        reason = row.reason or ""
    except TransientError as error:
        reason = str(error)
    assert "the disk is full; free some space" in reason
    assert "\n" not in reason
    assert broken_assets(tmp_path / "assets") == []
    disk.room = plenty
    assert submitted(tmp_path).exit_code == 0
    assert broken_assets(tmp_path / "assets") == []
