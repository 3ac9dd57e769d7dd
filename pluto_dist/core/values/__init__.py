"""Values: messages, entries, events, effects and records, all frozen; and the book, with all records."""
