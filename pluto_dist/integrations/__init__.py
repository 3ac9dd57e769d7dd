"""Training frameworks: a Lightning `Logger` and a Hugging Face `TrainerCallback`.

`lightning` and `transformers` load their frameworks, and nothing else of this package does. `source` is what
both have in common: which Run it is, and when it is opened.
"""
