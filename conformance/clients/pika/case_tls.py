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


@case("tls/expired", need="tls")
def expired(world):
    refused(lambda: connect(world, "ca.pem", own="expired"))


@case("tls/wrong-name", need="tls")
def wrong_name(world):
    told = refused(lambda: connect(world, "ca.pem", name="mq.example.com"))
    assert "mq.example.com" in told, told


@case("tls/old-version", need="tls")
def old_version(world):
    context = trusting("ca.pem")
    # What a library of today no longer says unless it is told to.
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    refused(lambda: connect_with(world, context))


@case("tls/plain", need="tls")
def plain(world):
    refused(lambda: world.connect(port=int(os.environ["CONFORMANCE_TLS_PORT"]), connection_attempts=1,
                                  socket_timeout=10, blocked_connection_timeout=10))


def refused(connects):
    """What is said about a connection that does not come to be."""
    try:
        connects()
    except (OSError, errors.AMQPConnectionError) as why:
        return repr(why)
    raise AssertionError("it was let in")


def trusting(authority):
    return ssl.create_default_context(cafile=Path(os.environ["CONFORMANCE_CERTIFICATES"]) / authority)


def connect(world, authority, own=None, name="localhost", **changes):
    context = trusting(authority)
    if own:
        folder = Path(os.environ["CONFORMANCE_CERTIFICATES"])
        context.load_cert_chain(folder / f"{own}.pem", folder / f"{own}.key")
    return connect_with(world, context, name, **changes)


def connect_with(world, context, name="localhost", **changes):
    return world.connect(ssl_options=pika.SSLOptions(context, name), port=int(os.environ["CONFORMANCE_TLS_PORT"]),
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
