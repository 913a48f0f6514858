// A real server, on ports that the system chooses, with its data in a directory of its own.

import { execFile, spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdtemp, open, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const PATIENCE_MS = 30_000;

/** The program under test: the one that `IM_STANDALONE_BIN` names, or one that is built now. */
async function program() {
  if (process.env.IM_STANDALONE_BIN) return process.env.IM_STANDALONE_BIN;
  const root = fileURLToPath(new URL("../../..", import.meta.url));
  const build = ["build", "-p", "im-standalone", "--message-format=json-render-diagnostics"];
  const { stdout } = await promisify(execFile)("cargo", build, { cwd: root, maxBuffer: 1 << 28 });
  const built = stdout.split("\n").filter((line) => line.includes('"executable":"')).map((line) => JSON.parse(line));
  return built.find(({ target }) => target.name === "im-standalone").executable;
}

export class Standalone {
  /** With further flags, if any. */
  static async start(...flags) {
    const folder = await mkdtemp(join(tmpdir(), "im-standalone-"));
    const server = new Standalone(folder, await program(), flags);
    await server.run(Object.fromEntries(["tcp", "ws", "http", "page", "admin"].map((name) => [name, "127.0.0.1:0"])));
    return server;
  }

  constructor(folder, path, flags) {
    this.flags = flags;
    this.folder = folder;
    this.path = path;
  }

  /** Runs it on these addresses and waits until everything answers. */
  async run(addresses) {
    const ports = join(this.folder, "ports.json");
    await rm(ports, { force: true });
    const flags = Object.entries(addresses).flatMap(([name, address]) => [`--${name}-listen`, address]);
    const log = await open(join(this.folder, "log"), "a");
    // What is exported for the tests is none of the server's business.
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("IM_")));
    this.process = spawn(this.path, [...flags, ...this.flags, "--data-dir", join(this.folder, "data"), "--ports-file", ports], { env, stdio: ["ignore", log.fd, log.fd] });
    this.ended = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.once("error", () => {});
    await log.close();
    const end = performance.now() + PATIENCE_MS;
    for (;;) {
      const told = await readFile(ports, "utf8").catch(() => null);
      if (told) {
        this.addresses = JSON.parse(told);
        return;
      }
      if (performance.now() > end || this.process.exitCode !== null) {
        throw new Error(`the server did not start:\n${await readFile(join(this.folder, "log"), "utf8")}`);
      }
      await sleep(20);
    }
  }

  get url() {
    return `http://${this.addresses.page.replace("127.0.0.1", "localhost")}/`;
  }

  async kill() {
    this.process.kill("SIGKILL");
    await this.ended;
  }

  /** As an operator ends it. Resolves with the exit code. */
  async terminate() {
    this.process.kill("SIGTERM");
    return this.ended;
  }

  /** A token of an hour, signed with the secret that the server made. */
  async token(claims) {
    const secret = (await readFile(join(this.folder, "data", "auth.secret"), "utf8")).trim();
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const exp = Math.floor(Date.now() / 1_000) + 3_600;
    const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ exp, ...claims })}`;
    return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
  }

  async restart() {
    await this.run(this.addresses);
  }

  async stop() {
    await this.kill();
    await rm(this.folder, { recursive: true, force: true });
  }
}
