"""Chat tabs with Python's aiohttp: do all of them hear each other?"""

import argparse
import asyncio
import contextlib
import json
import socket
import ssl
import sys

import aiohttp
from aiohttp.abc import AbstractResolver


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="for example ws://127.0.0.1:8080/ws?chat=42")
    parser.add_argument("--tabs", type=int, default=3, help="connections to open [%(default)s]")
    parser.add_argument("--say", default="hello", metavar="TEXT",
                        help="tab I says 'TEXT I' [%(default)s]")
    parser.add_argument("--limit", type=float, default=5, metavar="SECONDS",
                        help="time for all messages to arrive everywhere [%(default)s]")
    parser.add_argument("--address", help="what the URL's name means [ask DNS]")
    parser.add_argument("--ca", help="for wss: believe the authorities in this file")
    return parser.parse_args()


class Fixed(AbstractResolver):
    """Every name means one address."""

    def __init__(self, address):
        self.address = address

    async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        return [{"hostname": host, "host": self.address, "port": port, "family": family,
                 "proto": 0, "flags": socket.AI_NUMERICHOST}]

    async def close(self):
        pass


async def count(tab, expected):
    """Counts the expected messages in `tab` until all are there, or until it is cancelled."""
    missing = set(expected)
    with contextlib.suppress(asyncio.CancelledError):
        async for frame in tab:
            message = json.loads(frame.data)
            if message["type"] == "message":
                missing.discard(message["text"])
            if not missing:
                break
    return len(expected) - len(missing)


async def main():
    args = arguments()
    connector = aiohttp.TCPConnector(
        resolver=Fixed(args.address) if args.address else None,
        ssl=ssl.create_default_context(cafile=args.ca) if args.ca else True)
    async with contextlib.AsyncExitStack() as stack:
        # One session: what it keeps alive is for all tabs, as in an application.
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        tabs, replicas = [], []
        for _ in range(args.tabs):
            tab = await stack.enter_async_context(session.ws_connect(args.url))
            hello = json.loads(await asyncio.wait_for(tab.receive_str(), 10))
            tabs.append(tab)
            replicas.append(hello["replica"])
        expected = [f"{args.say} {number}" for number in range(args.tabs)]
        for tab, text in zip(tabs, expected):
            await tab.send_json({"type": "say", "text": text})
        counts = [asyncio.create_task(count(tab, expected)) for tab in tabs]
        _, late = await asyncio.wait(counts, timeout=args.limit)
        for task in late:
            task.cancel()
        received = await asyncio.gather(*counts)
    print(json.dumps({"replicas": replicas, "received": received}))
    return received == [args.tabs] * args.tabs


sys.exit(0 if asyncio.run(main()) else 1)
