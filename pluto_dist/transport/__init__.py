"""The socket between processes and their coordinator: a ROUTER and its DEALERs."""
