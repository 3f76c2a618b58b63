"""One of several workers is at work on an image; a claim outlives neither its holder nor a silent minute."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from flows import claims
from flows.claims import Claims
from img2mesh.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_one_holds_it_and_gives_it_back(store: Store) -> None:
    first, second = Claims(store), Claims(store)
    with first.claim("owl") as ours:
        with second.claim("owl") as theirs, second.claim("cat") as another:
            assert (ours, theirs, another) == (True, False, True)
        assert list(store.list("claims/")) == ["claims/owl"]
    assert list(store.list("claims/")) == []
    with second.claim("owl") as theirs:
        assert theirs


def test_it_is_given_back_after_an_error(store: Store) -> None:
    with pytest.raises(KeyError), Claims(store).claim("owl"):
        raise KeyError
    assert list(store.list("claims/")) == []


def _die_with_a_claim(folder: str) -> None:
    claim = Claims(open_store(folder)).claim("owl")
    claim.__enter__()
    os._exit(9)


def test_a_dead_process_s_claim_falls_to_the_next_at_once(store: Store, tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die_with_a_claim, args=(str(tmp_path),))
    process.start()
    process.join()
    assert list(store.list("claims/")) == ["claims/owl"]
    with Claims(store).claim("owl") as ours:
        assert ours
    assert list(store.list("claims/")) == []


@pytest.mark.parametrize("jump_s", [0.0, 1e9, -1e9])
def test_another_machine_s_claim_falls_to_the_next_after_a_silent_minute(
    store: Store, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    steady_s = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: steady_s)
    monkeypatch.setattr(claims.time, "time", lambda: jump_s)
    elsewhere = {**claims._holder(), "host": "elsewhere", "beat": 0}
    store.write("claims/owl", json.dumps(elsewhere).encode())
    watcher = Claims(store)

    def free() -> bool:
        with watcher.claim("owl") as ours:
            return ours

    assert not free()
    steady_s += claims.SILENT_S - 1
    assert not free()
    store.write("claims/owl", json.dumps({**elsewhere, "beat": 1}).encode())
    steady_s += 2
    assert not free()
    steady_s += claims.SILENT_S + 1
    assert free()


def test_a_claim_that_was_taken_over_is_not_deleted_by_its_first_holder(store: Store) -> None:
    with Claims(store).claim("owl"):
        store.write("claims/owl", b'{"token": "of somebody else"}')
    assert store.read("claims/owl") == b'{"token": "of somebody else"}'


def test_a_holder_renews_its_claim(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "RENEW_S", 0.01)
    with Claims(store).claim("owl"):
        before = json.loads(store.read("claims/owl") or b"")
        while (now := json.loads(store.read("claims/owl") or b""))["beat"] < 2:
            assert now["token"] == before["token"]
