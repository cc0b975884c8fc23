// Queues with rules: what expires, what is too much, what nobody wants, and who comes first.
'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { Inbox, within, ready, publish, fill, drain, numbered, stillUsable } = require('./world');
const { story, deliveryCount } = require('./letters');

const deadLettersTo = (queue, more) => ({ 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': queue, ...more });

/** A queue of these rules and, behind it, a consumer of what it dead-letters. */
async function ruled(world, rules, { durable = false } = {}) {
  const channel = await world.channel();
  const dead = await world.queue(channel);
  const queue = await world.queue(channel, { durable, arguments: deadLettersTo(dead, rules) });
  return { channel, dead, queue, letters: await Inbox.open(channel, dead, { noAck: true }) };
}

/** Whether a publish is acked; amqplib tells a nack as an error. */
async function acked(channel, exchange, key, body) {
  const answer = new Promise((resolve) => channel.publish(exchange, key, Buffer.from(body), {}, (nacked) => resolve(!nacked)));
  return within(answer, 'confirm');
}

const cases = {};

cases['queue.rules/rejected-dead-letter'] = async (world) => {
  const { channel, dead, queue, letters } = await ruled(world, {});
  await publish(channel, '', queue, 'unwanted', { headers: { mine: 1 }, messageId: '7' });
  channel.reject(await channel.get(queue), false);
  assert.deepEqual(await letters.waitFor(1), ['unwanted']);
  const { fields, properties } = letters.messages[0];
  assert.deepEqual([fields.exchange, fields.routingKey, properties.messageId], ['', dead, '7']);
  const { 'x-death': [{ time, ...death }], ...headers } = properties.headers;
  assert.equal(time['!'], 'timestamp');
  assert.deepEqual(death, { count: 1, reason: 'rejected', queue, exchange: '', 'routing-keys': [queue] });
  assert.equal(headers.mine, 1);
  assert.deepEqual([headers['x-first-death-queue'], headers['x-first-death-reason'], headers['x-first-death-exchange']],
    [queue, 'rejected', '']);
};

cases['queue.rules/message-ttl'] = async (world) => {
  const { channel, queue, letters } = await ruled(world, { 'x-message-ttl': 100 });
  await publish(channel, '', queue, 'too late');
  assert.deepEqual(await letters.waitFor(1), ['too late']);
  assert.deepEqual([story(letters.messages[0]), await ready(channel, queue)], [[[queue, 'expired', 1]], 0]);
};

cases['queue.rules/message-ttl-zero'] = async (world) => {
  const { channel, queue, letters } = await ruled(world, { 'x-message-ttl': 0 });
  await publish(channel, '', queue, 'nobody waits');
  assert.deepEqual(await letters.waitFor(1), ['nobody waits']);
  const waiting = await Inbox.open(channel, queue, { noAck: true });
  await publish(channel, '', queue, 'somebody waits');
  assert.deepEqual(await waiting.waitFor(1), ['somebody waits']);
};

cases['queue.rules/expiration'] = async (world) => {
  const { channel, queue, letters } = await ruled(world, { 'x-message-ttl': 600000 });
  await publish(channel, '', queue, 'short', { expiration: 50 });
  await letters.waitFor(1);
  const { properties } = letters.messages[0];
  assert.deepEqual([properties.expiration, properties.headers['x-death'][0]['original-expiration']], [undefined, '50']);
};

cases['queue.rules/expires'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel, { expires: 200 });
  // Anything else that asks for it would be use.
  let isGone = false;
  once(channel, 'return').then(() => { isGone = true; });
  const asked = async () => { while (!isGone) await publish(channel, '', queue, '', { mandatory: true }); };
  await within(asked(), 'the queue goes');
};

cases['queue.rules/max-length'] = async (world) => {
  const { channel, queue, letters } = await ruled(world, { 'x-max-length': 3 });
  await fill(channel, queue, 10);
  assert.deepEqual(await letters.waitFor(7), numbered(7));
  assert.deepEqual(story(letters.messages[0]), [[queue, 'maxlen', 1]]);
  assert.deepEqual(await drain(channel, queue), numbered(3, 7));
};

cases['queue.rules/max-length-bytes'] = async (world) => {
  const { channel, queue, letters } = await ruled(world, { 'x-max-length-bytes': 100 });
  const bodies = ['a'.repeat(60), 'b'.repeat(30), 'c'.repeat(10), 'd', 'e'.repeat(101)];
  for (const body of bodies) await publish(channel, '', queue, body);
  assert.deepEqual(await letters.waitFor(5), bodies);
};

cases['queue.rules/max-length-ready'] = async (world) => {
  const { channel, queue, letters } = await ruled(world, { 'x-max-length': 2 });
  await fill(channel, queue, 2);
  await channel.get(queue);
  const held = await channel.get(queue);
  for (const body of ['2', '3']) await publish(channel, '', queue, body);
  assert.deepEqual([await ready(channel, queue), letters.bodies], [2, []]);
  channel.nack(held, true);
  assert.deepEqual(await letters.waitFor(2), ['0', '1']);
  assert.deepEqual(await drain(channel, queue), ['2', '3']);
};

cases['queue.rules/reject-publish'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel, { arguments: { 'x-max-length': 2, 'x-overflow': 'reject-publish' } });
  const answers = [];
  for (const body of numbered(4)) answers.push(await acked(channel, '', queue, body));
  assert.deepEqual(answers, [true, true, false, false]);
  await channel.get(queue, { noAck: true });
  assert.ok(await acked(channel, '', queue, '4'));
  assert.deepEqual(await drain(channel, queue), ['1', '4']);
};

cases['queue.rules/reject-publish-dlx'] = async (world) => {
  const { channel, queue, letters } = await ruled(world, { 'x-max-length': 1, 'x-overflow': 'reject-publish-dlx' });
  assert.deepEqual([await acked(channel, '', queue, '0'), await acked(channel, '', queue, '1')], [true, false]);
  assert.deepEqual(await letters.waitFor(1), ['1']);
  assert.deepEqual(story(letters.messages[0]), [[queue, 'maxlen', 1]]);
  assert.deepEqual(await drain(channel, queue), ['0']);
};

cases['queue.rules/reject-publish-fan-out'] = async (world) => {
  const channel = await world.channel();
  const exchange = await world.exchange(channel, 'fanout');
  const full = await world.queue(channel, { bindTo: exchange, arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } });
  const other = await Inbox.open(channel, await world.queue(channel, { bindTo: exchange }), { noAck: true });
  assert.deepEqual([await acked(channel, exchange, '', '0'), await acked(channel, exchange, '', '1')], [true, false]);
  assert.deepEqual(await drain(channel, full), ['0']);
  assert.deepEqual(await other.waitFor(2), ['0', '1']);
};

cases['queue.rules/priorities'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel, { durable: true, maxPriority: 5 });
  for (const [number, priority] of [0, 3, undefined, 9, 1, 5, 3].entries()) {
    await publish(channel, '', queue, String(number), { priority });
  }
  assert.deepEqual(await drain(channel, queue), ['3', '5', '1', '6', '4', '0', '2']);
};

cases['queue.rules/single-active-consumer'] = async (world) => {
  const [channel, active] = [await world.channel(), await world.channel()];
  const queue = await world.queue(channel, { arguments: { 'x-single-active-consumer': true } });
  const first = await Inbox.open(active, queue, { noAck: true });
  const second = await Inbox.open(await world.channel(), queue, { noAck: true });
  await fill(channel, queue, 2);
  assert.deepEqual(await first.waitFor(2), ['0', '1']);
  await active.close();
  await publish(channel, '', queue, 'next');
  assert.deepEqual(await second.waitFor(1), ['next']);
  assert.equal(first.messages.length, 2);
};

cases['queue.rules/delivery-limit'] = async (world) => {
  const { channel, queue, letters } = await ruled(world, { 'x-queue-type': 'quorum', 'x-delivery-limit': 2 }, { durable: true });
  await publish(channel, '', queue, 'poison');
  const worker = await Inbox.open(channel, queue);
  for (const count of [0, 1, 2]) {
    await worker.waitFor(count + 1);
    assert.equal(deliveryCount(worker.messages[count]), count);
    channel.nack(worker.messages[count]);
  }
  assert.deepEqual(await letters.waitFor(1), ['poison']);
  assert.deepEqual(story(letters.messages[0]), [[queue, 'delivery_limit', 1]]);
};

cases['queue.rules/consumer-timeout'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel, { durable: true, arguments: { 'x-consumer-timeout': 1000 } });
  await publish(channel, '', queue, 'held too long');
  const connection = await world.connect();
  const holder = await world.channel(connection);
  await (await Inbox.open(holder, queue)).waitFor(1);
  const { code, message } = await within(holder.failure, 'the channel is closed');
  assert.equal(code, 406);
  assert.ok(message.includes('"PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: '
    + '1000 ms. This timeout value can be configured, see consumers doc guide to learn more"'), message);
  await stillUsable(world, connection);
  const again = await channel.get(queue, { noAck: true });
  assert.deepEqual([again.content.toString(), again.fields.redelivered], ['held too long', true]);
};

module.exports = cases;
