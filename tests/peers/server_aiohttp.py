"""A chat server with Python's aiohttp, with the WebSocket protocol of roost-chat."""

import argparse
import asyncio
import json
import signal

from aiohttp import WSMsgType, web


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


class Replica:
    def __init__(self, name):
        self.name = name
        self.chats = {}

    async def whoami(self, request):
        peer = show(request.transport.get_extra_info("peername"))
        return web.json_response({"replica": self.name, "peer": peer})

    async def session(self, request):
        chat = request.query.get("chat")
        if not chat:
            raise web.HTTPBadRequest(text="open /ws?chat=<id>\n")
        peer = show(request.transport.get_extra_info("peername"))
        tab = web.WebSocketResponse(max_msg_size=1 << 20)
        await tab.prepare(request)
        members = self.chats.setdefault(chat, set())
        members.add(tab)
        try:
            await tab.send_json({
                "type": "hello", "replica": self.name, "chat": chat, "peer": peer,
                "connections": len(members),
            })
            async for frame in tab:
                if frame.type != WSMsgType.TEXT:
                    break
                await self.heard(tab, frame.data, chat, peer)
        except ConnectionError:
            pass  # Gone without a close frame: an end like any other.
        finally:
            members.discard(tab)
            # The set may be a newer one by now, if this one was empty for a moment.
            if not members and self.chats.get(chat) is members:
                del self.chats[chat]
        return tab

    async def heard(self, tab, data, chat, peer):
        try:
            said = json.loads(data)
            if said["type"] != "say":
                raise ValueError(f"unknown type {said['type']!r}")
            text = said["text"]
        except (ValueError, KeyError, TypeError) as error:
            reason = f'{error}; expected {{"type":"say","text":"..."}}'
            await tab.send_json({"type": "error", "reason": reason})
            return
        message = {"type": "message", "replica": self.name, "chat": chat, "text": text, "from": peer}
        sending = [member.send_json(message) for member in self.chats[chat]]
        # One that has just gone is no concern of the others.
        await asyncio.gather(*sending, return_exceptions=True)


async def main():
    args = arguments()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    replica = Replica(args.name)
    app = web.Application()
    app.add_routes([web.get("/ws", replica.session), web.get("/whoami", replica.whoami)])
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    for host, port in args.listen:
        site = web.TCPSite(runner, host, int(port))
        await site.start()
    for address in runner.addresses:
        print("listening on", show(address), flush=True)
    await stop.wait()
    for tab in [tab for members in replica.chats.values() for tab in members]:
        await tab.close(code=1001)
    await runner.cleanup()


asyncio.run(main())
