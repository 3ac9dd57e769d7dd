"""The cluster store of a job on several nodes: etcd; its interface is in `core/values/engine`."""
