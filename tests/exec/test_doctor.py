"""`pve-exec-gateway doctor`: good on a good node; a check fails where its subject is broken, and is good again then."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.app_tokens import build_tokens
from gateway.config import load
from gateway.doctor.checkup import check_all
from gateway.doctor.finding import Finding, Verdict
from gateway.doctor.guest import NAMES
from tests.exec import faults
from tests.exec.gateways import Gateway
from tests.exec.inside import living
from tests.pvesim import guests
from tests.pvesim.api.process import running_api
from tests.pvesim.guests import Guest
from tests.pvesim.services import REPOSITORY, ServicesError

VMID = 941
Broken = Callable[["Patient"], contextlib.AbstractContextManager[object]]


class Patient:
    """A gateway with an /etc/pve, a certificate, a disk for its audit log and an access control of its own."""

    def __init__(self, gateway: Gateway, etc: Path, certificate: Path, disk: Path, pvesh: Path, guest: Guest) -> None:
        self.gateway = gateway
        self.etc = etc
        self.certificate = certificate
        self.disk = disk
        self.pvesh = pvesh
        self.guest = guest

    def examine(self, vmid: int | None = None) -> dict[str, Finding]:
        """The doctor's findings by name."""
        config = load(self.gateway.services.config)
        return {finding.name: finding for finding in check_all(config, build_tokens(config), vmid)}

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """The command's exit code, and what it prints as JSON."""
        services = self.gateway.services
        done = subprocess.run(
            [services.python, "-m", "gateway", "--config", str(services.config), "doctor", "-o", "json", *arguments],
            capture_output=True, text=True, check=False, timeout=180,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def patient(
    make_gateway: Callable[..., Gateway], disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Patient]:
    home = tmp_path_factory.mktemp("patient")
    guest = guests.create(VMID, start=True)
    etc, certificate = home / "pve", home / "web.pem"
    shutil.copytree("/etc/pve", etc, symlinks=True)
    shutil.copy("/etc/pve/local/pve-ssl.pem", certificate)
    with running_api(refusal_delay=0.0) as pve:
        tokens = {"token_file": str(home / "pve.token"), "agent_token_file": str(home / "agent.token")}
        gateway = make_gateway(
            audit={"directory": str(disk / "log")},
            pve={"etc": str(etc), "api": pve.url, "pvesh": str(pve.pvesh), **tokens},
            tls={"certificate": str(certificate), "key": "/etc/pve/local/pve-ssl.key"},
        )
        gateway.audit_log = disk / "log/audit.log"
        gateway.services.command("setup")
        try:
            yield Patient(gateway, etc, certificate, disk, pve.pvesh, guest)
        finally:
            gateway.close()
            guest.destroy()


def test_a_good_node_is_good(patient: Patient) -> None:
    """All is found, in a guest, too, which has nothing left of it; the command says so by its exit code."""
    code, told = patient.run("--guest", str(VMID))
    found = {finding["name"]: finding for finding in told["findings"]}
    assert [finding for finding in found.values() if finding["verdict"] == "failed"] == []
    assert (code, told["status"]) == (0, "ok")
    assert found["liblxc"]["detail"].startswith("LXC ")
    assert found.keys() == {
        "cgroup_v2", "nsdelegate", "liblxc", "launcher", "nursery", "spool", "pmxcfs", "quorum", "certificate",
        "supervisor", "audit", "audit_chain", "clock", "tokens", "web", "pve_token", "pve_agent_token", *NAMES,
    }  # fmt: skip
    doubtful = {"guest_cgroup"}  # a machine that delegates no controller to its nodes is told so
    assert all(found[name]["verdict"] == "ok" for name in NAMES if name not in doubtful), found
    assert not [pid for pid in living("sleep") if _in_guest(pid)]


def test_without_a_guest_nothing_runs(patient: Patient) -> None:
    """And what was not asked for is skipped, which is no failure."""
    found = patient.examine()
    assert {found[name].verdict for name in NAMES} == {Verdict.SKIPPED}
    assert Verdict.FAILED not in {finding.verdict for finding in found.values()}


def _in_guest(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        return f"lxc/{VMID}/" in Path(f"/proc/{pid}/cgroup").read_text()
    return False


@contextlib.contextmanager
def replaced(path: Path, text: str) -> Iterator[None]:
    before = path.read_bytes()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_bytes(before)


def no_members(patient: Patient) -> contextlib.AbstractContextManager[None]:
    return replaced(patient.etc / ".members", "half a li")


def no_quorum(patient: Patient) -> contextlib.AbstractContextManager[None]:
    cluster = {"name": "lab", "version": 3, "nodes": 3, "quorate": 0}
    members = {"nodename": socket.gethostname(), "version": 4, "cluster": cluster, "nodelist": {}}
    return replaced(patient.etc / ".members", json.dumps(members))


def expired_certificate(patient: Patient) -> contextlib.AbstractContextManager[None]:
    """Its own, with the second of its times (the end) set back; nobody here looks at the signature."""
    der = ssl.PEM_cert_to_DER_cert(patient.certificate.read_text())
    _, ends = re.finditer(rb"\x17\x0d(\d{12}Z)", der)
    old = der[: ends.start(1)] + b"200101000000Z" + der[ends.end(1) :]
    return configured_certificate(patient, ssl.DER_cert_to_PEM_cert(old))


def strange_certificate(patient: Patient) -> contextlib.AbstractContextManager[None]:
    """Not of this key."""
    return configured_certificate(patient, Path("/etc/pve/pve-root-ca.pem").read_text())


def configured_certificate(patient: Patient, pem: str) -> contextlib.AbstractContextManager[None]:
    """The configuration names it, and the service that runs does not know of it."""
    other, config = patient.certificate.with_name("other.pem"), patient.gateway.services.config
    other.write_text(pem)
    return replaced(config, config.read_text().replace(str(patient.certificate), str(other)))


@contextlib.contextmanager
def stopped_supervisor(patient: Patient) -> Iterator[None]:
    patient.gateway.services.kill("supervisor", signal.SIGSTOP)
    try:
        yield
    finally:
        patient.gateway.services.kill("supervisor", signal.SIGCONT)


def no_web(patient: Patient) -> contextlib.AbstractContextManager[None]:
    """Nothing listens where the configuration says."""
    services = patient.gateway.services
    text = services.config.read_text()
    return replaced(services.config, text.replace(f"port: {services.port}", "port: 1"))


@contextlib.contextmanager
def forged_log(patient: Patient) -> Iterator[None]:
    """A record that nobody's key has sealed, in the middle of the log."""
    log = patient.gateway.audit_log
    before = log.read_bytes()
    where = before.index(b'"event":"exec:intent"')
    with log.open("r+b") as file:
        file.seek(where)
        file.write(b'"event":"exec:outcom"'[: len(b'"event":"exec:intent"')])
    try:
        yield
    finally:
        with log.open("r+b") as file:
            file.seek(where)
            file.write(before[where : where + len(b'"event":"exec:intent"')])


@contextlib.contextmanager
def no_key_ring(patient: Patient) -> Iterator[None]:
    ring = patient.gateway.directory / "keys/token.keys"
    ring.rename(ring.with_suffix(".away"))
    try:
        yield
    finally:
        ring.with_suffix(".away").rename(ring)


@contextlib.contextmanager
def revoked_tokens(patient: Patient) -> Iterator[None]:
    for name in ("web", "supervisor"):
        subprocess.run([patient.pvesh, "delete", f"/access/users/pve-exec-gateway@pve/token/{name}"], check=True)
    try:
        yield
    finally:
        patient.gateway.services.command("setup")


@contextlib.contextmanager
def less_privileges(patient: Patient) -> Iterator[None]:
    entry = ["set", "/access/acl", "--path=/vms", "--roles=PveExecGateway", "--users=pve-exec-gateway@pve"]
    subprocess.run([patient.pvesh, *entry, "--delete=1"], check=True)
    try:
        yield
    finally:
        subprocess.run([patient.pvesh, *entry], check=True)


@contextlib.contextmanager
def frozen_guest(patient: Patient) -> Iterator[None]:
    patient.guest.freeze()
    try:
        yield
    finally:
        patient.guest.thaw()


@contextlib.contextmanager
def no_launcher(patient: Patient) -> Iterator[None]:
    config = patient.gateway.services.config
    text = config.read_text()
    with replaced(config, text.replace("build/launcher", "build/no-launcher")):
        yield


@contextlib.contextmanager
def no_library(patient: Patient) -> Iterator[None]:
    """As a nursery says it that finds no LXC."""
    config, nursery = patient.gateway.services.config, patient.disk / "nursery"
    nursery.write_text("#!/bin/sh\necho 'liblxc.so.1: cannot open shared object file' >&2; exit 1\n")
    nursery.chmod(0o755)
    text = config.read_text()
    with replaced(config, text.replace(str(load(config).lxc.nursery), str(nursery))):
        yield


BROKEN: dict[str, tuple[Broken, set[str], bool]] = {
    "pmxcfs": (no_members, {"pmxcfs", "quorum", "web"}, False),
    "quorum": (no_quorum, {"quorum"}, False),
    "certificate-expired": (expired_certificate, {"certificate", "web"}, False),
    "certificate-of-another-key": (strange_certificate, {"certificate", "web"}, False),
    "supervisor": (stopped_supervisor, {"supervisor", "web"}, False),
    "web": (no_web, {"web"}, False),
    "audit-log-forged": (forged_log, {"audit_chain"}, False),
    "tokens": (no_key_ring, {"tokens", "web"}, False),
    "pve-tokens-revoked": (revoked_tokens, {"pve_token", "pve_agent_token"}, False),
    "pve-privileges": (less_privileges, {"pve_token"}, False),
    "guest-frozen": (frozen_guest, set(NAMES), True),
    "launcher": (no_launcher, {"launcher"}, False),
    "liblxc": (no_library, {"liblxc"}, False),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_found(patient: Patient, what: str) -> None:
    """By the check whose subject it is, with what to do; and no check fails whose subject is well."""
    broken, expected, in_guest = BROKEN[what]
    with broken(patient):
        found = patient.examine(VMID if in_guest else None)
    failed = failures(found)
    assert failed.keys() <= expected, failed
    assert what.split("-")[0] in {name.split("_")[0] for name in failed}
    assert all(finding.detail and finding.remedy for finding in failed.values())


def failures(found: dict[str, Finding]) -> dict[str, Finding]:
    return {name: finding for name, finding in found.items() if finding.verdict is Verdict.FAILED}


def test_and_all_is_good_again(patient: Patient) -> None:
    """Once everything is as it was."""
    patient.gateway.services.wait_ready()
    assert failures(patient.examine(VMID)) == {}


def test_a_full_audit_disk_is_found(patient: Patient) -> None:
    """And that it takes records again, as soon as there is room; the command fails meanwhile."""
    with faults.full(patient.gateway, patient.disk):
        code, told = patient.run()
        (finding,) = (finding for finding in told["findings"] if finding["name"] == "audit")
        assert (code, told["status"], finding["verdict"]) == (1, "failed", "failed")
        assert "No space left" in finding["detail"]
    patient.gateway.services.wait_ready()
    assert patient.examine()["audit"].verdict is Verdict.OK


def test_a_support_bundle_holds_no_secret(patient: Patient, tmp_path: Path) -> None:
    """Canaries stand in the gateway's files, in commands, their environment, input and output, in the log and in a
    guest's configuration; the bundle, which is its owner's alone, shows none of them."""
    services = patient.gateway.services
    canary = "Canary7c1f4e"
    token = patient.gateway.token(canary)
    conf = patient.etc / f"nodes/{socket.gethostname()}/lxc/{VMID}.conf"
    with contextlib.closing(patient.gateway.api()) as api:
        api.run(VMID, ["echo", canary], env={"SECRET": canary}, stdin=canary, labels={"canary": canary})
        api.run(VMID, [f"/no/such/{canary}"])
    journalctl = tmp_path / "journalctl"
    said = (
        f"used {token}", f"Authorization: Bearer {canary}", f"PVEAPIToken=a@pve!b={canary}", f"https://u:{canary}@pve",
        "a line that tells something",
    )  # fmt: skip
    journalctl.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in said))
    journalctl.chmod(0o755)
    bundle = tmp_path / "bundle.tar.gz"
    with (
        replaced(conf, conf.read_text() + f"#{canary}\n"),
        replaced(services.config, services.config.read_text() + f"# {canary}\n"),
    ):
        done = subprocess.run(
            [services.python, "-m", "gateway", "--config", services.config, "support-bundle", bundle, "--guest",
             str(VMID), "--journalctl", journalctl],
            check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert bundle.stat().st_mode & 0o777 == 0o600
    with tarfile.open(bundle) as tar:
        texts = {member.name.rpartition("/")[2]: tar.extractfile(member) for member in tar.getmembers()}
        held = {name: file.read().decode() for name, file in texts.items() if file is not None}
    assert held.keys() == {
        "doctor.json", "config.yaml", "versions.json", "node.txt", "log.txt", "health.json", "metrics.txt"
    }  # fmt: skip
    whole = "\n".join(held.values())
    assert canary not in whole and token not in whole and token.rpartition(".")[2] not in whole
    for file in (*patient.certificate.parent.glob("*.token"), *(patient.gateway.directory / "keys").iterdir()):
        data = file.read_bytes()
        words = re.findall(rb"[0-9A-Za-z-]{32,}", data)
        assert data.hex() not in whole and not any(word.decode() in whole for word in words), file
    assert "a line that tells something" in held["log.txt"] and held["log.txt"].count("[removed]") == 4
    assert "pve_exec_gateway_execs_total{" in held["metrics.txt"]
    assert json.loads(held["health.json"])["audit"]["records"] > 0


def test_a_bundle_replaces_nothing(patient: Patient, tmp_path: Path) -> None:
    """Neither a file nor what a link leads to."""
    link = tmp_path / "bundle"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServicesError, match="File exists"):
        patient.gateway.services.command("support-bundle", str(link))
    assert not (tmp_path / "elsewhere").exists()
