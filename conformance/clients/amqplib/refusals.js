// Queues that cannot be: arguments of a wrong value, of another kind of queue, or not those the queue has.
'use strict';

const { channelClosed } = require('./world');

const QUORUM = { 'x-queue-type': 'quorum' };
const cases = {};

/** Declaring this queue must be refused with this text, in which % is the queue. */
async function refused(world, connection, text, name, options) {
  const full = `PRECONDITION_FAILED - ${text.replace('%', `queue '${name}' in vhost '/'`)}`;
  await channelClosed(world, connection, 406, full, (channel) => channel.assertQueue(name, { durable: false, ...options }));
}

cases['queue.declare/inequivalent-argument'] = async (world) => {
  const connection = await world.connect();
  const current = { 'x-message-ttl': 60000, 'x-max-length': 5, 'x-overflow': 'drop-head', 'x-dead-letter-exchange': 'one', 'x-max-priority': 3 };
  const others = { 'x-message-ttl': 50000, 'x-max-length': 6, 'x-overflow': 'reject-publish', 'x-dead-letter-exchange': 'two', 'x-max-priority': 4 };
  const queue = await world.queue(await world.channel(connection), { arguments: current });
  for (const [name, value] of Object.entries(others)) {
    await refused(world, connection, `inequivalent arg '${name}' for %: received '${value}' but current is '${current[name]}'`,
      queue, { arguments: { ...current, [name]: value } });
  }
  const { 'x-message-ttl': _, ...without } = current;
  await refused(world, connection, "inequivalent arg 'x-message-ttl' for %: received none but current is the value '60000' of type 'signedint'",
    queue, { arguments: without });
  await refused(world, connection, "inequivalent arg 'x-expires' for %: received the value '600000' of type 'signedint' but current is none",
    queue, { arguments: { ...current, 'x-expires': 600000 } });
};

cases['queue.declare/equivalent-argument'] = async (world) => {
  const channel = await world.channel();
  // amqplib writes each number as wide as it must be, unless it is told.
  const queue = await world.queue(channel, { arguments: { 'x-max-length': 5 } });
  for (const type of ['int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64']) {
    const options = { durable: false, arguments: { 'x-max-length': { '!': type, value: 5 }, 'x-queue-type': 'classic' } };
    await channel.assertQueue(queue, options);
  }
};

cases['queue.declare/invalid-rule'] = async (world) => {
  const connection = await world.connect();
  const wrong = [
    ['x-message-ttl', '60000', '"expected integer, got longstr"'],
    ['x-message-ttl', 1.5, '"expected integer, got double"'],
    ['x-message-ttl', 400000000000, '{value_too_large,400000000000}'],
    ['x-expires', 0, '{value_zero,0}'],
    ['x-max-length', -1, '{value_negative,-1}'],
    ['x-max-priority', 256, '{max_value_exceeded,256}'],
    ['x-overflow', 'spill', 'invalid_overflow'],
    ['x-dead-letter-routing-key', 'key', 'routing_key_but_no_dlx_defined'],
    ['x-queue-type', 'heap', "\"unsupported queue type 'heap'\""],
  ];
  for (const [name, value, reason] of wrong) {
    await refused(world, connection, `invalid arg '${name}' for %: ${reason}`, world.name('invalid'), { durable: true, arguments: { [name]: value } });
  }
};

cases['queue.declare/quorum-refusals'] = async (world) => {
  const connection = await world.connect();
  const name = world.name('quorum');
  for (const [property, options] of [['non-durable', { durable: false }], ['exclusive-owner', { durable: true, exclusive: true }],
    ['auto-delete', { durable: true, autoDelete: true }]]) {
    await refused(world, connection, `invalid property '${property}' for %`, name, { ...options, arguments: QUORUM });
  }
  await refused(world, connection, "invalid arg 'x-max-priority' for % of queue type rabbit_quorum_queue", name,
    { durable: true, arguments: { ...QUORUM, 'x-max-priority': 5 } });
  await refused(world, connection, "invalid arg 'x-delivery-limit' for % of queue type rabbit_classic_queue", name,
    { durable: true, arguments: { 'x-delivery-limit': 5 } });
};

module.exports = cases;
