// The ImCluster client for browsers and Node.js. See client.js for how to use it.

export { Client } from "./client.js";
export { RequestError, SendError } from "./errors.js";
