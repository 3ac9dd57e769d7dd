"""A Run with an id of one's own: made, found again, refused, continued by its number and its display id."""

import pluto

first = pluto.init(project="resume", name="first", run_id="exp-1", config={"lr": 0.1})
print("first", first.resumed, first.run_id, flush=True)
first.log({"loss": 1.0}, step=0)
number = first.id
display = first.settings._display_id
first.finish()

try:
    pluto.init(project="resume", name="second", run_id="exp-1")
except RuntimeError as error:
    print("refused", type(error).__name__, flush=True)

again = pluto.init(project="resume", name="third", run_id="exp-1", resume=True, config={"more": 1})
print("again", again.resumed, again.id == number, flush=True)
again.log({"loss": 0.5}, step=1)
again.finish()

by_number = pluto.init(project="resume", run_id=number)
print("number", by_number.resumed, by_number.id == number, flush=True)
by_number.log({"loss": 0.25}, step=2)
by_number.close()

by_display = pluto.init(project="resume", run_id=display)
print("display", by_display.resumed, by_display.id == number, flush=True)
by_display.log({"loss": 0.125}, step=3)
by_display.finish()

new = pluto.init(project="resume", name="new", run_id="exp-2", resume=True)
print("new", new.resumed, new.id == number, flush=True)
new.log({"loss": 2.0}, step=0)
new.finish()

try:
    pluto.init(project="resume", fork_run_id=number)
except ValueError:
    print("fork", "ValueError", flush=True)
child = pluto.init(project="resume", name="child", fork_run_id=number, fork_step=1, config={"lr": 0.2})
print("child", child.fork_run_id == number, child.fork_step, flush=True)
child.log({"loss": 0.4}, step=2)
child.finish()
