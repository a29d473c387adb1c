// Tabs of chats with Socket.IO: are those of a chat in one place, and do they hear each other?

import { Agent } from "node:http";
import { Agent as TlsAgent } from "node:https";
import { fail, options, required } from "./peer.mjs";

const usage = "tabs.mjs --url http[s]://HOST:PORT [--chats N] [--tabs N] [--prefix TEXT] " +
  "[--transports polling,websocket] [--sockets N] [--again] [--limit SECONDS] [--quiet SECONDS]";
const args = options({
  url: { type: "string" },
  chats: { type: "string", default: "20" },
  tabs: { type: "string", default: "3" },
  prefix: { type: "string", default: "chat" },
  transports: { type: "string", default: "polling,websocket" },
  // The connections that one tab of each chat share, as those of a browser do; 0: each request has its own.
  sockets: { type: "string", default: "0" },
  // Connect again by themselves, which is what Socket.IO does if it is not told otherwise.
  again: { type: "boolean", default: false },
  limit: { type: "string", default: "60" },
  // So long nothing happens to any tab before it is over.
  quiet: { type: "string", default: "3" },
}, usage);
const [chats, tabs, sockets, limit, quiet] =
  ["chats", "tabs", "sockets", "limit", "quiet"].map((name) => Number(args[name]));
if (!args.url || !(chats > 0) || !(tabs > 0) || !(limit > 0)) fail(`usage: ${usage}`);
const { io } = required("socket.io-client");
const transports = args.transports.split(",");
const upgrades = transports.length > 1;

// When something last happened to any tab.
let last = Date.now();
const errors = {};

function open(chat, number, agent) {
  const socket = io(args.url, { query: { chat }, transports, agent, reconnection: args.again, forceNew: true });
  const tab = { chat, number, socket, heard: new Set(), said: [], lost: 0 };
  const lost = (why, what) => {
    tab.lost += 1;
    // A proxy says it in HTML, and Node with a stack.
    const text = `${why}: ${what ?? ""}`.replace(/<[^>]*>/g, " ").replace(/\n {4}at .*/s, "").replace(/\s+/g, " ").trim();
    errors[text] = (errors[text] ?? 0) + 1;
    last = Date.now();
  };
  socket.on("connect_error", (error) => lost(error.message, error.description?.message ?? error.description));
  socket.on("disconnect", (why, more) => lost(why, more?.context?.responseText ?? more?.description?.message));
  socket.on("hello", (on) => {
    tab.replica = on;
    last = Date.now();
    if (tab.said.length === 0) say(tab, "early");
  });
  socket.on("said", (id) => {
    tab.heard.add(id);
    last = Date.now();
  });
  socket.io.on("open", () => socket.io.engine.on("upgrade", () => { last = Date.now(); }));
  return tab;
}

function say(tab, when) {
  const id = `${tab.chat}/${tab.number}/${when}`;
  tab.said.push(id);
  tab.socket.emit("say", id);
}

// Until all is there, or nothing more comes.
async function until(met) {
  const end = Date.now() + limit * 1000;
  last = Date.now();
  while (!met() && Date.now() < end && Date.now() < last + quiet * 1000) {
    await new Promise((resolve) => { setTimeout(resolve, 5); });
  }
}

const upgraded = ({ socket }) => socket.connected && socket.io.engine.transport.name === "websocket";
const ready = (tab) => tab.replica && tab.socket.connected && (!upgrades || upgraded(tab));
const all = Array.from({ length: tabs }, (_, number) => {
  const Connections = args.url.startsWith("https:") ? TlsAgent : Agent;
  const agent = sockets > 0 && new Connections({ keepAlive: true, maxSockets: sockets });
  return Array.from({ length: chats }, (_, chat) => open(`${args.prefix}-${chat}`, number, agent));
}).flat();

await until(() => all.every((tab) => ready(tab) || (tab.lost > 0 && !args.again)));
for (const tab of all) {
  if (tab.socket.connected) say(tab, "late");
}
const hears = (tab) => Array.from({ length: tabs }, (_, n) => n).every((n) => tab.heard.has(`${tab.chat}/${n}/late`));
await until(() => all.every(hears));

const where = {};
for (const { chat, replica } of all) (where[chat] ??= []).push(replica ?? null);
console.log(JSON.stringify({
  clients: all.length,
  reached: all.filter(hears).length,
  lost: all.filter((tab) => tab.lost > 0).length,
  upgraded: all.filter(upgraded).length,
  said: all.flatMap(({ said }) => said),
  chats: where,
  errors,
}));
process.exit(0);
