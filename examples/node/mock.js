// A mock of Basiq for tests in JavaScript and TypeScript: one process, with a separate state for each test.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** Start a mock on a free port, and wait until it can be called. Two jobs on one machine do not conflict. */
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
  /** The first state of the mock. */
  first;
  /** End the process. */
  stop;

  constructor(first, stop) {
    this.first = first;
    this.stop = stop;
  }

  /** Add a separate state, which shares no data with others. Its clock stands still until it is moved. */
  async addState(name) {
    const made = await this.first.control("POST", "/states", { name, still: true });
    return new State(this.first.baseUrl, made.apiKey);
  }
}

/** One state. Calls name it by its API key, so that another mock on the same port refuses them. */
export class State {
  #token;

  constructor(baseUrl, apiKey) {
    this.baseUrl = baseUrl;
    this.apiKey = apiKey;
  }

  /** Call Basiq's API as a service does, with one token for all calls, until it expires. */
  basiq = async (method, path, body) => {
    this.#token ??= this.#requestToken();
    const token = this.#token;
    const call = async (token) => send(this.baseUrl + path, json(method, body, `Bearer ${(await token).access_token}`));
    try {
      return await call(token);
    } catch (error) {
      if (error.status !== 401 && !/token has expired/i.test(error.message)) throw error;
      if (this.#token === token) this.#token = this.#requestToken(); // only the first of several calls renews it
      return call(this.#token);
    }
  };

  #requestToken = () =>
    send(`${this.baseUrl}/token`, {
      method: "POST",
      headers: { Authorization: `Basic ${this.apiKey}`, "basiq-version": "3.0" },
      body: new URLSearchParams({ scope: "SERVER_ACCESS" }),
    });

  /** Call the control API, which /_fake/openapi.json describes. */
  control = (method, path, body = {}) =>
    send(`${this.baseUrl}/_fake${path}`, json(method, method === "GET" ? undefined : body, `Basic ${this.apiKey}`));

  emit = (eventTypeId, more = {}) => this.control("POST", "/emit", { eventTypeId, wait: true, ...more });
  advance = (time) => this.control("POST", "/advance", time);
  advanceToNext = () => this.control("POST", "/next");
  deliveries = async () => (await this.control("GET", "/deliveries")).items.reverse();
  misuses = async () => (await this.control("GET", "/misuses")).items;
  remove = () => this.control("POST", "/states/remove");
}

function json(method, body, authorization) {
  const headers = { Authorization: authorization, ...(body && { "Content-Type": "application/json" }) };
  return { method, headers, body: body && JSON.stringify(body) };
}

async function send(url, options) {
  const response = await fetch(url, options);
  const text = await response.text();
  if (!response.ok) {
    const error = new Error(`${options.method} ${new URL(url).pathname}: ${response.status} ${text}`);
    throw Object.assign(error, { status: response.status });
  }
  return text ? JSON.parse(text) : null;
}
