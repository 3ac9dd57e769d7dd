"""The parts of the coordinator's mind, around one `Context`; `coordinator` puts them together."""
