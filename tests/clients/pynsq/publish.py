"""Publishes through pynsq in the style of its users: a Writer, callbacks, tornado's loop.

Prints one JSON line per reply of nsqd: {"event": "published", "count": n} or {"event": "error", ...}.
"""

import argparse
import functools
import json
import ssl
import sys

import nsq
import tornado.ioloop


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nsqd", required=True, help="host:port of nsqd's TCP protocol")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--prefix", default="message-", help="bodies are PREFIX0, PREFIX1, ...")
    parser.add_argument("--defer-ms", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1, help="messages per MPUB; 1 uses PUB")
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


class Publisher:
    def __init__(self, arguments):
        self.arguments = arguments
        self.bodies = [f"{arguments.prefix}{n}".encode() for n in range(arguments.count)]
        self.unanswered = 0
        self.failed = False
        self.writer = nsq.Writer([arguments.nsqd], **upgrades(arguments))
        # A Writer has no event for "connected": its users publish from a timer or poll as here.
        self.starter = tornado.ioloop.PeriodicCallback(self.start_when_connected, 10)
        self.starter.start()

    def start_when_connected(self):
        if not any(conn.connected() for conn in self.writer.conns.values()):
            return
        self.starter.stop()
        topic, batch, defer = self.arguments.topic, self.arguments.batch, self.arguments.defer_ms
        for first in range(0, len(self.bodies), batch):
            bodies = self.bodies[first : first + batch]
            self.unanswered += 1
            callback = functools.partial(self.answered, count=len(bodies))
            if defer:
                self.writer.dpub(topic, defer, bodies[0], callback=callback)
            elif batch > 1:
                self.writer.mpub(topic, bodies, callback=callback)
            else:
                self.writer.pub(topic, bodies[0], callback=callback)

    def answered(self, conn, data, count):
        self.unanswered -= 1
        if isinstance(data, nsq.Error):
            self.failed = True
            say(event="error", error=repr(data))
        else:
            say(event="published", count=count, answer=data.decode())
        if self.unanswered == 0:
            tornado.ioloop.IOLoop.current().stop()


publisher = Publisher(parse_arguments())
nsq.run()
sys.exit(1 if publisher.failed else 0)
