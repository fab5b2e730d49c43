"""AF_VSOCK inside a container, where the host needs no vsock_loopback."""

from __future__ import annotations

from harness import run_polynix

SERVER_AND_CLIENT = """
import fcntl, os, socket, struct, threading
def new(): return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listener = new(); listener.bind((socket.VMADDR_CID_ANY, 5000)); listener.listen()
def serve():
    while True:
        connection, (cid, port) = listener.accept()
        with connection:
            total = 0
            while data := connection.recv(65536):
                total += len(data)
            connection.sendall(b"%d bytes from %d" % (total, cid))
threading.Thread(target=serve, daemon=True).start()
own, = struct.unpack("I", fcntl.ioctl(os.open("/dev/vsock", os.O_RDONLY), socket.IOCTL_VM_SOCKETS_GET_LOCAL_CID, bytes(4)))
for cid in (socket.VMADDR_CID_LOCAL if hasattr(socket, "VMADDR_CID_LOCAL") else 1, own):
    with new() as client:
        client.connect((cid, 5000))
        client.sendall(bytes(3_000_000)); client.shutdown(socket.SHUT_WR)
        print(client.recv(100).decode(), client.getpeername())
for cid, port in ((1, 5001), (socket.VMADDR_CID_HOST, 5000), (77, 5000)):
    try: new().connect((cid, port))
    except OSError as error: print(error)
"""


def test_connections() -> None:
    outcome = run_polynix(["python3", "-c", SERVER_AND_CLIENT], cwd="/")
    assert outcome.out.decode().splitlines() == [
        "3000000 bytes from 1 (1, 5000)", "3000000 bytes from 3 (3, 5000)", "[Errno 104] Connection reset by peer", "[Errno 19] No such device",
        "[Errno 19] No such device",
    ], outcome  # fmt: skip
