"""Training frameworks: a Lightning `Logger` and a Hugging Face `TrainerCallback`.

Each module loads its framework; nothing else of this package does.
"""
