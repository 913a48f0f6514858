// A browser, spoken to over its debugging pipe: messages of JSON, each ended by a zero byte.

import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const PATIENCE_MS = 30_000;

export class Chromium {
  static async start() {
    const profile = await mkdtemp(join(tmpdir(), "chromium-"));
    const browser = new Chromium(profile);
    await browser.call("Browser.getVersion");
    return browser;
  }

  constructor(profile) {
    this.profile = profile;
    this.next = 1;
    this.waiting = new Map();
    this.pages = new Map();
    const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions", "--remote-debugging-pipe", `--user-data-dir=${profile}`, "about:blank"];
    this.process = spawn(process.env.CHROMIUM ?? "chromium", flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    this.ended = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.once("error", (error) => this.#fail(error));
    this.ended.then(() => this.#fail(new Error("the browser has ended")));
    let rest = "";
    this.process.stdio[4].setEncoding("utf8").on("data", (text) => {
      const messages = (rest + text).split("\0");
      rest = messages.pop();
      for (const message of messages) this.#received(JSON.parse(message));
    });
    this.process.stdio[3].on("error", (error) => this.#fail(error));
  }

  #fail(error) {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }

  #received({ id, result, error, method, params, sessionId }) {
    if (id === undefined) return this.pages.get(sessionId)?.heard(method, params);
    const call = this.waiting.get(id);
    this.waiting.delete(id);
    if (error) call?.reject(new Error(error.message));
    else call?.resolve(result);
  }

  call(method, params = {}, sessionId = undefined) {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`${method} was not answered`)), PATIENCE_MS);
      const end = (then) => (value) => (clearTimeout(late), then(value));
      this.waiting.set(id, { resolve: end(resolve), reject: end(reject) });
      this.process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    });
  }

  /** A page in a context of its own: it shares neither storage nor cookies with the others. */
  async open(url, { width = 1000, height = 760, mobile = false, dark = false } = {}) {
    const { browserContextId } = await this.call("Target.createBrowserContext");
    const { targetId } = await this.call("Target.createTarget", { url: "about:blank", browserContextId });
    const { sessionId } = await this.call("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page(this, sessionId);
    this.pages.set(sessionId, page);
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await page.call(`${domain}.enable`);
    await page.call("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: mobile ? 2 : 1, mobile });
    await page.call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }] });
    await page.call("Page.navigate", { url });
    await page.until("document.documentElement.dataset.ready === 'true'");
    return page;
  }

  async close() {
    await this.call("Browser.close").catch(() => this.process.kill("SIGKILL"));
    const forced = setTimeout(() => this.process.kill("SIGKILL"), 5_000);
    await this.ended;
    clearTimeout(forced);
    await rm(this.profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }
}

class Page {
  constructor(browser, sessionId) {
    this.browser = browser;
    this.sessionId = sessionId;
    /** What went wrong on the page: exceptions, and what its security policy forbade. */
    this.complaints = [];
  }

  heard(method, params) {
    if (method === "Runtime.exceptionThrown") this.complaints.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    if (method === "Log.entryAdded" && params.entry.source === "security") this.complaints.push(params.entry.text);
  }

  call(method, params) {
    return this.browser.call(method, params, this.sessionId);
  }

  async evaluate(expression) {
    const { result, exceptionDetails } = await this.call("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** Waits until an expression is true on the page. */
  async until(expression) {
    const end = performance.now() + PATIENCE_MS;
    for (;;) {
      const value = await this.evaluate(expression).catch(() => undefined);
      if (value) return value;
      if (performance.now() > end) throw new Error(`not within ${PATIENCE_MS} ms: ${expression}; the page says ${await this.evaluate("document.body.innerText")}`);
      await sleep(25);
    }
  }

  /** Types into a field as a person does. */
  async type(selector, text) {
    await this.evaluate(`(() => { const field = document.querySelector(${JSON.stringify(selector)}); field.focus(); field.select(); })()`);
    await this.call("Input.insertText", { text });
  }

  async click(selector) {
    const { x, y } = await this.evaluate(`(() => { const box = document.querySelector(${JSON.stringify(selector)}).getBoundingClientRect(); return { x: box.x + box.width / 2, y: box.y + box.height / 2 }; })()`);
    for (const type of ["mousePressed", "mouseReleased"]) {
      await this.call("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 });
    }
  }

  async screenshot(path) {
    const { data } = await this.call("Page.captureScreenshot", { format: "png" });
    await writeFile(path, Buffer.from(data, "base64"));
  }
}
