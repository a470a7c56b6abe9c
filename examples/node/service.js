// A small example service, which lists the users whose consent was revoked or has expired.
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

export class ConsentWatch {
  withoutConsent = [];
  #secret;
  #basiq;
  #handled = new Set();
  #server = createServer((request, response) => this.#receive(request, response));

  /** `basiq` calls Basiq's API, as `State.basiq` in mock.js does. */
  constructor(basiq) {
    this.#basiq = basiq;
  }

  /** Listen on a port of this machine, by default a free one, and subscribe. */
  async start(port = 0) {
    await new Promise((ready) => this.#server.listen(port, "127.0.0.1", ready));
    this.port = this.#server.address().port;
    const url = `http://127.0.0.1:${this.port}/basiq`;
    // Basiq refuses a second webhook with the same url. It returns the secret of one that is updated, too.
    const { data } = await this.#basiq("GET", "/notifications/webhooks");
    const old = data.find((webhook) => webhook.url === url);
    const path = old ? `/notifications/webhooks/${old.id}` : "/notifications/webhooks";
    const subscribedEvents = ["consent.revoked", "consent.expired"];
    this.#secret = (await this.#basiq("POST", path, { url, subscribedEvents })).secret;
  }

  async stop() {
    this.#server.closeAllConnections();
    await new Promise((closed) => this.#server.close(closed));
  }

  async #receive(request, response) {
    try {
      const parts = [];
      for await (const part of request) parts.push(part);
      const delivery = new Webhook(this.#secret).verify(Buffer.concat(parts), request.headers);
      // Remember events by their ids: Basiq sends an event again if it got no response.
      if (!this.#handled.has(delivery.eventId)) {
        const event = await this.#basiq("GET", new URL(delivery.links.event).pathname);
        this.withoutConsent.push(event.userId);
        this.#handled.add(delivery.eventId);
      }
      response.writeHead(204).end();
    } catch {
      response.writeHead(500).end();
    }
  }
}
