"""Consumes through pynsq in the style of its users: a Reader with a handler that returns True to finish.

Prints one JSON line per message and per heartbeat. Ends when --count messages are finished.
"""

import argparse
import json
import ssl
import time

import nsq
import tornado.ioloop


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
        options["auth_secret"] = arguments.auth_secret
    return options


def say(**event):
    print(json.dumps(event), flush=True)


class Reader(nsq.Reader):
    def heartbeat(self, conn):
        say(event="heartbeat", node=conn.id)


def main():
    arguments = parse_arguments()
    remaining = arguments.count

    def handle(message):
        nonlocal remaining
        say(
            event="message",
            id=message.id.decode(),
            body=message.body.decode(),
            attempts=message.attempts,
            timestamp=message.timestamp,
            at=time.monotonic(),
        )
        if arguments.requeue_ms is not None and message.attempts == 1:
            message.requeue(backoff=False, time_ms=arguments.requeue_ms)
            return None
        remaining -= 1
        if remaining == 0:
            # Delayed, so that the FIN of this message is written first.
            tornado.ioloop.IOLoop.current().call_later(0.1, finish)
        return True

    def finish():
        reader.close()
        tornado.ioloop.IOLoop.current().stop()

    reader = Reader(
        message_handler=handle,
        nsqd_tcp_addresses=arguments.nsqd,
        lookupd_http_addresses=arguments.lookupd,
        topic=arguments.topic,
        channel=arguments.channel,
        max_in_flight=arguments.max_in_flight,
        heartbeat_interval=arguments.heartbeat_seconds,
        lookupd_poll_interval=1,
        **upgrades(arguments),
    )
    nsq.run()
    say(event="done")


main()
