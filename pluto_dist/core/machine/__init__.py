"""The state machine: parts that share one `Context`, each for one concern; `coordinator` puts them together.

How processes come in: `folding` (their entries), `admission` (their claims), `ownership` (owners and epochs).
How Runs open and end: `opening`, `settle` (verdicts), `beats`, `control` (what the backend
lacks). How records go: `delivery` and `lane`, `store` (documents and copies), `node_streams`. What people and
processes see: `views`, `stragglers`. Runs of several nodes: `cluster` (the door), `shared_run`,
`changes`, `other_nodes`, `shared_topics`, `shared_folder`.
"""
