// A mock of Basiq for tests in JavaScript and TypeScript: one process, and a state of its own for each test.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** Start a mock and wait until it can be called. A free port is taken, so that two jobs on one machine do not meet. */
export async function startMock(...options) {
  const child = spawn("basiq-async", ["mock", "--port", "0", "--json", ...options], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = new Promise((resolve) => child.once("close", resolve));
  const line = await new Promise((resolve, reject) => {
    createInterface(child.stdout).once("line", resolve);
    child.once("error", reject);
    child.once("close", (code) => reject(new Error(`the mock ended with ${code} before it was ready`)));
  });
  const { base_url: baseUrl, api_key: apiKey } = JSON.parse(line);
  return new Mock(new State(baseUrl, apiKey), async () => {
    child.kill();
    await ended;
  });
}

class Mock {
  /** The state that is there from the beginning. */
  first;
  /** End the process. */
  stop;

  constructor(first, stop) {
    this.first = first;
    this.stop = stop;
  }

  /** Add a state: nothing that happens in it shows in another. Its clock stands still until it is moved. */
  async addState(name) {
    const made = await this.first.control("POST", "/states", { name, still: true });
    return new State(this.first.baseUrl, made.apiKey);
  }
}

/** One state. Its API key says which one a call means, so that no other mock on the port is driven by mistake. */
export class State {
  #token;

  constructor(baseUrl, apiKey) {
    this.baseUrl = baseUrl;
    this.apiKey = apiKey;
  }

  /** Call Basiq's API, as a service does, with one token for all calls. */
  basiq = async (method, path, body) => {
    this.#token ??= send(`${this.baseUrl}/token`, {
      method: "POST",
      headers: { Authorization: `Basic ${this.apiKey}`, "basiq-version": "3.0" },
      body: new URLSearchParams({ scope: "SERVER_ACCESS" }),
    });
    const { access_token: token } = await this.#token;
    return send(this.baseUrl + path, json(method, body, `Bearer ${token}`));
  };

  /** Call the control API: the document is at /_fake/openapi.json. */
  control = (method, path, body = {}) =>
    send(`${this.baseUrl}/_fake${path}`, json(method, method === "GET" ? undefined : body, `Basic ${this.apiKey}`));

  emit = (eventTypeId, more = {}) => this.control("POST", "/emit", { eventTypeId, wait: true, ...more });
  advance = (time) => this.control("POST", "/advance", time);
  advanceToNext = () => this.control("POST", "/next");
  deliveries = async () => (await this.control("GET", "/deliveries")).items.reverse();
  violations = async () => (await this.control("GET", "/violations")).items;
  remove = () => this.control("POST", "/states/remove");
}

function json(method, body, authorization) {
  const headers = { Authorization: authorization, ...(body && { "Content-Type": "application/json" }) };
  return { method, headers, body: body && JSON.stringify(body) };
}

async function send(url, options) {
  const response = await fetch(url, options);
  const text = await response.text();
  if (!response.ok) throw new Error(`${options.method} ${new URL(url).pathname}: ${response.status} ${text}`);
  return text ? JSON.parse(text) : null;
}
