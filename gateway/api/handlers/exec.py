"""POST /exec/{vmid}: run a command in a guest and answer when it has ended."""

from __future__ import annotations

from gateway.api.call import Call, Reply
from gateway.api.services import Services
from gateway.exec.reply import RunReply
from gateway.exec.text import decode_output
from gateway.exec.view import ExecResult
from gateway.web.disconnect import ClientConnection


def run_exec(services: Services, call: Call) -> Reply:
    """Runs it; the client's leaving is seen while it runs. A command's non-zero exit is not an error."""
    watch = ClientConnection.of(call.environ)
    reply = services.supervisor.run(call.vmid, call.raw, call.origin, watch)
    return Reply(build_result(reply))


def build_result(reply: RunReply) -> ExecResult:
    """The exec with its output as text, its counts fitting that text."""
    counts = reply.view["output"]
    if counts is None:
        return {**reply.view, "stdout": "", "stderr": "", "encoding": {"stdout": "utf-8", "stderr": "utf-8"}}
    stdout = decode_output(reply.stdout, counts["stdout"])
    stderr = decode_output(reply.stderr, counts["stderr"])
    return {
        **reply.view,
        "output": {"stdout": stdout.count, "stderr": stderr.count},
        "stdout": stdout.text,
        "stderr": stderr.text,
        "encoding": {"stdout": stdout.encoding, "stderr": stderr.encoding},
    }
