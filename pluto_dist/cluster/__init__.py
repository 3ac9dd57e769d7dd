"""The cluster store of a job on several nodes: its `interface`, `etcd` as one, and the `wire` to it."""
