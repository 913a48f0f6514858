// The page: Start connects, Send sends. Everything about the connection is the client's business (`/client/imcluster.js`).

import { Client } from "/client/imcluster.js";
import { Conversation } from "/conversation.js";

const HISTORY_LIMIT = 50;

const the = (id) => document.getElementById(id);
const [name, room, token, text] = ["name", "room", "token", "text"].map(the);
const conversation = new Conversation({
  list: the("messages"),
  scroller: the("scroller"),
  empty: the("empty"),
  older: the("older"),
  latest: the("latest"),
});

/** What the server says about itself. @type {{ws_url?: string, ws_port: number, room: string, guests: boolean}} */
let config = { ws_port: 3102, room: "lobby", guests: true };
/** @type {Client | null} */
let client = null;
/** The room that was entered, and whether what was said before has been loaded. */
let entered = { room: "", head: 0, loaded: true };
let node = "";
let unseen = 0;
let countdown = 0;

function showStatus(state, said) {
  the("status").dataset.state = state;
  the("status-text").textContent = said;
}

function showProblem(said) {
  the("problem").hidden = !said;
  the("problem").textContent = said;
}

/** Browsers without storage, or with it switched off, work without memory. */
function remembered(storage, key, value) {
  try {
    if (value !== undefined) globalThis[storage].setItem(key, value);
    return globalThis[storage].getItem(key);
  } catch {
    return null;
  }
}

/** One per window, so that two windows are two devices. */
function device() {
  const made = () => `page-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
  return remembered("sessionStorage", "device") ?? remembered("sessionStorage", "device", made()) ?? made();
}

async function guestToken(asName) {
  const response = await fetch("/guest", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name: asName }),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    showProblem(answer.error?.text ?? `no guest token: the server answered ${response.status}`);
    throw new Error(answer.error?.text ?? response.statusText);
  }
  return answer.token;
}

function address() {
  if (config.ws_url) return config.ws_url;
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  return `${scheme}://${location.hostname}:${config.ws_port}/ws`;
}

function start() {
  const [asName, given] = [name.value.trim(), token.value.trim()];
  remembered("localStorage", "name", asName);
  remembered("localStorage", "room", room.value.trim());
  showProblem("");
  conversation.clear();
  entered = { room: room.value.trim(), head: 0, loaded: false };
  const made = new Client({
    url: address(),
    token: given || (() => guestToken(asName)),
    device: device(),
    agent: "imcluster-page/0.1.0",
    rooms: [entered.room],
    reconnectMs: [300, 5_000],
  });
  client = made;
  listen(made);
  setRunning(true);
  text.focus();
}

function stop() {
  client?.close();
}

/** @param {Client} from */
function listen(from) {
  from.on("state", ({ state }) => {
    clearInterval(countdown);
    if (state === "connecting") showStatus(state, "Connecting…");
    if (state === "closed") showStatus(state, "Disconnected");
  });
  from.on("connected", (welcome) => {
    ({ node } = welcome);
    conversation.user = welcome.user;
    showStatus("online", `Connected to ${node}`);
    showProblem("");
  });
  from.on("moved", (welcome) => {
    ({ node } = welcome);
    showStatus("online", `Connected to ${node}`);
  });
  from.on("moving", () => showStatus("online", `Moving from ${node}…`));
  from.on("disconnected", ({ retryInMs }) => showWaiting(retryInMs));
  from.on("failed", ({ retryInMs }) => showWaiting(retryInMs));
  from.on("ended", ({ reason }) => ended(reason));
  from.on("refused", ({ error }) => showProblem(`Room ${entered.room}: ${error.message || error.code}`));
  from.on("subscribed", ({ after }) => {
    if (!entered.loaded) entered.head = Math.max(entered.head, after);
  });
  from.on("resumed", () => void loadEarlier());
  from.on("message", (message) => {
    conversation.add(message);
    countUnseen();
  });
  from.on("reset", ({ seq }) => conversation.forgetAfter(seq));
  from.on("truncated", ({ from: first, to }) => {
    conversation.notice(to, `Messages #${first} to #${to} are older than what the server keeps.`);
  });
}

function showWaiting(retryInMs) {
  clearInterval(countdown);
  const at = performance.now() + retryInMs;
  const show = () => {
    const seconds = Math.ceil(Math.max(0, at - performance.now()) / 1_000);
    showStatus("waiting", seconds > 1 ? `Reconnecting in ${seconds} s…` : "Reconnecting…");
  };
  show();
  countdown = setInterval(show, 500);
}

function ended(reason) {
  if (client && reason !== "closed by the application") showProblem(`Disconnected: ${reason}`);
  client = null;
  setRunning(false);
}

/** What was said before: on entering the latest, later whatever is above. */
async function loadEarlier() {
  const before = entered.loaded ? conversation.first : entered.head + 1;
  const from = client;
  if (!from || before <= 1 || before === Infinity) {
    entered.loaded = true;
    return;
  }
  try {
    const page = await from.history(entered.room, { before, limit: HISTORY_LIMIT });
    if (from !== client) return;
    entered.loaded = true;
    conversation.addEarlier(page.messages);
    if (page.messages.length === 0) the("older").hidden = true;
  } catch (error) {
    // A lost connection is followed by "resumed", which asks again.
    if (error.code !== "not_connected" && error.code !== "closed") showProblem(`Earlier messages: ${error.message}`);
  }
}

function send() {
  const said = text.value.trim();
  if (!said || !client) return;
  text.value = "";
  const clientId = Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");
  conversation.sending(clientId, said);
  void deliver(clientId, said);
}

async function deliver(clientId, said) {
  try {
    await client.send(entered.room, said, { clientId });
  } catch (error) {
    const again = error.retryable && client ? () => void deliver(clientId, said) : null;
    conversation.failed(clientId, error.message || error.code, again);
  }
}

function setRunning(running) {
  for (const field of [name, room, token]) field.disabled = running;
  for (const field of [text, the("send")]) field.disabled = !running;
  the("start").textContent = running ? "Stop" : "Start";
  the("start").classList.toggle("primary", !running);
}

function countUnseen(add = document.hidden ? 1 : 0) {
  unseen = document.hidden ? unseen + add : 0;
  document.title = unseen > 0 ? `(${unseen}) ImCluster` : "ImCluster";
}

the("setup").addEventListener("submit", (event) => {
  event.preventDefault();
  if (client) stop();
  else start();
});
the("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
the("older").addEventListener("click", () => void loadEarlier());
document.addEventListener("visibilitychange", () => countUnseen(0));

name.value = remembered("localStorage", "name") ?? `Guest ${100 + (crypto.getRandomValues(new Uint16Array(1))[0] % 900)}`;
try {
  config = { ...config, ...(await (await fetch("/config.json")).json()) };
  if (!config.guests) the("credentials").open = true;
} catch {
  showProblem("The server that gave this page does not answer just now.");
}
room.value = remembered("localStorage", "room") || config.room;
document.documentElement.dataset.ready = "true";
