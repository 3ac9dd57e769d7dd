"""The cluster store of a job on several nodes: `etcd` as one, and the `wire` to it."""
