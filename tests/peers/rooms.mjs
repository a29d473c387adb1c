// Rooms with Socket.IO beside plain requests, on one address. What each has seen and done is kept in memory and told.

import { createCipheriv, createHash } from "node:crypto";
import { createServer } from "node:http";
import { fail, options, required } from "./peer.mjs";

const usage = "rooms.mjs --port PORT --name NAME";
const { port, name } = options({ port: { type: "string" }, name: { type: "string" } }, usage);
if (!port || !name) fail(`usage: ${usage}`);
const { Server } = required("socket.io");

// Requests that have come here, by chat; how often each thing was done that was to be done, by its id.
const [requests, done] = [{}, {}];
const count = (what, key) => { what[key] = (what[key] ?? 0) + 1; };
const asked = (request) => new URL(request.url, "http://rooms");

const MB = 1 << 20;

// A chat's file of as many MB, the same at each replica; no part of it is like another.
function* parts(chat, mb) {
  const key = createHash("sha256").update(chat).digest().subarray(0, 16);
  const cipher = createCipheriv("aes-128-ctr", key, Buffer.alloc(16));
  const zeros = Buffer.alloc(MB);
  for (let at = 0; at < mb; at += 1) yield cipher.update(zeros);
}

async function file(answer, chat, mb) {
  const sum = createHash("sha256");
  for (const part of parts(chat, mb)) sum.update(part);
  answer.writeHead(200, { "Content-Length": mb * MB, "Roost-Sha256": sum.digest("hex") });
  for (const part of parts(chat, mb)) {
    if (!answer.write(part)) await new Promise((more) => { answer.once("drain", more).once("close", more); });
  }
  answer.end();
}

async function body(request) {
  const sum = createHash("sha256");
  let length = 0;
  for await (const part of request) {
    sum.update(part);
    length += part.length;
  }
  return { length, sha256: sum.digest("hex") };
}

const page = `<!doctype html><meta charset="utf-8"><title>Rooms</title>
<script>
const asked = new URLSearchParams(location.search);
const [chat, transports] = [asked.get("chat"), asked.get("transports") ?? "polling,websocket"];
window.heard = [];
</script>
<script src="/socket.io/socket.io.js"></script>
<script>
window.tab = io({ query: { chat }, transports: transports.split(",") });
tab.on("hello", (on) => { window.replica = on; });
tab.on("said", (id) => { heard.push(id); });
</script>`;

// Ends a connection after an answer by so many ms at random, unless the next request has begun. Whether that is
// on its way nobody knows: it is read and done after the end, too, as half-closed connections are.
function leave({ socket }, answer, within) {
  socket.asked = (socket.asked ?? 0) + 1;
  const now = socket.asked;
  answer.on("finish", () => setTimeout(() => { if (socket.asked === now) socket.end(); }, Math.random() * within));
}

const server = createServer(async (request, answer) => {
  const url = asked(request);
  const [chat, id] = ["chat", "id"].map((key) => url.searchParams.get(key));
  answer.setHeader("Roost-Replica", name);
  if (url.searchParams.has("leave")) leave(request, answer, Number(url.searchParams.get("leave")));
  try {
    switch (`${request.method} ${url.pathname}`) {
      case "GET /state": return answer.end(JSON.stringify({ name, requests, done }));
      case "GET /page": return answer.setHeader("Content-Type", "text/html").end(page);
      case "GET /whoami": 
        return answer.end(JSON.stringify({ replica: name, chat, forwarded: request.headers["x-forwarded-for"] }));
      case "GET /file": return await file(answer, chat, Number(url.searchParams.get("mb")));
      case "POST /do": {
        const had = await body(request);
        count(done, id);
        return answer.end(JSON.stringify({ replica: name, chat, id, ...had }));
      }
      default: return answer.writeHead(404).end();
    }
  } catch { /* Its client is gone. */
    return answer.destroy();
  }
});

const io = new Server(server);
io.on("connection", (socket) => {
  const { chat } = socket.handshake.query;
  socket.join(chat);
  socket.emit("hello", name);
  socket.on("say", (id) => {
    count(done, id);
    io.to(chat).emit("said", id);
  });
});

// In front of Socket.IO's own listeners, which take what is theirs.
for (const event of ["request", "upgrade"]) {
  server.prependListener(event, (request) => {
    const chat = asked(request).searchParams.get("chat");
    if (chat) count(requests, chat);
  });
}
server.on("error", (error) => fail(`cannot listen on port ${port}: ${error.message}`));
server.listen({ host: "::", port: Number(port) }, () => console.log(`listening on ${server.address().port}`));
