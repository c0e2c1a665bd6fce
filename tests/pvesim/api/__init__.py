"""The simulated node's PVE API: what pveproxy, pve-container, qemu-server and pvesh do, traps included.

    with running_api(peers=["pve2"]) as api:                      # process.py; pytest: tests/pvesim/conftest.py
        access.add_token("ci@pve!x", "secret", privileges=["VM.Audit", "VM.PowerMgmt"])
        pve = Pve(api.port, "ci@pve!x=secret")                        # client.py: plain requests, tasks followed
        api.faults.add("slow", "/nodes/pve1/lxc", seconds=6, times=1)  # faults.py: what goes wrong

| word | meaning |
|---|---|
| api | an HTTPS server of its own process: `/api2/json` on 127.0.0.1, with the node's certificate |
| facts | names, types and limits of PVE's parameters, privileges of its methods, from PVE's own schema: `schema.json` |
| call | one request of one user that may be carried out; `Simulation` holds the API's settings |
| task | a process with a log, known by its UPID; it goes on when the API ends |
| store | one guest's configuration in /etc/pve and its two locks |
| volume | a directory of files, whatever its storage calls it |
| machine | a stand-in for one VM: a process with QEMU's command line, and a guest agent that runs real commands |
| quirk | what a machine's agent is told to do wrong |
| fault | what an API, its tasks or its storages are told to do wrong |
| peer | a further node of the cluster, on paper: its directory in /etc/pve is its own, its guests run here |

A method is a function in `lxc/`, `qemu/` or beside them, a line in that place's ROUTES, and its facts. It gets a
`Call`, and ends with data or a `Failure` in PVE's words. What it does later it hands to `tasks.fork_worker`.
All state is in /etc/pve and /run/pvesim, so that several APIs in one node show the same guests, and `pvesh` too.

What is simpler than PVE: linked clones are copies that know their base; VMs and their disks are on paper; CRIU does
nothing; a busybox is `unmanaged` without being told; `.members` knows no peer;
addresses by DHCP are given by the API. Firewall, replication, SDN, PBS and RRD do not exist.

Sources: pve-container 6.1.10, qemu-server, pve-manager 9.2.11, pve-storage, pve-access-control, pve-guest-common,
pve-common; pve-http-server 6.0.5 (AnyEvent.pm); QEMU's qga/commands.c. What is marked [M] was measured with those.
Standard library only.
"""
