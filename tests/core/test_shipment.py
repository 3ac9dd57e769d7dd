"""What becomes of a file or folder on its way to object storage; what is done once is not done again (G6)."""

from __future__ import annotations

import random

import pytest

from pluto_dist.core.rules.shipment import (
    ASK_AHEAD,
    GIB,
    LIFE_S,
    Addressed,
    FileOf,
    Hashed,
    Note,
    Object,
    Sent,
    Shard,
    Shipment,
    Slot,
    Unit,
    shard_of,
)
from pluto_dist.core.values.ids import Job


def plain(size: int = 10, **more: int) -> Shipment:
    return Shipment("model-3-abc.pt", [FileOf("model.pt", size)], folder=False, **more)


def folder(*sizes: int) -> Shipment:
    files = [FileOf(f"rank{number}/shard {number}.pt", size) for number, size in enumerate(sizes)]
    return Shipment("step3-3-abc", files, folder=True)


def hash_all(shipment: Shipment) -> None:
    for file in shipment.to_hash():
        shipment.take(Hashed(file, f"sha of {file}"))


def ask(shipment: Shipment, at: float = 0.0) -> list[Object]:
    wanted = shipment.to_ask()
    for each in wanted:
        shipment.take(Addressed(each.number, Slot(f"url of {each.name}", at)))
    return wanted


def store(shipment: Shipment, *objects: Object) -> None:
    for each in objects:
        shipment.take(Addressed(each.number, Slot(done=True)))


def test_a_plain_file_is_one_object_of_its_name_without_a_manifest() -> None:
    shipment = plain()
    assert [(each.name, each.file, each.start, each.size) for each in shipment.objects] == [
        ("model-3-abc.pt", 0, 0, 10)
    ]
    assert not shipment.bundle
    hash_all(shipment)
    assert shipment.sha256 == "sha of 0"
    store(shipment, *ask(shipment))
    assert shipment.done


def test_what_is_larger_than_one_request_may_have_is_split_at_once() -> None:
    """Nothing fails after an hour because it is too large."""
    whole, beyond = plain(100, limit=100, piece=40), plain(101, limit=100, piece=40)
    assert len(whole.objects) == 1
    assert [(each.start, each.size) for each in beyond.objects] == [(0, 40), (40, 40), (80, 21), (0, 0)]
    hash_all(beyond)
    (file,) = beyond.manifest.files
    assert (file.name, file.size, file.sha256) == ("model.pt", 101, "sha of 0")
    assert file.objects == tuple(f"model-3-abc.pt.0000{n}-model.pt" for n in range(3))
    assert plain(5 * GIB).bundle is False
    assert plain(5 * GIB + 1).bundle is True


def test_objects_of_a_folder_have_names_that_storage_takes_and_no_two_the_same() -> None:
    files = [FileOf(name, 1) for name in ("a b/x.pt", "c/x.pt", "..", "ключ", "-" * 300)]
    names = [each.name for each in Shipment("s", files, folder=True).objects]
    assert names == [
        "s.00000-x.pt",
        "s.00001-x.pt",
        "s.00002-file",
        "s.00003-file",
        "s.00004-file",
        "s.manifest.json",
    ]


def test_the_manifest_goes_when_everything_else_is_stored() -> None:
    """A reader that sees it can have all of it."""
    shipment = folder(1, 2)
    hash_all(shipment)
    first = ask(shipment)
    assert [each.file for each in first] == [0, 1]
    store(shipment, first[0])
    assert ask(shipment) == []
    assert shipment.to_send() == [first[1]]
    store(shipment, first[1])
    (manifest,) = ask(shipment)
    assert manifest.file is None
    assert not shipment.done
    store(shipment, manifest)
    assert shipment.done


def test_addresses_are_asked_for_as_they_are_needed_because_they_get_old() -> None:
    shipment = folder(*[GIB] * 10)
    hash_all(shipment)
    first = ask(shipment)
    assert sum(each.size for each in first) == ASK_AHEAD
    assert ask(shipment) == []
    store(shipment, first[0])
    assert [each.number for each in ask(shipment)] == [4]
    assert len(ask(Shipment("s", [FileOf("f", ASK_AHEAD + 1)], folder=True))) == 1


def test_an_empty_file_is_an_object_too() -> None:
    assert [each.size for each in plain(0).objects] == [0]
    assert len(folder(0, 0).objects) == 3


def test_checksums_are_not_read_where_nobody_wants_them() -> None:
    """Pictures of a training are many, and shown, not fetched."""
    assert Shipment("s", [FileOf("f", 1)], folder=False, hashed=False).to_hash() == []
    assert Shipment("s", [FileOf("f", 1)], folder=True, hashed=False).to_hash() == [0]


def test_a_twice_refused_address_is_replaced_once_it_is_really_old() -> None:
    """Storage does not say why it refuses, and each question makes another row."""
    fresh = Slot("u", asked_s=100.0, renewed=True)
    assert fresh.refused(now_s=100.0 + LIFE_S - 1) == fresh
    assert fresh.refused(now_s=100.0 + LIFE_S).needs_url
    assert Slot("u", asked_s=100.0).refused(now_s=101.0) == Slot(renewed=True)


@pytest.mark.parametrize("seed", range(200))
def test_any_order_of_deaths_and_answers_sends_each_object_and_asks_for_no_address_twice(seed: int) -> None:
    """G12, G6: the coordinator dies anywhere; the next one has the notes and nothing else."""
    choose = random.Random(seed)
    sizes = [choose.choice([0, 1, 99, 100, 101, 250]) for _ in range(choose.randint(1, 5))]
    notes: list[Note] = []
    asked: list[int] = []
    stored: list[int] = []

    def begin() -> Shipment:
        files = [FileOf(f"f{number}", size) for number, size in enumerate(sizes)]
        shipment = Shipment("s", files, folder=len(sizes) > 1, limit=100, piece=40)
        for note in notes:
            shipment.take(note)
        return shipment

    def note(shipment: Shipment, done: Note) -> None:
        notes.append(done)
        shipment.take(done)

    shipment = begin()
    while not shipment.done:
        if choose.random() < 0.2:
            shipment = begin()
        if unread := shipment.to_hash():
            note(shipment, Hashed(unread[0], "x"))
        elif wanted := shipment.to_ask():
            for each in wanted:
                asked.append(each.number)
                note(shipment, Addressed(each.number, Slot("u")))
        else:
            each = choose.choice(shipment.to_send())
            note(shipment, Sent(each.number, each.size // 2))
            if choose.random() < 0.7:
                assert each.file is not None or len(stored) == len(shipment.objects) - 1, "manifest first"
                stored.append(each.number)
                note(shipment, Addressed(each.number, Slot(done=True)))
    everything = [each.number for each in shipment.objects]
    assert sorted(asked) == sorted(stored) == everything
    for index, size in enumerate(sizes):
        parts = [each for each in shipment.objects if each.file == index]
        assert sum(each.size for each in parts) == size
        assert all(each.size <= 100 for each in parts)


def of_four(rank: int | None, nodes: int = 2, local: bool = True, attempt: int = 0) -> Job:
    """Two ranks a node."""
    here = rank is not None and local
    place = (rank % 2 if here else None, rank // 2 if rank else 0) if rank is not None else (None, 0)
    return Job(
        key=f"node{place[1]}",
        rank=rank,
        local_rank=place[0],
        world_size=4,
        node_rank=place[1],
        nodes=nodes,
        launch="launch" if nodes > 1 else "",
        attempt=attempt,
    )


@pytest.mark.parametrize(
    ("unit", "nodes", "given"),
    [
        ("rank", 2, ["ckpt/rank0", "ckpt/rank1", "ckpt/rank2", "ckpt/rank3"]),
        ("node", 2, ["ckpt/node0", False, "ckpt/node1", False]),
        ("node", 1, [None, False, False, False]),
    ],
)
def test_every_rank_logs_an_artifact_and_gives_its_own_share(
    unit: Unit, nodes: int, given: list[str | bool | None]
) -> None:
    """Of one node's folder the whole is one share, which is the artifact itself."""
    found = [shard_of("ckpt", unit, of_four(rank, nodes)) for rank in range(4)]
    assert [each.log_name if each else each for each in found] == given
    shards = [each for each in found if each]
    assert [each.number for each in shards] == list(range(len(shards)))
    assert {each.of for each in shards} in ({len(shards)}, set())
    assert len({each.group for each in shards}) <= 1  # on all nodes alike


def test_a_share_of_a_later_attempt_is_of_another_whole() -> None:
    first, second = (shard_of("ckpt", "rank", of_four(1, attempt=number)) for number in (0, 1))
    assert isinstance(first, Shard)
    assert isinstance(second, Shard)
    assert first.group != second.group


def test_a_process_without_ranks_gives_all_and_a_rank_of_an_unknown_number_nothing() -> None:
    assert shard_of("ckpt", "rank", of_four(None)) is None
    with pytest.raises(ValueError, match="WORLD_SIZE"):
        shard_of("ckpt", "rank", Job(key="k", rank=3))


def test_where_no_variable_says_who_is_first_on_a_node_each_rank_gives_all() -> None:
    """Readers take the same file once; a folder that nobody gives would be lost."""
    shard = shard_of("ckpt", "node", of_four(3, local=False))
    assert isinstance(shard, Shard)
    assert (shard.log_name, shard.of) == ("ckpt/rank3", 4)


def test_a_share_without_files_is_a_manifest_alone() -> None:
    shipment = Shipment("rank3-1-abc", [], folder=True)
    assert shipment.to_hash() == []
    assert [each.name for each in shipment.to_ask()] == ["rank3-1-abc.manifest.json"]
    assert shipment.manifest.files == ()
