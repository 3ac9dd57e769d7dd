"""R14: what is handed over is numbered, given at least once, in order, and to others when its holder dies."""

from __future__ import annotations

import msgspec
import pytest

from pluto_dist.core.rules.topics import done, next_number, over, published, taken
from pluto_dist.core.values.backend import RunOpened, Unavailable
from pluto_dist.core.values.document import read
from pluto_dist.core.values.lifecycle import decode_entry
from pluto_dist.core.values.topics import MAX_PAYLOAD, Holder, Item, Reader, Topic
from tests.core.processes import LOCAL, Process
from tests.core.server import made_elsewhere
from tests.core.test_relays import Nodes
from tests.core.world import World

A, B = Holder("a", 1), Holder("b", 1)
READER = Reader(run="r", topic="t", name="eval", group=False)


def everybody(holder: Holder) -> bool:
    return True


def nobody(holder: Holder) -> bool:
    return False


# --- the rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "held", "last", "latest", "expected"),
    [
        (0, {}, 0, False, None),  # nothing there
        (0, {}, 3, False, 1),  # a late joiner begins at the start
        (2, {}, 3, False, 3),
        (3, {}, 3, False, None),
        (2, {2: A}, 3, False, 2),  # what it holds it gets again
        (2, {1: B}, 3, False, 3),  # what another holds is that one's
        (3, {1: B}, 3, False, None),
        (0, {}, 3, True, 3),
        (3, {}, 3, True, None),
        (3, {2: A}, 5, True, 2),  # its own first: it has not said that it is through
    ],
)
def test_a_member_gets_the_next_item_that_nobody_has(
    given: int, held: dict[int, Holder], last: int, latest: bool, expected: int | None
) -> None:
    reader = msgspec.structs.replace(READER, given=given, held=held)
    assert next_number(reader, last, A, everybody, latest=latest) == expected


def test_what_a_dead_member_holds_comes_first_and_the_oldest_of_it() -> None:
    reader = msgspec.structs.replace(READER, given=4, held={3: B, 2: B})
    assert next_number(reader, 6, A, nobody) == 2
    assert next_number(reader, 6, A, everybody) == 5
    assert next_number(reader, 6, A, nobody, latest=True) == 6
    assert next_number(reader, 4, A, nobody, latest=True) == 3


def test_latest_passes_over_what_is_superseded_and_leaves_others_their_own() -> None:
    reader = msgspec.structs.replace(READER, given=4, held={2: B, 3: Holder("dead", 1)})
    after = taken(reader, 9, A, lambda holder: holder.lease_id != "dead", latest=True)
    assert (after.given, after.held) == (9, {2: B, 9: A})


def test_a_topic_is_over_when_every_item_is_done() -> None:
    reader = taken(READER, 1, A, everybody)
    assert not over(reader, 1)
    assert over(done(reader, 1), 1)
    assert not over(done(reader, 1), 2)
    assert done(READER, 5) == READER, "what nobody holds changes nothing"


def test_a_topic_keeps_the_newest_few_to_show() -> None:
    topic = Topic(run="r", name="t")
    for number in range(9):
        topic = published(topic, Item(msgspec.Raw(b"%d" % number), number, "owner"))
    assert topic.last == 9
    assert [(each.number, each.payload) for each in topic.latest] == [(n, str(n - 1)) for n in range(5, 10)]


def test_items_of_two_topics_that_turn_out_to_be_one_keep_their_places() -> None:
    first = Topic(run="x", name="t", last=2)
    both = Topic(run="y", name="t", last=3).followed_by(first)
    assert both.last == 5
    assert [both.item_key(number) for number in range(1, 6)] == ["y/t/1", "y/t/2", "y/t/3", "x/t/1", "x/t/2"]
    more = Topic(run="z", name="t").followed_by(msgspec.structs.replace(both, last=6))
    assert [more.item_key(number) for number in (3, 4, 6)] == ["y/t/3", "x/t/1", "x/t/3"]


@pytest.mark.parametrize("topic", ["", "a b", "a/b", "-a", "a" * 65, "a\n"])
def test_an_entry_with_a_topic_that_is_none_has_no_effect(topic: str) -> None:
    entry = {"entry": "published", "at": 1.0, "wall_ms": 1, "topic": topic, "payload": {}}
    assert "topic" in getattr(decode_entry(msgspec.json.encode(entry)), "why", "")


# --- stories --------------------------------------------------------------------------------------


def training(world: World) -> tuple[Process, Process]:
    """An owner and an eval."""
    owner = world.process("owner").init("x", target=LOCAL)
    return owner, world.process("eval").attach("x", label="eval", target=LOCAL)


def test_an_eval_gets_the_backlog_then_waits_and_ends_with_the_run() -> None:
    world = World(LOCAL)
    owner, side = training(world)
    owner.publish(payload={"n": 1}).publish(payload={"n": 2})
    assert side.take().got == [1]
    assert side.done(1).take().got == [1, 2]
    assert side.done(2).take().got == [1, 2]
    owner.publish()
    assert side.got == [1, 2, 3], "who waits is told at once"
    owner.finish().exit()
    world.wait(3)
    side.done(3).take()
    assert side.got == [1, 2, 3, "ended"]


def test_a_reader_is_shown_by_the_label_under_which_its_items_are_shown() -> None:
    """A rank reads as the participant `owner`, and publishes as `rank0`: to people it is one process."""
    world = World(LOCAL)
    owner = world.launch("train", ranks=2).start()[0].init("x", target=LOCAL)
    owner.publish().take()
    world.wait(70)
    (shown,) = read(world.documents[world.run("x").key]).topics.values()
    assert [each.by for each in shown.latest] == ["rank0"]
    assert [each.name for each in shown.readers] == ["rank0"]
    assert [each.at_work for each in shown.readers] == [{1: "rank0"}]


def test_the_run_is_not_over_for_an_eval_before_its_last_item_is_done() -> None:
    world = World(LOCAL)
    owner, side = training(world)
    owner.publish().finish().exit()
    world.wait(3)
    assert side.take().got == [1]
    assert side.take().got == [1, 1], "it has not said that it is through"
    assert side.done(1).take().got == [1, 1, "ended"]


def test_a_label_goes_on_where_it_stopped_after_a_sigkill() -> None:
    world = World(LOCAL)
    owner, side = training(world)
    owner.publish().publish().publish()
    side.take().done(1).take().kill()
    again = world.process("eval").attach("x", label="eval", target=LOCAL)
    assert again.take().got == [2], "2 was given and not done"
    assert again.done(2).take().done(3).got == [2, 3]
    assert again.close().exit().alive is False
    third = world.process("eval").attach("x", label="eval", target=LOCAL)
    assert third.take().got == []
    assert world.process("other").attach("x", label="other", target=LOCAL).take().got == [1]


@pytest.mark.parametrize("deaths", range(12))
def test_each_entry_counts_once_whenever_the_coordinator_dies(deaths: int) -> None:
    """G12: the numbers have no gap, and nobody is given what is done."""
    world = World(LOCAL)
    owner, side = training(world)
    world.die_after(deaths)
    for number in range(1, 4):
        owner.publish(payload=number)
        side.take().take()  # the first one may meet the death
        assert side.got[-1] == number
        side.done(number)
    world.restart()
    (topic,) = world.book.topics
    assert topic.last == 3
    kept = [msgspec.json.decode(world.saves["items", topic.item_key(n)]) for n in (1, 2, 3)]
    assert [item["payload"] for item in kept] == [1, 2, 3]
    assert side.take().got[-1] == 3


def test_a_group_shares_and_takes_over_from_the_dead() -> None:
    world = World(LOCAL)
    owner, first = training(world)
    second = world.process("second").attach("x", label="second", target=LOCAL)
    for _ in range(4):
        owner.publish()
    assert first.take(group="g").got == [1]
    assert second.take(group="g").got == [2]
    second.done(2, group="g").take(group="g")
    assert second.got == [2, 3]
    first.kill()
    assert second.done(3, group="g").take(group="g").got == [2, 3, 1], "what the dead one had comes first"
    assert second.done(1, group="g").take(group="g").got == [2, 3, 1, 4]
    owner.finish().exit()
    world.wait(3)
    assert second.done(4, group="g").take(group="g").got[-1] == "ended"


def test_a_member_waits_with_the_end_until_the_others_are_through() -> None:
    world = World(LOCAL)
    owner, first = training(world)
    second = world.process("second").attach("x", label="second", target=LOCAL)
    owner.publish()
    first.take(group="g")
    owner.finish().exit()
    world.wait(3)
    assert second.take(group="g").got == [], "the first may still die"
    first.kill()
    assert second.got == [1]
    assert second.done(1, group="g").take(group="g").got == [1, "ended"]


def test_a_loop_that_was_left_gives_back_what_it_has() -> None:
    world = World(LOCAL)
    owner, side = training(world)
    owner.publish().publish()
    side.take(member=1).leave_loop(member=1)
    assert side.take(member=2).got == [1, 1]
    assert side.take(member=3).got == [1, 1, 2], "two loops of a process share"


def test_a_question_is_not_answered_before_what_was_said_before_it() -> None:
    """The question overtakes the entry that says what is done."""
    world = World(LOCAL)
    owner, side = training(world)
    owner.publish().publish()
    side.take()
    world.nudges = False
    side.done(1).take()
    assert side.got == [1]
    world.nudges = True
    side.sync()
    assert side.got == [1, 2]


def test_latest_skips_what_is_superseded() -> None:
    world = World(LOCAL)
    owner, side = training(world)
    for _ in range(5):
        owner.publish()
    assert side.take(latest=True).got == [5]
    owner.publish().publish()
    assert side.done(5).take(latest=True).got == [5, 7]
    owner.finish().exit()
    world.wait(3)
    assert side.done(7).take(latest=True).got == [5, 7, "ended"]


def test_a_finished_run_gives_its_backlog() -> None:
    world = World(LOCAL)
    owner, _ = training(world)
    owner.publish().finish().exit()
    world.wait(30)
    late = world.process("late").attach("x", label="late", target=LOCAL)
    assert late.take().got == [1]
    assert late.done(1).take().got == [1, "ended"]
    assert world.run().status == "COMPLETED"


def test_what_a_replaced_attempt_publishes_is_refused() -> None:
    world = World(LOCAL)
    launch = world.launch(ranks=1, max_restarts=1)
    (old,) = launch.start()
    old.init("x", target=LOCAL).publish()
    world.wait(1)
    (new,) = launch.restart()
    new.init("x", target=LOCAL)
    old.publish()
    new.publish()
    (topic,) = world.book.topics
    assert topic.last == 2


def test_too_much_is_refused_and_noted() -> None:
    """A client looks before it writes; whoever does not is told in the Run's history."""
    world = World(LOCAL)
    owner, _ = training(world)
    owner.publish(payload="x" * MAX_PAYLOAD)
    for number in range(101):
        owner.publish(f"topic{number}")
    notes = world.notes(world.run(), "publish_refused")
    assert [note["topic"] for note in notes] == ["t", "topic100"]
    assert f"the limit is {MAX_PAYLOAD}" in notes[0]["why"]


def test_the_document_says_who_is_where() -> None:
    world = World(LOCAL)
    owner, side = training(world)
    for _ in range(3):
        owner.publish()
    side.take().done(1).take()
    owner.log(loss=1.0)
    world.wait(2)
    shown = read(world.documents[world.run().key]).topics["t"]
    (reader,) = shown.readers
    assert shown.last == 3
    assert (reader.name, reader.group, reader.done, reader.at_work, reader.behind) == (
        "eval", False, 1, {2: "eval"}, 2,
    )  # fmt: skip


def test_items_stay_a_week_and_go_with_their_run() -> None:
    world = World(LOCAL)
    owner, side = training(world)
    owner.publish().publish()
    side.close().exit()
    owner.finish().exit()
    world.wait(2 * 24 * 3600)
    late = world.process("late").attach("x", label="late", target=LOCAL)
    assert late.take().got == [1]
    late.close().exit()
    world.wait(8 * 24 * 3600)
    kept = {table for table, _ in world.saves}
    assert not {"items", "topics", "readers"} & kept


def test_ten_thousand_items_cost_no_more_each_than_the_first() -> None:
    """What one costs in the database, not in time: the same number of records, of the same size."""
    world = World(LOCAL)
    owner, side = training(world)
    sizes = []
    for number in range(1, 300):
        before = dict(world.saves)
        owner.publish(payload={"path": f"/checkpoints/{number:06}"})
        side.take().done(number)
        sizes.append(sum(len(value) for key, value in world.saves.items() if before.get(key) != value))
    assert sizes[-1] < 1.1 * sizes[20]


# --- Runs that turn out to be others --------------------------------------------------------------


def ended_with_items(world: World, count: int) -> RunOpened:
    """A local Run that only the store has: what its backend says of it."""
    owner, side = training(world)
    for _ in range(count):
        owner.publish()
    side.take().done(1).close().exit()
    owner.finish().exit()
    world.wait(5)
    found = read(world.documents[world.run().key])
    return RunOpened(
        id=found.id or 0,
        display_id="",
        project=found.project,
        url="",
        resumed=True,
        name=found.name,
        was_status=found.status,
        tags=(),
        config=b"{}",
        record=world.documents[found.key],
    )


def test_numbers_go_on_behind_items_that_only_an_earlier_database_had() -> None:
    opened = ended_with_items(World(LOCAL), 3)
    world = World(LOCAL, leases=100)
    world.server.runs[opened.id] = made_elsewhere(opened.id, "x", read(opened.record).key)
    world.server.answer("open", opened)
    owner = world.process("owner").init("x", resume=True, target=LOCAL).publish(payload="new")
    (topic,) = world.book.topics
    assert (topic.last, topic.gone) == (4, 3)
    late = world.process("late").attach("x", label="late", target=LOCAL)
    assert late.take().got == [4], "the others are not there any more"
    owner.finish().exit()
    world.wait(3)
    late.done(4).take()
    assert msgspec.json.decode(world.answers[late.spool.lease_id.encode()][-1].body)["gone"] == 3


def test_items_of_a_provisional_run_follow_those_of_the_run_that_it_turns_out_to_be() -> None:
    """Granted while the store did not answer; nothing that was handed over meanwhile is lost (G13)."""
    opened = ended_with_items(World(LOCAL), 2)
    world = World(LOCAL, leases=100)
    world.server.runs[opened.id] = made_elsewhere(opened.id, "x", read(opened.record).key)
    world.server.answer("open", Unavailable("stale file handle"))
    world.hold.add("OpenRun")
    owner = world.process("owner").init("x", resume=True, wait_s=1.0, target=LOCAL)
    world.wait(2)
    owner.publish(payload="meanwhile").publish(payload="again")
    world.server.forget_answers()
    world.server.answer("open", opened)
    world.release()
    world.wait(10)
    owner.publish(payload="after")
    late = world.process("late").attach("x", label="late", target=LOCAL)
    for number in (3, 4, 5):
        late.take().done(number)
    bodies = [msgspec.json.decode(each.body) for each in world.answers[late.spool.lease_id.encode()]]
    assert [each["item"]["payload"] for each in bodies] == ["meanwhile", "again", "after"]
    assert late.got == [3, 4, 5]


def test_a_node_hands_over_to_its_own_and_a_relay_ends_with_its_ranks_or_the_run() -> None:
    """R12: it has no verdict, and does not ask for the status once nobody of the job lives there."""
    nodes = Nodes()
    nodes.start(0, 1, 2, 3)
    nodes.wait(20)
    nodes.ranks[0].publish(payload="here")
    nodes.ranks[2].publish(payload="there")
    here = nodes.here.process("eval").attach("x", label="eval")
    there = nodes.there.process("eval").attach("x", label="eval")
    for world, side in ((nodes.here, here), (nodes.there, there)):
        side.take().done(1).take()
        answers = world.answers[side.spool.lease_id.encode()]
        assert [msgspec.json.decode(each.body)["item"]["payload"] for each in answers] == [
            "here" if side is here else "there"
        ]
    for rank in (2, 3):
        nodes.ranks[rank].finish().exit()
    nodes.wait(200)
    assert (here.got, there.got) == ([1], [1, "ended"])
    for rank in (0, 1):
        nodes.ranks[rank].finish().exit()
    nodes.wait(20)
    assert here.got == [1, "ended"]
