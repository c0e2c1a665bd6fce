"""TLS versions, ALPN, and certificates that change on disk."""

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from gateway.web.tls import ServerTls
from tests.exec.waiting import until
from tests.web.conftest import Server, StartServer, make_certificate, unverified_context
from tests.web.test_lifecycle import Load

SOON = 5.0


def common_name(server: Server) -> str:
    """The name in the certificate that a new connection is shown."""
    with unverified_context().wrap_socket(server.raw()) as sock:
        der = sock.getpeercert(binary_form=True)
    assert der is not None
    command = ["openssl", "x509", "-inform", "DER", "-noout", "-subject"]
    return subprocess.run(command, input=der, capture_output=True, check=True).stdout.decode().split("=")[-1].strip()


def install(pair: tuple[Path, Path], cert: Path, key: Path) -> None:
    """Put a pair in place as PVE does: each file by rename."""
    for source, target in zip(pair, (cert, key), strict=True):
        copy = target.with_suffix(".tmp")
        shutil.copy(source, copy)
        copy.rename(target)


def test_new_certificate_is_served_without_a_restart(start_server: StartServer, tmp_path: Path) -> None:
    """New connections see the new certificate within 10 s; open ones go on; a broken pair changes nothing."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    install(make_certificate(tmp_path, "first"), cert, key)
    server = start_server(tls_cert=str(cert), tls_key=str(key))
    client = server.client()
    assert client.request("GET", "/").status == 200
    assert common_name(server) == "first"
    cert.write_text("not a certificate")
    begin = time.monotonic()
    while time.monotonic() - begin < 2.5:
        assert common_name(server) == "first"
    install(make_certificate(tmp_path, "second"), cert, key)
    begin = time.monotonic()
    while common_name(server) != "second":
        assert time.monotonic() - begin < 10
        assert client.request("GET", "/").status == 200
    assert client.request("GET", "/").status == 200
    assert server.log.read_text().count("keeping the TLS certificate in use") == 1


def test_no_request_is_lost_over_a_new_certificate(start_server: StartServer, tmp_path: Path) -> None:
    """Clients on kept and on new connections go on without a failure while certificates change, halves of pairs too."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    names = ["one", "two", "three"]
    pairs = [make_certificate(tmp_path, name) for name in names]
    install(pairs[0], cert, key)
    server = start_server(tls_cert=str(cert), tls_key=str(key))
    assert common_name(server) == names[0]
    with Load(server) as load:
        for number in (1, 2):
            install((pairs[number][0], pairs[number - 1][1]), cert, key)
            load.await_more(50)
            install(pairs[number], cert, key)
            begin = time.monotonic()
            while common_name(server) != names[number]:
                assert time.monotonic() - begin < 10
                load.await_more(1)
            load.await_more(50)
    assert load.failures == []


def test_only_http_1_1_and_tls_1_2_up(start_server: StartServer) -> None:
    """ALPN offers http/1.1 alone, to a client that would rather speak h2; TLS 1.1 is refused."""
    server = start_server()
    context = unverified_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with context.wrap_socket(server.raw()) as sock:
        assert (sock.selected_alpn_protocol(), sock.version()) == ("http/1.1", "TLSv1.3")
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]
    assert subprocess.run(command, input=b"", capture_output=True, check=False).returncode != 0


def test_session_resumption_is_not_taken_for_leaving(start_server: StartServer) -> None:
    """A client may resume its session, in TLS 1.2 too."""
    server = start_server()
    context = unverified_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with context.wrap_socket(server.raw()) as first:
        session = first.session
    with context.wrap_socket(server.raw(), session=session) as second:
        assert second.session_reused


def test_a_look_takes_what_is_on_disk(tmp_path: Path) -> None:
    """Between two looks the context stays; after one it follows the files."""
    first, second = make_certificate(tmp_path, "a"), make_certificate(tmp_path, "b")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    install(first, cert, key)
    tls = ServerTls(cert, key)
    context = tls.context
    tls.look()
    assert tls.context is context
    install(second, cert, key)
    assert tls.context is context
    tls.look()
    assert tls.context is not context


def test_pair_that_does_not_match_is_tried_again(tmp_path: Path) -> None:
    """Between the renames of certificate and key the old pair stays; then the new one is taken."""
    first, second = make_certificate(tmp_path, "a"), make_certificate(tmp_path, "b")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    install(first, cert, key)
    tls = ServerTls(cert, key)
    context = tls.context
    install((second[0], first[1]), cert, key)
    tls.look()
    assert tls.context is context
    key.unlink()
    tls.look()
    assert tls.context is context
    install(second, cert, key)
    tls.look()
    assert tls.context is not context


def test_files_that_hang_keep_nobody_waiting(start_server: StartServer, tmp_path: Path) -> None:
    """While the certificate's file does not open, as on a dead pmxcfs, new connections and requests are served; and
    once it does, the new certificate is."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    install(make_certificate(tmp_path, "first"), cert, key)
    second = make_certificate(tmp_path, "second")
    server = start_server(tls_cert=str(cert), tls_key=str(key))
    assert common_name(server) == "first"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pipe.rename(cert)  # who opens it waits for a writer, and then for what he writes

    def open_writer() -> int:
        assert common_name(server) == "first"
        with contextlib.suppress(OSError):
            return os.open(cert, os.O_WRONLY | os.O_NONBLOCK)
        return 0

    writer = until(open_writer, why="the file is being read")
    try:
        for _ in range(20):
            assert common_name(server) == "first"
        assert server.client(timeout=SOON).request("GET", "/").status == 200
        install(second, cert, key)
    finally:
        os.close(writer)
    until(lambda: common_name(server) == "second", within=10)


def test_unusable_pair_at_the_start_is_a_clear_error(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """A missing file, an encrypted or a foreign key: a ValueError that names the file, not its content."""
    other = make_certificate(tmp_path, "other")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", other[1], "-out", locked, "-aes256", "-passout", "pass:secret"],
        check=True,
        capture_output=True,
    )
    for cert, key in ((tmp_path / "none", certificate[1]), (certificate[0], other[1]), (other[0], locked)):
        with pytest.raises(ValueError, match=r"cannot (load|read)") as caught:
            ServerTls(cert, key)
        assert "BEGIN" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_half_closed_handshake_is_dropped(start_server: StartServer) -> None:
    """A client that closes in the middle of the handshake costs nothing and stops nothing."""
    server = start_server()
    for _ in range(50):
        with server.raw() as sock:
            sock.sendall(b"\x16\x03\x01\x00\xc8")
            sock.shutdown(socket.SHUT_WR)
    assert server.client().request("GET", "/").status == 200
