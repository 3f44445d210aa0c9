"""Publishes through gnsq, as its users do: a Producer whose calls wait for nsqd's answer.

Prints one JSON line per answer: {"event": "published", "count": n, ...}.
"""

import argparse
import json

import gnsq


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nsqd", required=True, help="host:port of nsqd's TCP protocol")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--prefix", default="message-", help="bodies are PREFIX0, PREFIX1, ...")
    parser.add_argument("--defer-ms", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1, help="messages per MPUB; 1 uses PUB")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    bodies = [f"{arguments.prefix}{n}".encode() for n in range(arguments.count)]
    producer = gnsq.Producer(arguments.nsqd)
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


main()
