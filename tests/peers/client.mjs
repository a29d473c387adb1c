// Chat tabs with Node's ws: do all of them hear each other?

import { readFileSync } from "node:fs";
import { isIPv6 } from "node:net";
import { WebSocket, fail, options } from "./peer.mjs";

const usage = "client.mjs --url ws://HOST:PORT/ws?chat=ID [--tabs N] [--say TEXT] [--limit SECONDS] " +
  "[--address ADDR] [--ca FILE]";
const args = options({
  url: { type: "string" },
  tabs: { type: "string", default: "3" },
  say: { type: "string", default: "hello" },
  limit: { type: "string", default: "5" },
  address: { type: "string" },
  ca: { type: "string" },
}, usage);
const [tabs, limit] = [Number(args.tabs), Number(args.limit)];
if (!args.url || !Number.isInteger(tabs) || !(limit > 0)) fail(`usage: ${usage}`);

// Tab I says "TEXT I"; every tab has to hear all of it.
const texts = Array.from({ length: tabs }, (_, number) => `${args.say} ${number}`);

const reach = { handshakeTimeout: 10_000 };
if (args.ca) reach.ca = readFileSync(args.ca);
if (args.address) {
  const found = { address: args.address, family: isIPv6(args.address) ? 6 : 4 };
  reach.lookup = (_, { all }, done) => (all ? done(null, [found]) : done(null, found.address, found.family));
}

function open() {
  const socket = new WebSocket(args.url, reach);
  const tab = { socket, missing: new Set(texts) };
  tab.heardAll = new Promise((resolve) => { tab.done = resolve; });
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("no hello within 10 s")), 10_000);
    socket.on("error", reject);
    socket.on("close", (code) => {
      reject(new Error(`closed with ${code}`));
      tab.done();
    });
    socket.on("message", (frame) => {
      const message = JSON.parse(frame);
      if (message.type === "hello") {
        clearTimeout(timer);
        tab.replica = message.replica;
        resolve(tab);
      } else if (message.type === "message") {
        tab.missing.delete(message.text);
        if (tab.missing.size === 0) tab.done();
      }
    });
  });
}

const opened = [];
try {
  while (opened.length < tabs) opened.push(await open());
} catch (error) {
  fail(`tab ${opened.length} of ${args.url}: ${error.message}`);
}
opened.forEach(({ socket }, number) => {
  socket.send(JSON.stringify({ type: "say", text: texts[number] }));
});
const late = new Promise((resolve) => { setTimeout(resolve, limit * 1000).unref(); });
await Promise.race([late, Promise.all(opened.map((tab) => tab.heardAll))]);

const received = opened.map(({ missing }) => tabs - missing.size);
console.log(JSON.stringify({ replicas: opened.map(({ replica }) => replica), received }));
process.exitCode = received.every((count) => count === tabs) ? 0 : 1;
for (const { socket } of opened) socket.close();
