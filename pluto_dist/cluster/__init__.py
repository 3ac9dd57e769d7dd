"""The cluster store of a job on several nodes: its interface, etcd, and etcd's requests."""
