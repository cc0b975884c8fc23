"""Free ports, and whether an AMQP broker answers on one."""

import socket


def free_ports(count):
    """`count` different ports nobody listens on; held together, so that none is given out twice."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def speaks_amqp(port):
    """True when a connection gets connection.start (a method frame on channel 0)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False
