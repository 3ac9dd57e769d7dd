"""The state machine: parts that share one `Context`, each for one concern; `coordinator` puts them together.

How processes come in: `folding` (their entries), `admission` (their claims), `ownership` (owners and epochs).
How Runs open and end: `opening`, `settle` (after each event, with the verdict), `beats`, `control` (what the
backend lacks, and alerts). How records go: `delivery` and `lane`, `store` (documents and copies),
`node_streams` (measurements, all ranks as one). What is handed over: `topics`. What people and processes see:
`views`, `stragglers`. Runs of several nodes: `cluster` is the door; `shared_run`, `shared_topics`, `changes`
(tags and config), `other_nodes`, `shared_folder`.
"""
