// One WebSocket, from the token over the auth to its end: requests get their numbers here, silence is found here, and the
// token is renewed here. What its frames mean is decided in session.js.

import { decodeFrame, encodeFrame } from "./codec.js";
import { RequestError } from "./errors.js";

/** @typedef {{code?: number, reason: string, reconnect?: boolean, afterMs?: number, error?: RequestError}} Loss why a connection ended */
/**
 * @typedef {object} Owner
 * @property {(connection: Connection) => {resume: object[], all: boolean}} opening what to ask for with the auth
 * @property {(connection: Connection, welcome: any) => void} welcomed
 * @property {(connection: Connection, frame: any) => void} frame
 * @property {(connection: Connection, loss: Loss) => void} lost
 */

/** No ping more often than this, whatever the server names. */
const SHORTEST_PING_MS = 1_000;
const DEFAULT_PING_MS = 30_000;

export class Connection {
  /**
   * @param {import("./rooms.js").Lane} lane
   * @param {string} url
   * @param {Owner} owner
   * @param {import("./client.js").Settings} settings
   */
  constructor(lane, url, owner, settings) {
    this.lane = lane;
    this.url = url;
    this.owner = owner;
    this.settings = settings;
    this.env = settings.environment;
    /** @type {"token" | "dialling" | "authenticating" | "up" | "ended"} */
    this.phase = "token";
    /** What subscriptions asked for that are not answered, by number. @type {Map<number, {positions: import("./rooms.js").Position[], all: boolean}>} */
    this.subscribing = new Map();
    this.allAsked = false;
    /** Rooms given up while the auth that asks for them was under way. @type {string[]} */
    this.givenUp = [];
    /** The head to be reached in each room that is behind. @type {Map<string, {epoch: number, head: number}>} */
    this.behind = new Map();
    /** Everything that was missed has arrived. */
    this.resumed = false;
    this.upSince = 0;
    this.node = "";
    this.nextReq = 0;
    this.timers = { step: undefined, ping: undefined, refresh: undefined };
    this.pingedAt = null;
    this.refreshing = null;
    this.refreshAttempts = 0;
  }

  get isUp() {
    return this.phase === "up";
  }

  /** Asks for a token, dials, authenticates. */
  async open() {
    const { tokenTimeoutMs, connectTimeoutMs } = this.settings;
    this.#within(tokenTimeoutMs, "the token source did not answer in time");
    let token;
    try {
      token = await this.#token();
    } catch (error) {
      return this.end({ reason: `no token: ${error?.message ?? error}` });
    }
    if (this.phase !== "token") return;
    this.phase = "dialling";
    this.#within(connectTimeoutMs, "no connection in time");
    try {
      this.socket = new this.env.WebSocket(this.url);
    } catch (error) {
      return this.end({ reason: `cannot dial ${this.url}: ${error?.message ?? error}` });
    }
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.#authenticate(token);
    this.socket.onmessage = (event) => this.#received(event.data);
    this.socket.onerror = () => {};
    this.socket.onclose = (event) => {
      const dialling = this.phase === "dialling";
      const reason = event.reason || (dialling ? `no connection to ${this.url}` : "the connection was lost");
      this.end(event.code === 1006 || dialling ? { reason } : { code: event.code, reason });
    };
  }

  async #token() {
    const { token } = this.settings;
    const given = typeof token === "function" ? await token() : token;
    if (typeof given !== "string" || given === "") throw new TypeError("the token source gave no text");
    return given;
  }

  #authenticate(token) {
    this.phase = "authenticating";
    this.#within(this.settings.authTimeoutMs, "the server did not answer the auth in time");
    const { resume, all } = this.owner.opening(this);
    this.allAsked = all;
    const { device, agent } = this.settings;
    this.authReq = this.write({ op: "auth", token, resume, all, device, agent });
    if (all || resume.length > 0) this.subscribing.set(this.authReq, { positions: resume, all });
  }

  /**
   * Writes a frame and returns its number.
   * @param {any} frame @param {number} [req]
   */
  write(frame, req = this.number()) {
    if (this.socket?.readyState === 1) this.socket.send(encodeFrame({ ...frame, req }));
    return req;
  }

  /** The next request's number; 0 is nobody's. */
  number() {
    this.nextReq = (this.nextReq % 0xffff_ffff) + 1;
    return this.nextReq;
  }

  /** Whether more is waiting to be written than there should be. */
  get congested() {
    return (this.socket?.bufferedAmount ?? 0) > this.settings.writeBufferBytes;
  }

  #received(data) {
    if (this.phase === "ended") return;
    let frame;
    try {
      frame = decodeFrame(data);
    } catch (error) {
      return this.end({ code: 1002, reason: `the server sent no frame: ${error.message}`, reconnect: true });
    }
    this.pingedAt = null;
    if (frame.op === "close") return this.#farewell(frame);
    if (this.phase === "up") return this.#frameWhenUp(frame);
    if (frame.op === "auth_ok") return this.#welcome(frame);
    if (frame.op === "error") {
      const error = RequestError.fromFrame(frame);
      return this.end({ reason: `${error.code}: ${error.message}`, error });
    }
    this.end({ reason: "the server spoke before it answered the auth" });
  }

  #frameWhenUp(frame) {
    if (frame.op === "pong") return;
    if (this.refreshing !== null && frame.req === this.refreshing) {
      this.refreshing = null;
      if (frame.op === "refreshed") return this.#refreshed(frame.expires ?? 0);
      if (frame.op === "error") return this.#refreshFailed();
    }
    try {
      this.owner.frame(this, frame);
    } catch (error) {
      this.end({ reason: `the server sent a frame that makes no sense: ${error.message}` });
    }
  }

  #farewell({ code, text, name, reconnect, after_ms: afterMs }) {
    this.end({ code, reason: text || name || "closed by the server", reconnect: reconnect === true, afterMs: afterMs ?? 0 });
  }

  #welcome(frame) {
    this.phase = "up";
    this.env.clearTimeout(this.timers.step);
    this.upSince = this.env.now();
    this.node = frame.node ?? "";
    this.serverMs = frame.time ?? 0;
    const asked = frame.heartbeat_ms ? frame.heartbeat_ms / 3 : DEFAULT_PING_MS;
    this.pingMs = this.settings.pingIntervalMs ?? Math.max(asked, SHORTEST_PING_MS);
    this.#pingIn(this.pingMs * (0.2 + 0.8 * this.env.random()));
    this.#renewBefore(frame.expires ?? 0);
    if (this.givenUp.length > 0) this.write({ op: "unsubscribe", rooms: this.givenUp });
    this.givenUp = [];
    this.owner.welcomed(this, frame);
  }

  #pingIn(ms) {
    this.env.clearTimeout(this.timers.ping);
    this.timers.ping = this.env.setTimeout(() => this.ping(this.pingMs), ms);
  }

  /** Asks whether the server is there; an answer, or anything else, must come within `patienceMs`. */
  ping(patienceMs) {
    if (this.phase !== "up") return;
    // Timers of a hidden page or a sleeping device fire late, so silence counts only from a ping on.
    if (this.pingedAt !== null && this.env.now() - this.pingedAt >= Math.min(patienceMs, this.pingMs)) {
      return this.end({ reason: "the server has fallen silent" });
    }
    if (this.pingedAt === null) {
      this.pingedAt = this.env.now();
      this.write({ op: "ping" });
    }
    this.#pingIn(Math.min(patienceMs, this.pingMs));
  }

  /** Asks for a newer token after about three quarters of the current one's remaining life. */
  #renewBefore(expiresMs) {
    this.env.clearTimeout(this.timers.refresh);
    if (expiresMs === 0 || typeof this.settings.token !== "function") return;
    const serverNow = this.serverMs + (this.env.now() - this.upSince);
    const wait = Math.max(0, expiresMs - serverNow) * (0.7 + 0.1 * this.env.random());
    // setTimeout counts milliseconds in 31 bits.
    this.timers.refresh = this.env.setTimeout(() => this.#refresh(), Math.min(wait, 0x7fff_ffff));
  }

  async #refresh() {
    try {
      const token = await this.#token();
      if (this.phase === "up") this.refreshing = this.write({ op: "refresh", token });
    } catch {
      this.#refreshFailed();
    }
  }

  #refreshed(expiresMs) {
    this.refreshAttempts = 0;
    this.#renewBefore(expiresMs);
  }

  /** The connection goes on until the server ends it; the next one begins with a new token. */
  #refreshFailed() {
    if (this.phase !== "up") return;
    const wait = Math.max(1_000, this.settings.reconnect.delay(this.refreshAttempts++, this.env.random()));
    this.env.clearTimeout(this.timers.refresh);
    this.timers.refresh = this.env.setTimeout(() => this.#refresh(), wait);
  }

  #within(ms, otherwise) {
    this.env.clearTimeout(this.timers.step);
    this.timers.step = this.env.setTimeout(() => this.end({ reason: otherwise }), ms);
  }

  /** Ends without telling the owner. */
  hangup() {
    this.phase = "ended";
    for (const timer of Object.values(this.timers)) this.env.clearTimeout(timer);
    if (!this.socket) return;
    this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
    this.socket.onerror = () => {};
    try {
      this.socket.close(1000);
    } catch {
      // It is closing already.
    }
  }

  /** Ends and tells the owner why. @param {Loss} loss */
  end(loss) {
    if (this.phase === "ended") return;
    const wasUp = this.phase === "up";
    this.hangup();
    this.wasUp = wasUp;
    this.owner.lost(this, loss);
  }
}
