// A chat server with Node's ws, with the WebSocket protocol of roost-chat.

import { createServer } from "node:http";
import { WebSocket, WebSocketServer, fail, options, show } from "./peer.mjs";

const usage = "server.mjs --listen HOST PORT [--listen HOST PORT]... --name NAME";

// parseArgs has no options of two values: HOST PORT becomes HOST,PORT first.
const args = process.argv.slice(2);
for (let at = args.indexOf("--listen"); at >= 0; at = args.indexOf("--listen", at + 1)) {
  args.splice(at + 1, 2, `${args[at + 1]},${args[at + 2]}`);
}
const shape = { listen: { type: "string", multiple: true }, name: { type: "string" } };
const { listen, name } = options(shape, usage, args);
if (!listen || !name) fail(`usage: ${usage}`);

const chats = new Map();
const sockets = new WebSocketServer({ noServer: true, maxPayload: 1 << 20 });

function session(socket, chat, peer) {
  const members = chats.get(chat) ?? new Set();
  chats.set(chat, members.add(socket));
  const hello = { type: "hello", replica: name, chat, peer, connections: members.size };
  socket.send(JSON.stringify(hello));
  socket.on("message", (frame) => {
    let said;
    try {
      said = JSON.parse(frame);
    } catch { /* Answered below, as anything else that is not a "say". */ }
    if (said?.type !== "say" || typeof said.text !== "string") {
      const reason = 'expected {"type":"say","text":"..."}';
      socket.send(JSON.stringify({ type: "error", reason }));
      return;
    }
    const message = { type: "message", replica: name, chat, text: said.text, from: peer };
    const frames = JSON.stringify(message);
    for (const member of members) {
      if (member.readyState === WebSocket.OPEN) member.send(frames);
    }
  });
  socket.on("error", () => {}); // Its close follows.
  socket.on("close", () => {
    members.delete(socket);
    // The set may be a newer one by now, if this one was empty for a moment.
    if (members.size === 0 && chats.get(chat) === members) chats.delete(chat);
  });
}

function upgrade(request, stream, head) {
  const chat = new URL(request.url, "http://chat").searchParams.get("chat");
  if (!chat) {
    stream.end("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nopen /ws?chat=<id>\n");
    return;
  }
  const peer = show(stream.remoteAddress, stream.remotePort);
  sockets.handleUpgrade(request, stream, head, (socket) => session(socket, chat, peer));
}

const servers = listen.map((pair) => {
  const [host, port] = pair.split(",");
  const server = createServer((_, answer) => answer.writeHead(426).end("WebSockets only\n"));
  server.on("upgrade", upgrade);
  server.on("error", (error) => fail(`cannot listen on ${show(host, port)}: ${error.message}`));
  server.listen({ host, port: Number(port), ipv6Only: host.includes(":") }, () => {
    const { address, port } = server.address();
    console.log(`listening on ${show(address, port)}`);
  });
  return server;
});

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => {
    for (const server of servers) server.close();
    for (const members of chats.values()) {
      for (const member of members) member.close(1001);
    }
    setTimeout(() => process.exit(0), 2000).unref();
  });
}
