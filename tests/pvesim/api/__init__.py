"""The simulated node's PVE API and its QEMU machines: what pveproxy, qemu-server and a guest agent do, traps included.

| word | meaning |
|---|---|
| api | an HTTPS server of its own process: `/api2/json` on 127.0.0.1:8006, with the node's certificate |
| facts | names, types and limits of PVE's parameters, taken from PVE's own schema: `schema.json` |
| machine | a stand-in for one VM: a process with QEMU's command line, and a guest agent that runs real commands |
| quirk | what a machine's agent is told to do wrong |

Sources: pve-http-server 6.0.5 (AnyEvent.pm), qemu-server (API2/Qemu/Agent.pm, QemuServer/Agent.pm, QMPClient.pm) and
QEMU's qga/commands.c; what is marked [M] was measured with those files and a real qemu-ga 7.2 behind them.
Issue by issue this grows into more of the API: a route in `routes.py`, its facts in `schema.json`.
Standard library only.
"""
