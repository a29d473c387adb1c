"""Chat tabs with Python's websockets: do all of them hear each other?"""

import argparse
import asyncio
import contextlib
import json
import ssl
import sys

from websockets.asyncio.client import connect


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


def options(args):
    # Directly: a proxy of the environment would not see the router.
    options = {"proxy": None}
    if args.address:
        options["host"] = args.address
    if args.ca:
        options["ssl"] = ssl.create_default_context(cafile=args.ca)
    return options


async def count(tab, expected):
    """Counts the expected messages in `tab` until all are there, or until it is cancelled."""
    missing = set(expected)
    with contextlib.suppress(asyncio.CancelledError):
        async for frame in tab:
            message = json.loads(frame)
            if message["type"] == "message":
                missing.discard(message["text"])
            if not missing:
                break
    return len(expected) - len(missing)


async def main():
    args = arguments()
    async with contextlib.AsyncExitStack() as stack:
        tabs, replicas = [], []
        for _ in range(args.tabs):
            tab = await stack.enter_async_context(connect(args.url, **options(args)))
            hello = json.loads(await asyncio.wait_for(tab.recv(), 10))
            tabs.append(tab)
            replicas.append(hello["replica"])
        expected = [f"{args.say} {number}" for number in range(args.tabs)]
        for tab, text in zip(tabs, expected):
            await tab.send(json.dumps({"type": "say", "text": text}))
        counts = [asyncio.create_task(count(tab, expected)) for tab in tabs]
        _, late = await asyncio.wait(counts, timeout=args.limit)
        for task in late:
            task.cancel()
        received = await asyncio.gather(*counts)
    print(json.dumps({"replicas": replicas, "received": received}))
    return received == [args.tabs] * args.tabs


sys.exit(0 if asyncio.run(main()) else 1)
