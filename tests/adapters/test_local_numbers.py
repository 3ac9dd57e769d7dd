"""Numbers of local Runs: the id and the number in the display id are one (`show 7` means one Run)."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pluto_dist.backend.local.store import Store, create_exclusively


def test_runs_that_are_opened_at_once_have_one_number_each(tmp_path: Path) -> None:
    """With two counters the second of a project could have the first id."""
    stores = [Store(tmp_path) for _ in range(8)]
    barrier = threading.Barrier(len(stores))
    taken: dict[str, int] = {}

    def take(number: int) -> None:
        barrier.wait()
        project, key = f"p{number % 2}", f"run{number}"
        taken[key] = stores[number].take_number(project, key)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken.values()) == list(range(1, len(stores) + 1))
    for key, number in taken.items():
        project = f"p{int(key[-1]) % 2}"
        assert stores[0].key_of_id(number) == stores[0].key_of_number(project, number) == key


def test_a_store_of_an_older_version_goes_on_behind_all_its_numbers(tmp_path: Path) -> None:
    """There a project counted for itself; nothing that was given is given again."""
    store = Store(tmp_path)
    first = store.take_number("a", "first")
    numbers = tmp_path / "projects" / "a" / "numbers"
    for number, key in ((2, "second"), (3, "third"), (5, "burned")):
        create_exclusively(numbers / str(number), key)
    create_exclusively(tmp_path / "ids" / "2", "of another project")
    number = store.take_number("a", "new")
    assert (first, number) == (1, 6)
    assert store.take_number("b", "other") == 7
    assert store.key_of_number("a", 5) == "burned"
    assert store.key_of_id(2) == "of another project"


def test_a_number_that_another_version_takes_meanwhile_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at one of the two folders only."""
    store = Store(tmp_path)
    store.take_number("a", "first")

    def late(path: Path, text: str) -> bool:
        if path == tmp_path / "ids" / "2":
            create_exclusively(tmp_path / "projects" / "a" / "numbers" / "2", "theirs")
        return create_exclusively(path, text)

    monkeypatch.setattr("pluto_dist.backend.local.store.create_exclusively", late)
    assert store.take_number("a", "ours") == 3
    assert (store.key_of_number("a", 2), store.key_of_id(2)) == ("theirs", None)
