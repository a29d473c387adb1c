// What the peers with libraries of Node's share.

import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

// An import is looked up from this file's own folder only, and NODE_PATH is not heeded. The library
// is in the folder ROOST_PEERS, under target/, so it is required from there.
const folder = process.env.ROOST_PEERS ?? dirname(fileURLToPath(import.meta.url));
const library = createRequire(join(resolve(folder), "package.json"));

// A library from there.
export function required(name) {
  try {
    return library(name);
  } catch (error) {
    if (error.code !== "MODULE_NOT_FOUND") throw error;
    fail(`${name} is not installed in ${resolve(folder)}: set ROOST_PEERS to the folder that has node_modules`);
  }
}

export function fail(reason) {
  console.error(reason);
  process.exit(2);
}

// Options as util.parseArgs takes them; `usage` is shown when they are wrong.
export function options(shape, usage, args = process.argv.slice(2)) {
  try {
    return parseArgs({ args, options: shape }).values;
  } catch (error) {
    fail(`${error.message}\nusage: ${usage}`);
  }
}

// An address as roost-chat writes it.
export function show(host, port) {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

export const { WebSocket, WebSocketServer } = required("ws");
