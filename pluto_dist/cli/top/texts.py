"""What `top` says of itself."""

from __future__ import annotations

HELP = """\
Tab          from the Runs to the processes and back
↑ ↓          another Run, another process
Enter, c     console of the process, or of all in the line
w            why the Run ended; what the first that failed said last
e            all events of the Run
m, b         another series in the chart; all ranks: mean, smallest, largest
s, r         sort by the next column; the other way round. Or click a title
/            only lines with these words; Escape takes the filter away
g            one line for processes that are alike, or one for each
a            also earlier attempts, and sides that have left
Space, q     look now; quit

failed first began the end of the Run
died         ended without a word
crashed      a side that failed; the Run goes on
stuck        others go on, or wait for it, says the coordinator
suspect      silent for three heartbeats: stopped, or busy in one long call
behind       what it lacks takes the others more than 5 s
lost         no live coordinator has its Run; nobody can say whether it lives

LAG: steps behind the median of the ranks. CPU: percent of one core, of the
process without its children. LIVE: members that live, of all.
A line of several has the slowest STEP/S, the largest LAG and WORD, and the
sum of BACKLOG, CPU and MEMORY."""
EMPTY = "No Run goes on here. --all shows those that have ended, --dir and --home look elsewhere."
