// Orders in a quorum queue: what fails is tried again at once, what is given up waits in a retry queue and comes back, and
// what fails too often is parked for a person. One dead-letter exchange tells the last two apart by the reason.
'use strict';

const assert = require('node:assert/strict');
const { Inbox, ready, publish } = require('./world');
const { story, deliveryCount } = require('./letters');

const LIMIT = 2;

async function run(world) {
  const channel = await world.channel();
  const quorum = (rules) => world.queue(channel, { durable: true, arguments: { 'x-queue-type': 'quorum', ...rules } });
  const dead = await world.exchange(channel, 'headers');
  const work = await quorum({ 'x-delivery-limit': LIMIT, 'x-dead-letter-exchange': dead, 'x-dead-letter-routing-key': 'given-up' });
  const later = await quorum({ 'x-message-ttl': 50, 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': work });
  const parked = await quorum();
  for (const [queue, reason] of [[later, 'rejected'], [parked, 'delivery_limit']]) {
    await channel.bindQueue(queue, dead, '', { 'x-match': 'all-with-x', 'x-first-death-reason': reason });
  }
  for (const order of ['good', 'flaky', 'busy', 'poison']) await publish(channel, '', work, order, { persistent: true });

  const working = await world.channel();
  await working.prefetch(1);
  const worker = await Inbox.open(working, work);
  const parking = await Inbox.open(channel, parked);
  const [attempts, done] = [{}, {}];
  for (let taken = 1; taken <= 9; taken++) {
    await worker.waitFor(taken);
    const order = worker.messages[taken - 1];
    const body = order.content.toString();
    attempts[body] = (attempts[body] || 0) + 1;
    if (body === 'busy' && attempts[body] === 1) {
      working.reject(order, false);
    } else if (body === 'poison' || (body === 'flaky' && attempts[body] <= LIMIT)) {
      assert.equal(deliveryCount(order), attempts[body] - 1, body);
      working.nack(order);
    } else {
      assert.equal(deliveryCount(order), body === 'flaky' ? LIMIT : 0, body);
      done[body] = order;
      working.ack(order);
    }
  }
  assert.deepEqual(attempts, { good: 1, flaky: 3, busy: 2, poison: 3 });
  assert.deepEqual(story(done.busy), [[later, 'expired', 1], [work, 'rejected', 1]]);

  assert.deepEqual(await parking.waitFor(1), ['poison']);
  const { fields, properties } = parking.messages[0];
  assert.deepEqual([fields.exchange, fields.routingKey], [dead, 'given-up']);
  const { 'x-death': [{ time, ...death }, ...older], ...headers } = properties.headers;
  assert.deepEqual([death, older], [{ count: 1, reason: 'delivery_limit', queue: work, exchange: '', 'routing-keys': [work] }, []]);
  assert.equal(time['!'], 'timestamp');
  assert.deepEqual(['queue', 'reason', 'exchange'].map((what) => headers[`x-first-death-${what}`]), [work, 'delivery_limit', '']);
  await working.close();
  assert.deepEqual([await ready(channel, work), await ready(channel, later)], [0, 0]);
}

module.exports = { 'story/quorum-retry': run };
