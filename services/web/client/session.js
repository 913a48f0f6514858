// The client's mind: which connections there are and which of them is written to, what a server's frames mean, what
// follows when a connection is lost, and how to go elsewhere without missing anything.

import { CLOSE_REPLACED, CREDENTIAL_CLOSE_CODES, CREDENTIAL_ERROR_CODES, closeCodeReconnects, decodeBody, readMessage } from "./codec.js";
import { Connection } from "./connection.js";
import { RequestError } from "./errors.js";
import { Outbox } from "./outbox.js";
import { Places } from "./places.js";
import { Rooms } from "./rooms.js";
import { Subscriptions } from "./subscriptions.js";

/** A connection that has stood so long is no sign of trouble when it ends: the next wait is the shortest again. */
const STABLE_MS = 10_000;
/** Refused credentials are tried again so often, where the source can give others. */
const TOKENS_TRIED = 3;
/** How long an answer to a ping may take when there is reason to doubt the connection. */
const DOUBT_MS = 4_000;

export class Session {
  /**
   * @param {import("./client.js").Settings} settings
   * @param {(type: string, detail: object) => void} emit
   */
  constructor(settings, emit) {
    this.settings = settings;
    this.env = settings.environment;
    this.emit = emit;
    this.places = new Places(settings.urls, this.env.random());
    this.rooms = new Rooms(settings.rooms, settings.all);
    this.subscriptions = new Subscriptions(this);
    this.outbox = new Outbox({ ...settings, backoff: settings.resend });
    /** Requests other than sends that are written and not answered, by number. */
    this.requests = new Map();
    /** @type {(Connection | null)[]} */
    this.lanes = [null, null];
    /** The connection that is written to. @type {Connection | null} */
    this.active = null;
    /** A move to another node: "planned", "underway" or "switching". */
    this.moving = null;
    this.failures = 0;
    this.tokenRefusals = 0;
    this.retryTimer = undefined;
    this.outboxTimer = undefined;
    this.lostAt = null;
    this.ended = false;
    /** @type {"idle" | "connecting" | "online" | "waiting" | "closed"} */
    this.state = "idle";
  }

  connections() {
    return this.lanes.filter((connection) => connection !== null);
  }

  /** Whether the other lane has no connection that delivers. @param {import("./rooms.js").Lane} lane */
  alone(lane) {
    return !this.lanes[1 - lane]?.isUp;
  }

  #setState(state) {
    if (this.state === state) return;
    this.state = state;
    this.emit("state", { state });
  }

  start() {
    if (this.state !== "idle") return;
    this.#dial(0);
  }

  #dial(lane, avoid) {
    if (!this.active) this.#setState("connecting");
    const connection = new Connection(lane, this.places.next(avoid), this, this.settings);
    this.lanes[lane] = connection;
    void connection.open();
  }

  /** The network or the page has come back: no reason to wait, and reason to doubt an open connection. */
  nudge() {
    if (this.state === "waiting") this.#retryIn(0);
    for (const connection of this.connections()) connection.ping(DOUBT_MS);
  }

  #retryIn(ms) {
    this.env.clearTimeout(this.retryTimer);
    this.retryTimer = this.env.setTimeout(() => this.#dial(this.lanes[0] ? 1 : 0), ms);
  }

  // What a connection tells its owner.

  /** @param {Connection} connection */
  opening(connection) {
    this.rooms.open(connection.lane, this.alone(connection.lane));
    return this.subscriptions.first(connection);
  }

  /** @param {Connection} connection */
  welcomed(connection, { user, device, conn, node }) {
    this.tokenRefusals = 0;
    if (this.alone(connection.lane)) {
      this.active = connection;
      this.#stopMoving();
      this.#setState("online");
      this.emit("connected", { user, device, conn, node, url: connection.url });
    }
    this.subscriptions.askRest(connection);
    this.subscriptions.checkResumed(connection);
    this.pump();
  }

  /** @param {Connection} connection */
  frame(connection, frame) {
    const inCharge = connection === this.active;
    switch (frame.op) {
      case "message":
        this.#message(connection, readMessage(frame));
        break;
      case "ack":
        this.outbox.acked(inCharge ? frame.req : -1, readAck(frame));
        break;
      case "signal":
        if (inCharge) this.emit("signal", readSignal(frame));
        break;
      case "subscribed":
        this.subscriptions.answered(connection, frame);
        break;
      case "error":
        this.#error(connection, frame.req ?? 0, RequestError.fromFrame(frame));
        break;
      case "reset":
        this.#reset(connection, frame);
        break;
      case "truncated":
        this.#truncated(connection, frame);
        break;
      case "room_changed":
        this.#roomChanged(connection, frame);
        break;
      case "read_state":
        if (!this.#answer(connection, frame) && inCharge) this.emit("read", readState(frame));
        break;
      case "history":
      case "done":
        this.#answer(connection, frame);
        break;
      case "move":
        this.#askedToMove(connection, frame);
        break;
      default: // A newer server may say more than this client knows.
    }
    this.#settleMove();
    this.pump();
  }

  /** @param {Connection} connection @param {import("./connection.js").Loss} loss */
  lost(connection, loss) {
    const { lane } = connection;
    if (this.lanes[lane] !== connection || this.ended) return;
    this.lanes[lane] = null;
    const other = this.lanes[1 - lane];
    if (!other?.isUp && this.#isFinal(loss, other)) return this.end(loss);
    if (other?.isUp) {
      if (this.active === connection) this.#takeOver(other);
      else this.#moveFailed();
    } else if (connection.wasUp) {
      if (this.env.now() - connection.upSince >= STABLE_MS) this.failures = 0;
      this.#outage(loss, other);
    } else {
      this.places.forgetHints();
      this.#stopMoving();
      if (!other) this.#later("failed", { url: connection.url }, loss);
    }
  }

  /** Whether a loss rules out another attempt. */
  #isFinal({ code, reconnect, error }, other) {
    const credentials = error ? CREDENTIAL_ERROR_CODES.has(error.code) : CREDENTIAL_CLOSE_CODES.has(code);
    if (error ? error.retryable : (reconnect ?? (code === undefined || closeCodeReconnects(code)))) return false;
    if (credentials && typeof this.settings.token === "function") return ++this.tokenRefusals >= TOKENS_TRIED;
    // One of ours is on its way: it is the one that replaces.
    return !(code === CLOSE_REPLACED && other);
  }

  /** No connection is left that delivers. */
  #outage(loss, underWay) {
    this.lostAt ??= this.env.now();
    this.active = null;
    this.#stopMoving();
    this.outbox.disconnected();
    this.#failRequests(new RequestError("not_connected", "the connection was lost before the answer", { retryable: true }));
    if (underWay) {
      this.#setState("connecting");
      this.emit("disconnected", { code: loss.code, reason: loss.reason, retryInMs: 0 });
    } else {
      this.#later("disconnected", { code: loss.code }, loss);
    }
    this.#watchOutbox();
  }

  #later(event, detail, loss) {
    const retryInMs = (loss.afterMs ?? 0) + this.settings.reconnect.delay(this.failures++, this.env.random());
    this.#retryIn(retryInMs);
    this.#setState("waiting");
    this.emit(event, { ...detail, reason: loss.reason, retryInMs });
  }

  // What rooms say.

  #message(connection, message) {
    const { verdict, keep } = this.rooms.message(connection.lane, this.alone(connection.lane), message);
    if (verdict === "deliver") {
      if (keep !== undefined) this.emit("reset", { room: message.room, epoch: message.epoch, seq: keep });
      this.emit("message", message);
      this.#reached(message.room, message.seq);
    } else if (verdict === "gap") {
      this.subscriptions.repair(connection, message.room);
    } else if (verdict === "gap_again") {
      connection.end({ reason: "the server left messages out, also when asked again" });
    }
  }

  /** A room has come as far as `seq`. */
  #reached(room, seq) {
    for (const connection of this.connections()) {
      const goal = connection.behind.get(room);
      if (!goal || seq < goal.head) continue;
      connection.behind.delete(room);
      this.subscriptions.checkResumed(connection);
    }
  }

  #reset(connection, { room, epoch, seq }) {
    const told = this.rooms.reset(connection.lane, this.alone(connection.lane), room, epoch, seq);
    if (told) this.emit("reset", { room, epoch, seq });
    // A head that was told in an older epoch may never be reached again.
    const goal = connection.behind.get(room);
    if (!goal || (goal.epoch >= epoch && goal.head > seq)) return;
    connection.behind.delete(room);
    this.subscriptions.checkResumed(connection);
  }

  #truncated(connection, { room, from, to }) {
    const gone = this.rooms.truncated(connection.lane, this.alone(connection.lane), room, from, to);
    if (gone) this.emit("truncated", { room, ...gone });
    this.#reached(room, to);
  }

  #roomChanged(connection, { room, subscribed, reason }) {
    // Not subscribed and one of these: a member of a room that this connection was not asked to hear.
    if (subscribed || reason === "joined" || reason === "created") {
      this.rooms.join(room, subscribed);
    } else {
      this.rooms.leave(room);
      for (const each of this.connections()) {
        each.behind.delete(room);
        this.subscriptions.checkResumed(each);
      }
    }
    if (connection === this.active) this.emit("room", { room, subscribed, reason });
  }

  // What was asked.

  #error(connection, req, error) {
    if (this.subscriptions.failed(connection, req, error) || connection !== this.active) return;
    const request = this.#landed(req);
    if (request) request.reject(error);
    else this.outbox.refused(req, error, this.env.now(), this.env.random());
  }

  /** @returns {boolean} somebody had asked */
  #answer(connection, frame) {
    const request = connection === this.active ? this.#landed(frame.req) : undefined;
    request?.resolve(frame);
    return request !== undefined;
  }

  #landed(req) {
    const request = this.requests.get(req);
    this.requests.delete(req);
    this.env.clearTimeout(request?.timer);
    return request;
  }

  /** Asks once; the answer or an error within the time. Not repeated when the connection is lost. */
  request(frame, timeoutMs) {
    return new Promise((resolve, reject) => {
      if (this.ended) return reject(new RequestError("closed", "the client has ended"));
      // While it moves, the old connection is kept only for answers that are outstanding.
      if (!this.active || this.moving?.step === "switching") {
        return reject(new RequestError("not_connected", "there is no connection just now", { retryable: true }));
      }
      const req = this.active.write(frame);
      const timer = this.env.setTimeout(() => {
        this.requests.delete(req);
        reject(new RequestError("timeout", "no answer in time", { retryable: true }));
      }, timeoutMs);
      this.requests.set(req, { resolve, reject, timer });
    });
  }

  #failRequests(error) {
    const requests = [...this.requests.keys()].map((req) => this.#landed(req));
    for (const request of requests) request.reject(error);
  }

  /** Writes what may be written now. */
  pump() {
    const now = this.env.now();
    const connection = this.active;
    while (connection?.isUp && this.moving?.step !== "switching") {
      if (connection.congested && this.outbox.flights.size > 0) break;
      const frame = this.outbox.next(now, () => connection.number());
      if (!frame) break;
      connection.write(frame, frame.req);
    }
    this.#watchOutbox();
  }

  #watchOutbox() {
    this.env.clearTimeout(this.outboxTimer);
    const at = this.ended ? Infinity : this.outbox.timer();
    if (at === Infinity) return;
    const tick = () => {
      this.outbox.tick(this.env.now(), this.env.random());
      this.pump();
    };
    this.outboxTimer = this.env.setTimeout(tick, Math.min(0x7fff_ffff, Math.max(1, at - this.env.now())));
  }

  // Going elsewhere at the server's wish: the new connection first, then the end of the old one.

  #askedToMove(connection, { after_ms: afterMs = 0, to = [], reason = "" }) {
    // A second hint about a move that is under way: should the first come to nothing, the server closes and we resume.
    if (connection !== this.active || this.moving) return;
    this.places.hint(to, connection.url);
    this.#planMove(afterMs, 0);
    this.emit("moving", { reason, afterMs });
  }

  #planMove(afterMs, attempts) {
    const timer = this.env.setTimeout(() => {
      this.moving = { step: "underway", attempts };
      this.#dial(/** @type {any} */ (1 - this.active.lane), this.active.url);
    }, afterMs);
    this.moving = { step: "planned", attempts, timer };
  }

  #stopMoving() {
    this.env.clearTimeout(this.moving?.timer);
    this.moving = null;
  }

  /** The new connection came to nothing; the old one goes on, and another attempt is made. */
  #moveFailed() {
    const attempts = this.moving?.attempts ?? 0;
    this.#stopMoving();
    this.#planMove(this.settings.reconnect.delay(attempts, this.env.random()), attempts + 1);
  }

  /** A connection has everything that was missed. @param {Connection} connection */
  caughtUp(connection) {
    if (connection === this.active) {
      const awayMs = this.lostAt === null ? null : this.env.now() - this.lostAt;
      this.lostAt = null;
      this.emit("resumed", { awayMs });
    } else if (this.moving?.step === "underway") {
      // No more is written to the old one, and once its answers are in, it ends.
      const timer = this.env.setTimeout(() => this.#takeOver(connection), this.settings.moveGraceMs);
      this.moving = { step: "switching", attempts: 0, timer };
      this.#settleMove();
    }
  }

  #settleMove() {
    if (this.moving?.step !== "switching" || this.outbox.flights.size > 0 || this.requests.size > 0) return;
    const other = this.lanes[1 - this.active.lane];
    if (other?.isUp) this.#takeOver(other);
  }

  /** The other connection becomes the one that is written to. @param {Connection} connection */
  #takeOver(connection) {
    const old = this.lanes[1 - connection.lane];
    old?.hangup();
    this.lanes[1 - connection.lane] = null;
    this.#stopMoving();
    this.places.forgetHints();
    this.outbox.disconnected();
    this.#failRequests(new RequestError("not_connected", "moved before the answer", { retryable: true }));
    this.active = connection;
    this.emit("moved", { node: connection.node, url: connection.url });
    this.pump();
  }

  /** Ends for good. @param {import("./connection.js").Loss} loss */
  end(loss) {
    if (this.ended) return;
    this.ended = true;
    for (const connection of this.connections()) connection.hangup();
    this.lanes = [null, null];
    this.active = null;
    this.#stopMoving();
    this.env.clearTimeout(this.retryTimer);
    this.env.clearTimeout(this.outboxTimer);
    const error = loss.error ?? new RequestError("closed", loss.reason);
    this.outbox.end(loss.reason);
    this.#failRequests(error);
    this.subscriptions.end(error);
    this.#setState("closed");
    this.emit("ended", { code: loss.code, reason: loss.reason, error: loss.error });
  }
}

function readAck({ room, client_id: clientId, id, epoch, seq, time, duplicate }) {
  return { room, clientId, id, epoch, seq, time, duplicate: duplicate === true };
}

function readSignal(frame) {
  const { room = "", from = "", type, operation = 0 } = frame;
  return { room, from, type, body: decodeBody(frame), operation };
}

export function readState({ room, read, head, unread }) {
  return { room, read, head, unread };
}
