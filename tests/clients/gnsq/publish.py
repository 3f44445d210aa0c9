"""Publishes through gnsq in the style of its users: a Producer whose calls wait for nsqd's reply.

Prints one JSON line per reply: {"event": "published", "count": n, ...} or, at the first refusal, {"event": "error", ...}.
"""

import argparse
import json
import ssl
import sys

import gnsq

import websocket_shim


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


class Connection:
    """The connection inside a Producer. A Producer itself fails here: it takes the reply to an upgrade or AUTH for
    the reply to a publish."""

    def __init__(self, arguments):
        host, port = arguments.nsqd.split(":")
        self.client = gnsq.NsqdTCPClient(host, int(port), **upgrades(arguments))

    def start(self):
        self.client.connect()
        self.client.identify()

    def publish(self, topic, body, defer=None, timeout=None):
        self.client.publish(topic, body, defer)
        self.client.check_ok()
        return b"OK"

    def multipublish(self, topic, bodies, timeout=None):
        self.client.multipublish(topic, bodies)
        self.client.check_ok()
        return b"OK"

    def close(self):
        self.client.close_stream()

    def join(self):
        pass


def main():
    arguments = parse_arguments()
    if arguments.websocket:
        websocket_shim.install(arguments.websocket)
    bodies = [f"{arguments.prefix}{n}".encode() for n in range(arguments.count)]
    producer = Connection(arguments) if upgrades(arguments) else gnsq.Producer(arguments.nsqd)
    producer.start()
    for first in range(0, len(bodies), arguments.batch):
        batch = bodies[first : first + arguments.batch]
        if arguments.defer_ms:
            answer = producer.publish(arguments.topic, batch[0], defer=arguments.defer_ms, timeout=10)
        elif arguments.batch > 1:
            answer = producer.multipublish(arguments.topic, batch, timeout=10)
        else:
            answer = producer.publish(arguments.topic, batch[0], timeout=10)
        print(json.dumps({"event": "published", "count": len(batch), "answer": answer.decode()}), flush=True)
    producer.close()
    producer.join()


try:
    main()
except gnsq.errors.NSQException as error:
    print(json.dumps({"event": "error", "error": repr(error)}), flush=True)
    sys.exit(1)
