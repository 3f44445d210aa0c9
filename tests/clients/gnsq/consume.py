"""Consumes through gnsq in the style of its users: a Consumer with a handler; returning finishes the message.

Prints one JSON line per message. Ends when --count messages are finished.
"""

import argparse
import json
import ssl
import time

import gnsq

import websocket_shim


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nsqd", action="append", default=[], help="host:port, repeatable")
    parser.add_argument("--lookupd", action="append", default=[], help="host:port of HTTP, repeatable")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--channel", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--requeue-ms", type=int, help="requeue each first delivery with this delay")
    parser.add_argument("--heartbeat-seconds", type=int, default=30)
    parser.add_argument("--max-in-flight", type=int, default=10)
    parser.add_argument("--tls-ca", help="authority to trust; requests TLS")
    parser.add_argument("--compression", choices=["snappy", "deflate"])
    parser.add_argument("--auth-secret")
    parser.add_argument("--websocket", help="connect through WebSockets at this path; --nsqd is an HTTP address")
    return parser.parse_args()


def upgrades(arguments):
    """The options that the connection requests in IDENTIFY, and its secret."""
    options = {}
    if arguments.tls_ca:
        options["tls_v1"] = True
        options["tls_options"] = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": arguments.tls_ca}
    if arguments.compression:
        options[arguments.compression] = True
    if arguments.auth_secret:
        options["auth_secret"] = arguments.auth_secret.encode()
    return options


def say(**event):
    print(json.dumps(event), flush=True)


def main():
    arguments = parse_arguments()
    if arguments.websocket:
        websocket_shim.install(arguments.websocket)
    consumer = gnsq.Consumer(
        arguments.topic,
        arguments.channel,
        nsqd_tcp_addresses=arguments.nsqd,
        lookupd_http_addresses=arguments.lookupd,
        max_in_flight=arguments.max_in_flight,
        heartbeat_interval=arguments.heartbeat_seconds,
        lookupd_poll_interval=1,
        backoff_on_requeue=False,
        **upgrades(arguments),
    )
    remaining = arguments.count

    @consumer.on_message.connect
    def handle(consumer, message):
        say(
            event="message",
            id=message.id.decode() if isinstance(message.id, bytes) else message.id,
            body=message.body.decode(),
            attempts=message.attempts,
            timestamp=message.timestamp,
            at=time.monotonic(),
        )
        if arguments.requeue_ms is not None and message.attempts == 1:
            message.enable_async()
            message.requeue(arguments.requeue_ms, backoff=False)

    @consumer.on_finish.connect
    def finished(consumer, message_id):
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
            consumer.close()

    consumer.start()
    say(event="done")


main()
