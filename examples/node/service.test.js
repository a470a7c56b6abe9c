// Tests of service.js. They run concurrently, each in a separate state, and do not wait in real time.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { startMock } from "./mock.js";
import { ConsentWatch } from "./service.js";

let mock;
before(async () => (mock = await startMock()));
after(() => mock.stop());

/** Run a test with a new state and a subscribed service, after the 15 minutes before Basiq begins to deliver. */
function withService(name, work) {
  test(name, async () => {
    const state = await mock.addState(name);
    const watch = new ConsentWatch(state.basiq);
    try {
      await watch.start();
      await state.advance({ minutes: 15 });
      await work(state, watch);
      assert.deepEqual(await state.misuses(), []); // the service did not misuse Basiq
    } finally {
      await watch.stop();
      await state.remove();
    }
  });
}

describe("a service that lists users without consent", { concurrency: true }, () => {
  withService("notes a revoked consent", async (state, watch) => {
    await state.emit("consent.revoked", { userId: "user-1" });
    assert.deepEqual(watch.withoutConsent, ["user-1"]);
  });

  withService("gets nothing that it did not subscribe to", async (state, watch) => {
    const { messageIds } = await state.emit("user.created");
    assert.deepEqual([messageIds, watch.withoutConsent], [[], []]);
  });

  withService("gets what happened while it was down", async (state, watch) => {
    await state.control("POST", "/endpoint/down", { status: 503 });
    await state.emit("consent.expired", { userId: "user-2" });
    await state.advance({ minutes: 30 });
    await state.control("POST", "/endpoint/up");
    await state.advance({ hours: 1 });
    assert.deepEqual(watch.withoutConsent, ["user-2"]);
    const attempts = (await state.deliveries()).map(({ number, status }) => [number, status]);
    assert.deepEqual(attempts, [[1, 503], [2, 503], [3, 503], [4, 204]]);
  });

  withService("fails a delivery whose event it cannot fetch, and handles the next attempt", async (state, watch) => {
    await state.control("POST", "/fail", { status: 503, path: "/events/*" });
    await state.emit("consent.revoked", { userId: "user-3" });
    assert.deepEqual(watch.withoutConsent, []);
    await state.advanceToNext();
    assert.deepEqual(watch.withoutConsent, ["user-3"]);
  });

  withService("handles an event once, though its response is lost", async (state, watch) => {
    await state.control("POST", "/deliveries/fail", { drop: "response" });
    await state.emit("consent.revoked", { userId: "user-4" });
    await state.advanceToNext();
    assert.deepEqual((await state.deliveries()).map(({ ok }) => ok), [false, true]);
    assert.deepEqual(watch.withoutConsent, ["user-4"]);
  });

  withService("gets a new token when the hour of the old one is over", async (state, watch) => {
    await state.advance({ hours: 25 });
    await Promise.all([1, 2].map((n) => state.emit("consent.revoked", { userId: `user-${n}` })));
    assert.deepEqual(watch.withoutConsent.sort(), ["user-1", "user-2"]);
  });

  withService("starts again with the webhook that it has", async (state, watch) => {
    await watch.stop();
    const restarted = new ConsentWatch(state.basiq);
    try {
      await restarted.start(watch.port);
      await state.emit("consent.revoked", { userId: "user-5" });
      assert.deepEqual(restarted.withoutConsent, ["user-5"]);
    } finally {
      await restarted.stop();
    }
  });
});
