"""Values, all frozen, and the book, with all records.

From processes: `lifecycle` (entries), `messages`. In and out of the core: `events`, `effects`. What is
remembered: `records`, `book`; `document` is what others see of it. Interfaces with their requests and
answers: `backend`; `engine` (a cluster store's answers) with `cluster` (the documents in it). Identities:
`ids`. What is handed over: `topics`.
"""
