// Which rooms are asked for on which connection, in frames of bounded size, and who waits for the answers.

import { RequestError } from "./errors.js";

/** @typedef {import("./connection.js").Connection} Connection */

/** About what a position costs beside its room's name. */
const POSITION_BYTES = 48;

export class Subscriptions {
  /** @param {import("./session.js").Session} session */
  constructor(session) {
    this.session = session;
    this.rooms = session.rooms;
    this.env = session.env;
    /** @type {{rooms: Set<string>, all: boolean, results: object[], resolve: Function, reject: Function, timer: any}[]} */
    this.waiters = [];
    /** Rooms that were refused for the moment. @type {Set<string>} */
    this.later = new Set();
    this.laterAttempts = 0;
    this.laterTimer = undefined;
    /** The answer to "all rooms" has been heard once: what turns up later is new. */
    this.allKnown = false;
  }

  /**
   * Everything that is not asked for on a lane yet, in parts. "All rooms" comes last, so that the rooms with a position are
   * not begun at their heads.
   * @param {Connection} connection
   */
  chunks(connection) {
    const limit = this.session.settings.maxSubscribeBytes;
    const chunks = [{ positions: [], all: false }];
    let bytes = 0;
    for (const position of this.rooms.ask(connection.lane)) {
      const size = new TextEncoder().encode(position.room).length + POSITION_BYTES;
      if (bytes + size > limit && bytes > 0) {
        chunks.push({ positions: [], all: false });
        bytes = 0;
      }
      bytes += size;
      chunks.at(-1).positions.push(position);
    }
    chunks.at(-1).all = this.rooms.all && !connection.allAsked;
    return chunks;
  }

  /** What goes with the auth; the rest is asked for once the connection stands. @param {Connection} connection */
  first(connection) {
    const [first, ...rest] = this.chunks(connection);
    for (const chunk of rest) this.rooms.notAsked(connection.lane, chunk.positions.map(({ room }) => room));
    return { resume: first.positions, all: first.all };
  }

  /** @param {Connection | null} connection */
  askRest(connection) {
    if (!connection?.isUp) return;
    for (const chunk of this.chunks(connection)) this.#ask(connection, chunk);
  }

  #ask(connection, { positions, all }) {
    if (positions.length === 0 && !all) return;
    connection.allAsked ||= all;
    const req = connection.write({ op: "subscribe", rooms: positions, all });
    connection.subscribing.set(req, { positions, all });
  }

  /** Asks for one room again from where it stands. A subscription that stands already would go on as it is. */
  repair(connection, room) {
    const position = this.rooms.askAgain(connection.lane, room);
    if (!position) return;
    connection.write({ op: "unsubscribe", rooms: [room] });
    this.#ask(connection, { positions: [position], all: false });
  }

  /** The application wants rooms. Resolves with one result per room. */
  subscribe(positions, all, timeoutMs) {
    for (const position of positions) this.rooms.want(position);
    if (all) {
      this.rooms.wantAll();
      for (const connection of this.session.connections()) connection.allAsked = false;
    }
    return new Promise((resolve, reject) => {
      const waiter = { rooms: new Set(positions.map(({ room }) => room)), all, results: [], resolve, reject, timer: undefined };
      waiter.timer = this.env.setTimeout(() => {
        this.#drop(waiter);
        reject(new RequestError("timeout", "no answer to the subscription in time; it goes on", { retryable: true }));
      }, timeoutMs);
      this.waiters.push(waiter);
      this.#settle();
      for (const connection of this.session.connections()) this.askRest(connection);
    });
  }

  /** The application no longer wants rooms. @param {string[]} rooms */
  unsubscribe(rooms) {
    for (const room of rooms) {
      this.rooms.unwant(room);
      this.later.delete(room);
    }
    for (const connection of this.session.connections()) {
      if (connection.isUp) connection.write({ op: "unsubscribe", rooms });
      else connection.givenUp.push(...rooms);
      for (const room of rooms) connection.behind.delete(room);
      this.checkResumed(connection);
    }
    for (const room of rooms) this.session.emit("unsubscribed", { room });
  }

  /** An answer to a subscription, or to the auth that carried one. @param {Connection} connection */
  answered(connection, frame) {
    const asked = connection.subscribing.get(frame.req) ?? { positions: [], all: false };
    connection.subscribing.delete(frame.req);
    const late = this.allKnown;
    const positions = new Map(asked.positions.map((position) => [position.room, position]));
    const results = (frame.rooms ?? []).map((result) =>
      result.error ? { room: result.room, error: RequestError.fromFrame(result.error) } : result,
    );
    for (const result of results) {
      if (result.error) this.#refused(result.room, result.error);
      else this.#heard(connection, late, result, positions.get(result.room));
    }
    this.allKnown ||= asked.all;
    if (asked.all) {
      // Their end was not told, as nobody knew that the client would come back.
      for (const room of this.rooms.missing()) this.session.emit("room", { room, subscribed: false, reason: "left" });
    }
    this.#tell(results, asked.all);
    this.checkResumed(connection);
  }

  #heard(connection, late, { room, kind, epoch, head, read, joined }, asked) {
    const heard = this.rooms.subscribed(connection.lane, late, room, epoch, head, joined, asked);
    if (heard.unwanted) {
      connection.write({ op: "unsubscribe", rooms: [room] });
      return;
    }
    this.later.delete(room);
    // Beyond the head, with no other connection that could have gone on: a reset follows.
    const beyond = heard.after > head && this.session.alone(connection.lane);
    if (heard.after < head || beyond) connection.behind.set(room, { epoch, head });
    this.session.emit("subscribed", { room, kind, epoch, head, read, joined, after: heard.after });
    if (heard.fetch) this.repair(connection, room);
  }

  #refused(room, error) {
    if (error.retryable) this.#askLater([room]);
    else this.rooms.leave(room);
    this.session.emit("refused", { room, error });
  }

  #askLater(rooms) {
    for (const room of rooms) this.later.add(room);
    if (this.laterTimer !== undefined) return;
    const wait = this.session.settings.reconnect.delay(this.laterAttempts++, this.env.random());
    this.laterTimer = this.env.setTimeout(() => {
      this.laterTimer = undefined;
      const again = [...this.later];
      this.later.clear();
      for (const connection of this.session.connections()) {
        this.rooms.notAsked(connection.lane, again);
        this.askRest(connection);
      }
    }, Math.max(wait, 100));
  }

  /** A subscription was answered with an error as a whole. True: it was one. @param {Connection} connection */
  failed(connection, req, error) {
    const asked = connection.subscribing.get(req);
    if (!asked) return false;
    connection.subscribing.delete(req);
    const results = asked.positions.map(({ room }) => ({ room, error }));
    for (const { room } of results) this.#refused(room, error);
    if (asked.all) {
      connection.allAsked = !error.retryable;
      if (error.retryable) this.#askLater([]);
      for (const waiter of this.waiters.filter((each) => each.all)) {
        this.#drop(waiter);
        waiter.reject(error);
      }
    }
    this.#tell(results, false);
    this.checkResumed(connection);
    return true;
  }

  #tell(results, all) {
    for (const waiter of this.waiters) {
      for (const result of results) {
        if (waiter.rooms.delete(result.room) || (waiter.all && all)) waiter.results.push(result);
      }
      if (all) waiter.all = false;
    }
    this.#settle();
  }

  #settle() {
    for (const waiter of this.waiters.filter((each) => each.rooms.size === 0 && !each.all)) {
      this.#drop(waiter);
      waiter.resolve(waiter.results);
    }
  }

  #drop(waiter) {
    this.env.clearTimeout(waiter.timer);
    this.waiters = this.waiters.filter((each) => each !== waiter);
  }

  /** Whether a lane has everything that was missed: nothing asked is unanswered, no room is behind. @param {Connection} connection */
  checkResumed(connection) {
    if (!connection.isUp || connection.resumed || connection.subscribing.size > 0 || connection.behind.size > 0) return;
    connection.resumed = true;
    this.laterAttempts = 0;
    this.session.caughtUp(connection);
  }

  /** Everything ends now. @param {RequestError} error */
  end(error) {
    this.env.clearTimeout(this.laterTimer);
    for (const waiter of [...this.waiters]) {
      this.#drop(waiter);
      waiter.reject(error);
    }
  }
}
