"""The state machine: parts that share one `Context`, each for one concern; `coordinator` puts them together.

How processes come in: `folding` (their entries), `admission` (their claims), `ownership` (owners and epochs).
How Runs open and end: `opening`, `restoring`, `settle` (after each event, with the verdict), `beats`,
`control` (what the backend lacks). How records go: `delivery` and `lane`, `reducing` (all ranks as one),
`store` (documents and copies), `sampling`. What is handed over: `topics`. What people and processes see:
`views`, `queries`, `alerts`, `stragglers`, `leftovers`. Runs of several nodes: `cluster` is the door;
`shared_run`, `shared_topics`, `changes` (tags and config), `membership`, `lookout`, `clocks`.
"""
