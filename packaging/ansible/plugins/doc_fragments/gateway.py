"""The options by which all plugins of this collection reach a gateway."""

from __future__ import annotations


class ModuleDocFragment:
    """As ansible-doc asks for it."""

    DOCUMENTATION = r"""
options:
  url:
    description: Where the gateway listens, V(https://pve1:39377). Any node of a cluster answers for all of its guests.
    type: str
    required: true
    vars:
      - name: ansible_pve_exec_url
    env:
      - name: GATEWAY_URL
    ini:
      - section: pve_exec_gateway
        key: url
  token:
    description:
      - The token. Keep it in a vault, in O(token_file), or in the environment.
      - It is sent to the gateway and stands in no command line, log or error.
    type: str
    vars:
      - name: ansible_pve_exec_token
    env:
      - name: GATEWAY_TOKEN
  token_file:
    description: A file that holds the token and that nobody else can read (0600). O(token) comes before it.
    type: path
    vars:
      - name: ansible_pve_exec_token_file
    env:
      - name: GATEWAY_TOKEN_FILE
    ini:
      - section: pve_exec_gateway
        key: token_file
  ca:
    description:
      - The CA that has signed the gateway's certificate, in PEM; of a Proxmox VE cluster V(/etc/pve/pve-root-ca.pem).
      - Without it the CAs of this machine. The certificate is verified in any case.
    type: path
    vars:
      - name: ansible_pve_exec_ca
    env:
      - name: GATEWAY_CA
    ini:
      - section: pve_exec_gateway
        key: ca
  timeout:
    description: Seconds that connecting may take, and C(sudo) or C(su) to ask for their password.
    type: int
    default: 10
    vars:
      - name: ansible_pve_exec_timeout
    env:
      - name: ANSIBLE_TIMEOUT
    ini:
      - section: defaults
        key: timeout
  persist:
    description:
      - Seconds that a connection is kept for the next task, by a process of its own, as C(ControlPersist) does for ssh.
        That process knows no token.
      - V(0) makes a new connection for each task.
    type: int
    default: 60
    vars:
      - name: ansible_pve_exec_persist
    env:
      - name: ANSIBLE_PVE_EXEC_PERSIST
    ini:
      - section: pve_exec_gateway
        key: persist
  persist_directory:
    description: Where the sockets of kept connections are; it is ours alone.
    type: path
    default: ~/.ansible/pc
    env:
      - name: ANSIBLE_PERSISTENT_CONTROL_PATH_DIR
    ini:
      - section: persistent_connection
        key: control_path_dir
"""
