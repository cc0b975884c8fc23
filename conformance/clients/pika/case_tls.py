"""TLS: who the broker is, and who the client is."""

import os
import ssl
from pathlib import Path

import pika
from case_consume import fill
from setting import case, errors, get


@case("tls/server-certificate", need="tls")
def server_certificate(world):
    publish_and_get(world, connect(world, "ca.pem"))
    try:
        connect(world, "other.pem")
    except (ssl.SSLCertVerificationError, errors.AMQPConnectionError) as refused:
        # Some releases of pika fold it into an error of their own.
        assert "CERTIFICATE_VERIFY_FAILED" in repr(refused), repr(refused)
    else:
        raise AssertionError("an authority that signed nothing was believed")


@case("tls/external", need="tls")
def external(world):
    credentials = pika.credentials.ExternalCredentials()
    publish_and_get(world, connect(world, "ca.pem", own="client", credentials=credentials))


def connect(world, authority, own=None, **changes):
    folder = Path(os.environ["CONFORMANCE_CERTIFICATES"])
    context = ssl.create_default_context(cafile=folder / authority)
    if own:
        context.load_cert_chain(folder / f"{own}.pem", folder / f"{own}.key")
    return world.connect(ssl_options=pika.SSLOptions(context, "localhost"), port=int(os.environ["CONFORMANCE_TLS_PORT"]),
                         connection_attempts=1, **changes)


def publish_and_get(world, connection):
    channel = connection.channel()
    queue = world.queue(channel)
    fill(world, queue, 1)
    assert get(channel, queue) is not None
    channel.confirm_delivery()
    large = bytes(range(256)) * 4096
    channel.basic_publish("", queue, large)
    assert get(channel, queue) == large
