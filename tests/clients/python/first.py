"""Runs a command in a guest: python first.py 101 uname -a"""

import os
import ssl
import sys

from pve_exec import ApiClient, Command, Configuration, ExecRequest, ExecsApi

vmid, *command = sys.argv[1:]
client = ApiClient(Configuration(host=os.environ["GATEWAY_URL"], access_token=os.environ["GATEWAY_TOKEN"]))
context = ssl.create_default_context(cafile=os.environ.get("GATEWAY_CA"))
context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # from Python 3.13 on it would ask for what PVE's own CA lacks
client.rest_client.pool_manager.connection_pool_kw["ssl_context"] = context

result = ExecsApi(client).run_exec(int(vmid), ExecRequest(command=Command(command)))
print(result.stdout, end="")
sys.exit(result.exit_code)
