"""A simulated Proxmox VE node: namespaces of its own, PVE's real paths, real LXC containers.

| word | meaning |
|---|---|
| node | one set of mount, pid, cgroup, uts, ipc and network namespaces; its pid 1 is the node's life |
| state | the host directory that identifies a node: `node.json`, `node.log`, the guests' root file systems |
| instance | eight hex digits made from the state directory; names the node's cgroup, `pvesim-<instance>` |
| guest | a real LXC container in the node, configured as PVE configures its own |
| template | what a guest's root file system is made from: `busybox` or `debian13` |

`python3 -m tests.pvesim --help` lists the commands. Code that runs in a node uses `tests.pvesim.guests`.
Standard library only, so that it runs before any virtual environment exists.
"""
