"""A chat server with Python's websockets, with the WebSocket protocol of roost-chat."""

import argparse
import asyncio
import contextlib
import http
import json
import signal
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import broadcast, serve
from websockets.exceptions import ConnectionClosed


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", nargs=2, metavar=("HOST", "PORT"), action="append",
                        required=True, help="listen there; can be given several times")
    parser.add_argument("--name", required=True, help="the name of this replica")
    return parser.parse_args()


def show(address):
    """An address as roost-chat writes it."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def chat_of(request):
    return parse_qs(urlsplit(request.path).query).get("chat", [""])[0]


def refuse_without_chat(connection, request):
    if not chat_of(request):
        return connection.respond(http.HTTPStatus.BAD_REQUEST, "open /ws?chat=<id>\n")


class Replica:
    def __init__(self, name):
        self.name = name
        self.chats = {}

    async def session(self, connection):
        chat = chat_of(connection.request)
        peer = show(connection.remote_address)
        members = self.chats.setdefault(chat, set())
        members.add(connection)
        try:
            await connection.send(json.dumps({
                "type": "hello", "replica": self.name, "chat": chat, "peer": peer,
                "connections": len(members),
            }))
            async for frame in connection:
                try:
                    said = json.loads(frame)
                    if said["type"] != "say":
                        raise ValueError(f"unknown type {said['type']!r}")
                    text = said["text"]
                except (ValueError, KeyError, TypeError) as error:
                    reason = f'{error}; expected {{"type":"say","text":"..."}}'
                    await connection.send(json.dumps({"type": "error", "reason": reason}))
                    continue
                broadcast(members, json.dumps({
                    "type": "message", "replica": self.name, "chat": chat, "text": text,
                    "from": peer,
                }))
        except ConnectionClosed:
            pass  # Gone without a close frame: an end like any other.
        finally:
            members.discard(connection)
            # The set may be a newer one by now, if this one was empty for a moment.
            if not members and self.chats.get(chat) is members:
                del self.chats[chat]


async def main():
    args = arguments()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    replica = Replica(args.name)
    async with contextlib.AsyncExitStack() as servers:
        for host, port in args.listen:
            server = await servers.enter_async_context(
                serve(replica.session, host, int(port), process_request=refuse_without_chat))
            for socket in server.sockets:
                print("listening on", show(socket.getsockname()), flush=True)
        await stop.wait()


asyncio.run(main())
