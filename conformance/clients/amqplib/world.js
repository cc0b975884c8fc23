// What a case works with: connections, names of its own, cleaning up, and waiting with a deadline.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const amqp = require('amqplib');

const DEADLINE_MS = 20000;

/** One case's view of the broker: connections, names of its own, and cleaning up. */
class World {
  constructor(url) {
    this.url = url;
    this.connections = [];
    this.queues = [];
    this.exchanges = [];
  }

  async connect({ heartbeat = 30, frameMax, vhost = '/', password } = {}) {
    const url = new URL(this.url);
    const connection = await amqp.connect({
      hostname: url.hostname, port: Number(url.port || 5672), username: decodeURIComponent(url.username),
      password: password || decodeURIComponent(url.password), vhost, heartbeat, frameMax,
    });
    connection.failure = new Promise((resolve) => connection.on('error', resolve));
    connection.gone = new Promise((resolve) => connection.on('close', resolve));
    connection.gone.then(() => { connection.closed = true; });
    this.connections.push(connection);
    return connection;
  }

  /** A channel, with confirms; an error of the channel is kept in `failure`. */
  async channel(connection) {
    const channel = await (connection || await this.connect()).createConfirmChannel();
    channel.failure = new Promise((resolve) => channel.on('error', resolve));
    return channel;
  }

  name(hint = 'conformance') {
    return `${hint}-${crypto.randomBytes(6).toString('hex')}`;
  }

  async queue(channel, { bindTo, key = '', bindArguments, ...options } = {}) {
    const name = this.name('queue');
    this.queues.push(name);
    await channel.assertQueue(name, { durable: false, ...options });
    if (bindTo) await channel.bindQueue(name, bindTo, key, bindArguments);
    return name;
  }

  async exchange(channel, kind, options = {}) {
    const name = this.name(kind);
    this.exchanges.push(name);
    await channel.assertExchange(name, kind, { durable: false, ...options });
    return name;
  }

  async end() {
    if (this.queues.length || this.exchanges.length) {
      const channel = await this.channel();
      for (const queue of this.queues) await channel.deleteQueue(queue);
      for (const exchange of this.exchanges) await channel.deleteExchange(exchange);
    }
    for (const connection of this.connections) if (!connection.closed) await connection.close();
  }
}

/** Fail loudly when a promise takes too long, so that no case can hang. */
async function within(promise, what, ms = DEADLINE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A consumer that keeps what it is given; `cancelled` resolves when the broker cancels it. */
class Inbox {
  static async open(channel, queue, options = {}) {
    const inbox = new Inbox();
    inbox.channel = channel;
    inbox.messages = [];
    inbox.waiting = [];
    inbox.cancelled = new Promise((resolve) => { inbox.onCancel = resolve; });
    const ok = await channel.consume(queue, (message) => inbox.take(message), options);
    inbox.tag = ok.consumerTag;
    return inbox;
  }

  take(message) {
    if (message === null) return this.onCancel(true);
    this.messages.push(message);
    this.waiting = this.waiting.filter(({ count, resolve }) => this.messages.length < count || resolve());
  }

  get bodies() {
    return this.messages.map((message) => message.content.toString());
  }

  async waitFor(count) {
    if (this.messages.length < count) {
      await within(new Promise((resolve) => this.waiting.push({ count, resolve })), `${count} deliveries`);
    }
    assert.equal(this.messages.length, count);
    return this.bodies;
  }
}

/** A round trip: what the broker sent on this channel before it has arrived after it. */
async function ready(channel, queue) {
  return (await channel.checkQueue(queue)).messageCount;
}

async function publish(channel, exchange, key, body, options = {}) {
  channel.publish(exchange, key, Buffer.from(body), options);
  await within(channel.waitForConfirms(), 'confirm');
}

async function fill(channel, queue, count) {
  for (let number = 0; number < count; number++) channel.sendToQueue(queue, Buffer.from(String(number)));
  await within(channel.waitForConfirms(), `${count} confirms`);
}

async function drain(channel, queue) {
  const bodies = [];
  for (;;) {
    const message = await channel.get(queue, { noAck: true });
    if (!message) return bodies;
    bodies.push(message.content.toString());
  }
}

const numbered = (count, first = 0) => Array.from({ length: count }, (_, index) => String(first + index));

async function stillUsable(world, connection) {
  const channel = await world.channel(connection);
  const { queue } = await channel.assertQueue('', { exclusive: true });
  await publish(channel, '', queue, 'still here');
  assert.deepEqual(await drain(channel, queue), ['still here']);
}

/** The channel that `act` uses must close with this code and one of these texts; the connection stays usable. */
async function channelClosed(world, connection, code, texts, act) {
  const channel = await world.channel(connection);
  Promise.resolve(act(channel)).catch(() => {}); // The same error comes as the event that is asserted on.
  const error = await within(channel.failure, `channel closed with ${code}`);
  assert.equal(error.code, code, error.message);
  const rightText = [texts].flat().some((text) => error.message.includes(`"${text}"`));
  assert.ok(rightText, `expected ${texts}, got ${error.message}`);
  await stillUsable(world, connection);
}

module.exports = { World, Inbox, within, ready, publish, fill, drain, numbered, stillUsable, channelClosed };
