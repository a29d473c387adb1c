#!/usr/bin/env python3
"""Captures what TLS clients send first, from loopback sockets, into hellos/.

    capture.py [NAME ...]

Runs each client that is installed against a listener of its own, which answers nothing and notes the
first handshake message. A client fails then, as it must. `resumed` connects by way of a real server
first, so that there is a session ticket to offer.
"""

import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

HOST = "lobby.rooms.example.com"
HELLOS = pathlib.Path(__file__).parent / "hellos"
URL = f"https://{HOST}:{{port}}/ws"
PYTHON = """
import socket, ssl
context = ssl._create_unverified_context()
context.set_alpn_protocols(["http/1.1"])
context.wrap_socket(socket.create_connection(("127.0.0.1", {port})), server_hostname="{name}")
"""
NODE = """
require('tls').connect({{port: {port}, host: '127.0.0.1', servername: '%s', ALPNProtocols: ['http/1.1']}})
    .on('error', () => {{}})
""" % HOST
GO = """package main
import "crypto/tls"
func main() { tls.Dial("tcp", "127.0.0.1:{port}", &tls.Config{ServerName: "%s"}) }
""" % HOST
JAVA = """import javax.net.ssl.*; import java.util.List;
class Hello { public static void main(String[] a) throws Exception {
  var s = (SSLSocket) SSLSocketFactory.getDefault().createSocket("127.0.0.1", {port});
  var p = s.getSSLParameters(); p.setServerNames(List.of(new SNIHostName("%s")));
  s.setSSLParameters(p); s.startHandshake(); } }
""" % HOST
FIREFOX = f"""user_pref("network.dns.localDomains", "{HOST}");
user_pref("security.tls.ech.grease_probability", 100);
user_pref("security.tls.enable_kyber", true);
"""


def chromium(port, tmp, *more):
    return ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--host-rules=MAP * 127.0.0.1:%d" % port, "--no-first-run", *more,
            f"--user-data-dir={tmp}/chromium", "--ignore-certificate-errors",
            URL.format(port=port)]


def firefox(port, tmp):
    profile = tmp / "firefox"
    profile.mkdir()
    (profile / "user.js").write_text(FIREFOX)
    return ["firefox", "--headless", "--no-remote", "--profile", str(profile), URL.format(port=port)]


def source(tmp, name, text, port):
    path = tmp / name
    path.write_text(text.replace("{port}", str(port)))
    return str(path)


def s_client(port, *more):
    return ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *more]


NAMED = ["-servername", HOST]
CLIENTS = {
    "openssl": lambda port, tmp: s_client(port, *NAMED),
    "openssl-tls12": lambda port, tmp: s_client(port, "-tls1_2", *NAMED),
    "openssl-upper-case": lambda port, tmp: s_client(port, "-servername", HOST.upper()),
    "openssl-no-name": lambda port, tmp: s_client(port, "-noservername"),
    "curl": lambda port, tmp: ["curl", "-sk", "--resolve", f"{HOST}:{port}:127.0.0.1", URL.format(port=port)],
    "python": lambda port, tmp: ["python3", "-c", PYTHON.format(port=port, name=HOST)],
    "python-address": lambda port, tmp: ["python3", "-c", PYTHON.format(port=port, name="127.0.0.1")],
    "node": lambda port, tmp: ["node", "-e", NODE.format(port=port)],
    "go": lambda port, tmp: ["go", "run", source(tmp, "hello.go", GO, port)],
    "java": lambda port, tmp: ["java", source(tmp, "Hello.java", JAVA, port)],
    "chromium": chromium,
    "firefox": firefox,
}


def exactly(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def hello(connection):
    """The records of the first handshake message."""
    sent, message = b"", b""
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4]):
        header = exactly(connection, 5)
        if header[0] != 22:
            raise EOFError
        body = exactly(connection, int.from_bytes(header[3:5]))
        sent, message = sent + header + body, message + body
    return sent


def capture(name, command, wanted=HOST.encode()):
    """The first ClientHello with this name; a browser connects to other hosts, too."""
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory() as tmp:
        listener.settimeout(90)
        port = listener.getsockname()[1]
        client = subprocess.Popen(command(port, pathlib.Path(tmp)), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(30)
                    try:
                        found = hello(connection)
                    except (EOFError, OSError):
                        continue
                    if wanted in found.lower():
                        return found
        finally:
            client.kill()
            client.wait()


def resumed(name):
    """A ClientHello that offers a session of TLS 1.3 (its ticket is in `pre_shared_key`)."""
    with tempfile.TemporaryDirectory() as tmp:
        key, certificate, session = (f"{tmp}/{name}" for name in ("key", "certificate", "session"))
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key,
                        "-out", certificate, "-subj", f"/CN={HOST}"], check=True, **quiet)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        server = subprocess.Popen(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-key", key,
                                   "-cert", certificate, "-www"], **quiet)
        try:
            for _ in range(100):
                asked = subprocess.run(s_client(port, *NAMED, "-sess_out", session, "-ign_eof"),
                                       input=b"GET / HTTP/1.0\r\n\r\n", stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
                if asked.returncode == 0:
                    break
        finally:
            server.kill()
            server.wait()
        return capture(name, lambda port, tmp: s_client(port, *NAMED, "-sess_in", session))


def main():
    HELLOS.mkdir(exist_ok=True)
    for name in sys.argv[1:] or [*CLIENTS, "openssl-resumed"]:
        if name == "openssl-resumed":
            found = resumed(name)
        else:
            program = CLIENTS[name](0, pathlib.Path(tempfile.mkdtemp()))[0]
            if not shutil.which(program):
                print(f"{name}: there is no {program} here", file=sys.stderr)
                continue
            wanted = b"" if name in ("openssl-no-name", "python-address") else HOST.encode()
            try:
                found = capture(name, CLIENTS[name], wanted)
            except TimeoutError:
                print(f"{name}: it did not connect", file=sys.stderr)
                continue
        (HELLOS / name).write_bytes(found)
        print(f"{name}: {len(found)} bytes")


main()
