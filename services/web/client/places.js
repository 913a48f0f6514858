// Where the servers are, and which one to try next: each in turn from a random one on, those of a move hint first.

export class Places {
  /**
   * @param {string[]} urls `ws://…` or `wss://…`; a path of `/` becomes `/ws`
   * @param {number} random uniform in [0, 1)
   */
  constructor(urls, random) {
    if (urls.length === 0) throw new TypeError("give one url or more, like ws://chat.example:3102/ws");
    this.known = urls.map(complete);
    this.at = Math.floor(urls.length * random);
    /** @type {string[]} */
    this.hinted = [];
  }

  /**
   * What a move hint says, best first: whole URLs, or `host:port` alone, which means "as you are connected now, but there".
   * Unreadable ones are left out.
   * @param {unknown[]} hints
   * @param {string} like the URL of the connection that was hinted
   */
  hint(hints, like) {
    this.hinted = hints.map((hint) => readHint(hint, like)).filter((url) => url !== null);
  }

  forgetHints() {
    this.hinted = [];
  }

  /** @param {string} [avoid] passed over where there is another one */
  next(avoid) {
    const hinted = this.hinted.shift();
    if (hinted !== undefined) return hinted;
    let url = this.#step();
    if (url === avoid && this.known.length > 1) url = this.#step();
    return url;
  }

  #step() {
    const url = this.known[this.at % this.known.length];
    this.at = (this.at + 1) % this.known.length;
    return url;
  }
}

/** @param {string} url */
function complete(url) {
  const parsed = new URL(url);
  if (parsed.protocol !== "ws:" && parsed.protocol !== "wss:") {
    throw new TypeError(`${url} is not a WebSocket address: write ws://host:3102/ws or wss://host/ws`);
  }
  if (parsed.pathname === "/") parsed.pathname = "/ws";
  return parsed.href;
}

function readHint(hint, like) {
  if (typeof hint !== "string") return null;
  try {
    if (hint.includes("://")) {
      // A page that was served with TLS may not fall back to a plain connection.
      const url = complete(hint);
      return like.startsWith("wss:") && !url.startsWith("wss:") ? null : url;
    }
    const url = new URL(like);
    const there = new URL(`${url.protocol}//${hint}`);
    url.host = there.host;
    return there.host && there.pathname === "/" ? url.href : null;
  } catch {
    return null;
  }
}
