// amqplib, the Node.js client: promises and callbacks, one channel error as an event.
//
// needs:    node npm
// apt:      nodejs npm
// install:  npm install --silent --no-audit --no-fund --no-save --prefix "$WORK" amqplib@2
// run:      NODE_PATH="$WORK/node_modules" node "$FILE"
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { once } = require('node:events');
const {
  World, Inbox, within, ready, publish, fill, drain, numbered, stillUsable, channelClosed,
} = require('./world');

const WITHOUT = {
  'connection.open/vhost-not-found': 'amqplib hides why opening failed',
  'tx/*': 'amqplib has no transactions',
  'basic.recover/no-requeue': 'amqplib always asks for requeue',
  'basic.publish/immediate': 'amqplib has no immediate flag',
  'basic.qos/prefetch-size': 'amqplib has no prefetch size',
  'channel.flow/inactive': 'amqplib does not send channel.flow',
  'channel.open/number-reused': 'amqplib chooses the channel numbers',
  'channel.open/twice': 'amqplib opens each channel once',
  'basic.ack/multiple-zero': 'amqplib acks all with ackAll, seen in basic.ack/multiple',
  'heartbeat/silent-dropped': 'amqplib beats on its own timer and cannot be kept from it',
};

/** Register a case that expects one channel error. */
function refused(name, code, texts, prepare) {
  cases[name] = async (world) => {
    const connection = await world.connect();
    const { act, values = [] } = await prepare(world, await world.channel(connection), connection);
    const filled = [texts].flat().map((text) => values.reduce((soFar, value) => soFar.replace('%', value), text));
    await channelClosed(world, connection, code, filled, act);
  };
}

const cases = { ...require('./rules'), ...require('./refusals'), ...require('./quorum-retry'), ...require('./tls') };
const NEEDS = {
  'queue.rules/consumer-timeout': 'short-consumer-timeout', 'tls/server-certificate': 'tls', 'tls/external': 'tls', 'tls/expired': 'tls',
  'tls/wrong-name': 'tls', 'tls/old-version': 'tls', 'tls/plain': 'tls',
};

cases['connection.open/capabilities'] = async (world) => {
  const { serverProperties } = (await world.connect()).connection;
  for (const name of ['publisher_confirms', 'exchange_exchange_bindings', 'basic.nack', 'consumer_cancel_notify',
    'connection.blocked', 'consumer_priorities', 'authentication_failure_close', 'per_consumer_qos', 'direct_reply_to']) {
    assert.equal(serverProperties.capabilities[name], true, name);
  }
  assert.equal(serverProperties.product, 'RabbitMQ');
};

cases['connection.open/bad-password'] = async (world) => {
  await assert.rejects(world.connect({ password: 'wrong' }), /403 \(ACCESS-REFUSED\).*ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN\. For details see the broker logfile\./);
};

cases['connection.close/unacked-to-others'] = async (world) => {
  const [setup, holder] = [await world.channel(), await world.channel()];
  const queue = await world.queue(setup);
  await fill(setup, queue, 3);
  const held = await Inbox.open(holder, queue);
  await held.waitFor(3);
  holder.ack(held.messages[0]);
  const other = await Inbox.open(setup, queue);
  await world.connections[1].close();
  assert.deepEqual(await other.waitFor(2), ['1', '2']);
  assert.ok(other.messages.every((message) => message.fields.redelivered));
};

cases['connection.close/exclusive-queue-gone'] = async (world) => {
  const [owner, other] = [await world.connect(), await world.connect()];
  const name = world.name('exclusive');
  await (await world.channel(owner)).assertQueue(name, { exclusive: true });
  await owner.close();
  await channelClosed(world, other, 404, `NOT_FOUND - no queue '${name}' in vhost '/'`, (channel) => channel.checkQueue(name));
};

cases['connection.update-secret/accepted'] = async (world) => {
  const connection = await world.connect();
  await within(connection.updateSecret(Buffer.from('guest'), 'conformance'), 'update-secret-ok');
  await stillUsable(world, connection);
};

cases['heartbeat/negotiated'] = async (world) => {
  // amqplib never asks for more than the server's 60.
  for (const [asked, used] of [[120, 60], [1, 1], [0, 0]]) {
    const connection = await world.connect({ heartbeat: asked });
    assert.equal(connection.connection.heartbeat, used);
    await stillUsable(world, connection);
  }
};

cases['heartbeat/idle-survives'] = async (world) => {
  const connection = await world.connect({ heartbeat: 2 });
  const idle = new Promise((resolve) => setTimeout(resolve, 6000));
  const failed = connection.failure.then((error) => { throw error; });
  await Promise.race([idle, failed]);
  await stillUsable(world, connection);
};

cases['channel.open/many'] = async (world) => {
  const connection = await world.connect();
  const channels = await Promise.all(Array.from({ length: 100 }, () => world.channel(connection)));
  await Promise.all(channels.map(async (channel) => {
    const { queue } = await channel.assertQueue('', { exclusive: true });
    await publish(channel, '', queue, queue);
    assert.deepEqual(await drain(channel, queue), [queue]);
  }));
};

cases['channel.close/unacked-requeued'] = async (world) => {
  const connection = await world.connect();
  const [channel, holder] = [await world.channel(connection), await world.channel(connection)];
  const queue = await world.queue(channel);
  await fill(channel, queue, 3);
  await (await Inbox.open(holder, queue)).waitFor(3);
  await holder.close();
  const first = await channel.get(queue);
  assert.deepEqual([first.fields.redelivered, first.content.toString()], [true, '0']);
};

cases['exchange.declare/kinds'] = async (world) => {
  const channel = await world.channel();
  for (const kind of ['direct', 'fanout', 'topic', 'headers']) {
    const name = await world.exchange(channel, kind);
    await channel.assertExchange(name, kind, { durable: false });
    await channel.checkExchange(name);
  }
};

cases['exchange.declare/passive'] = async (world) => {
  const channel = await world.channel();
  for (const name of ['amq.direct', 'amq.fanout', 'amq.topic', 'amq.headers', 'amq.match']) await channel.checkExchange(name);
};

refused('exchange.declare/passive-missing', 404, "NOT_FOUND - no exchange '%' in vhost '/'", (world) => {
  const name = world.name('missing');
  return { values: [name], act: (channel) => channel.checkExchange(name) };
});

refused('exchange.declare/inequivalent', 406, "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '%' in vhost '/': received 'fanout' but current is 'direct'",
  async (world, setup) => {
    const name = await world.exchange(setup, 'direct');
    return { values: [name], act: (channel) => channel.assertExchange(name, 'fanout', { durable: false }) };
  });

refused('exchange.declare/inequivalent-argument', 406, "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange '%' in vhost '/': received 'two' but current is 'one'",
  async (world, setup) => {
    const name = await world.exchange(setup, 'direct', { alternateExchange: 'one' });
    return { values: [name], act: (channel) => channel.assertExchange(name, 'direct', { durable: false, alternateExchange: 'two' }) };
  });

refused('exchange.declare/reserved-name', 403, "ACCESS_REFUSED - exchange name 'amq.conformance' contains reserved prefix 'amq.*'",
  () => ({ act: (channel) => channel.assertExchange('amq.conformance', 'direct') }));

refused('exchange.declare/internal', 403, "ACCESS_REFUSED - cannot publish to internal exchange '%' in vhost '/'",
  async (world, setup) => {
    const name = await world.exchange(setup, 'fanout', { internal: true });
    return { values: [name], act: (channel) => channel.publish(name, '', Buffer.from('')) };
  });

refused('exchange.delete/if-unused', 406, "PRECONDITION_FAILED - exchange '%' in vhost '/' in use", async (world, setup) => {
  const name = await world.exchange(setup, 'fanout');
  await world.queue(setup, { bindTo: name });
  return { values: [name], act: (channel) => channel.deleteExchange(name, { ifUnused: true }) };
});

refused('exchange.delete/system', 403, "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed",
  () => ({ act: (channel) => channel.deleteExchange('amq.direct') }));

cases['exchange.bind/unbind'] = async (world) => {
  const channel = await world.channel();
  const [source, destination] = [await world.exchange(channel, 'direct'), await world.exchange(channel, 'fanout')];
  const queue = await world.queue(channel, { bindTo: destination });
  await channel.bindExchange(destination, source, 'key');
  await publish(channel, source, 'key', 'bound');
  await channel.unbindExchange(destination, source, 'key');
  await publish(channel, source, 'key', 'unbound');
  assert.deepEqual(await drain(channel, queue), ['bound']);
};

cases['queue.declare/counts'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, 3);
  await channel.prefetch(1);
  await (await Inbox.open(channel, queue)).waitFor(1);
  assert.deepEqual(await channel.checkQueue(queue), { queue, messageCount: 2, consumerCount: 1 });
};

cases['queue.declare/server-named'] = async (world) => {
  const channel = await world.channel();
  const names = [await channel.assertQueue('', { exclusive: true }), await channel.assertQueue('', { exclusive: true })];
  assert.ok(names.every(({ queue }) => queue.startsWith('amq.gen-')));
  assert.notEqual(names[0].queue, names[1].queue);
};

cases['queue.declare/last-declared'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await publish(channel, '', queue, 'to the last');
  assert.deepEqual(await drain(channel, ''), ['to the last']);
};

refused('queue.declare/passive-missing', 404, "NOT_FOUND - no queue '%' in vhost '/'", (world) => {
  const name = world.name('missing');
  return { values: [name], act: (channel) => channel.checkQueue(name) };
});

refused('queue.declare/inequivalent', 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '%' in vhost '/': received 'true' but current is 'false'",
  async (world, setup) => {
    const name = await world.queue(setup);
    return { values: [name], act: (channel) => channel.assertQueue(name, { durable: true }) };
  });

refused('queue.declare/exclusive', 405,
  "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '%' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.",
  async (world) => {
    const name = world.name('exclusive');
    await (await world.channel()).assertQueue(name, { exclusive: true });
    return { values: [name], act: (channel) => channel.checkQueue(name) };
  });

cases['queue.declare/auto-delete'] = async (world) => {
  const connection = await world.connect();
  const channel = await world.channel(connection);
  const name = world.name('auto-delete');
  await channel.assertQueue(name, { durable: false, autoDelete: true });
  assert.deepEqual(await drain(channel, name), []);
  const inbox = await Inbox.open(channel, name);
  await channel.cancel(inbox.tag);
  await channelClosed(world, connection, 404, `NOT_FOUND - no queue '${name}' in vhost '/'`, (other) => other.checkQueue(name));
};

cases['queue.unbind/missing'] = async (world) => {
  const channel = await world.channel();
  await channel.unbindQueue(await world.queue(channel), 'amq.direct', 'never bound');
};

cases['queue.purge/ready-only'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, 5);
  const held = await channel.get(queue);
  assert.equal((await channel.purgeQueue(queue)).messageCount, 4);
  channel.nack(held);
  assert.deepEqual(await drain(channel, queue), ['0']);
};

cases['queue.delete/count'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, 3);
  assert.equal((await channel.deleteQueue(queue)).messageCount, 3);
};

cases['queue.delete/missing'] = async (world) => {
  assert.equal((await (await world.channel()).deleteQueue(world.name('missing'))).messageCount, 0);
};

refused('queue.delete/if-unused', 406, "PRECONDITION_FAILED - queue '%' in vhost '/' in use", async (world, setup) => {
  const name = await world.queue(setup);
  await Inbox.open(setup, name);
  return { values: [name], act: (channel) => channel.deleteQueue(name, { ifUnused: true }) };
});

refused('queue.delete/if-empty', 406, "PRECONDITION_FAILED - queue '%' in vhost '/' not empty", async (world, setup) => {
  const name = await world.queue(setup);
  await fill(setup, name, 1);
  return { values: [name], act: (channel) => channel.deleteQueue(name, { ifEmpty: true }) };
});

/** Publish `keys` to an exchange of this kind and compare what each binding's queue took. */
async function routes(world, kind, expected, keys, headersOf = () => undefined) {
  const channel = await world.channel();
  const exchange = await world.exchange(channel, kind);
  for (const wanted of expected) {
    wanted.queue = await world.queue(channel, { bindTo: exchange, key: wanted.key, bindArguments: wanted.arguments });
  }
  for (const key of keys) await publish(channel, exchange, key, key, { headers: headersOf(key) });
  for (const { queue, took, key } of expected) assert.deepEqual(await drain(channel, queue), took, `bound with '${key}'`);
}

cases['route/default'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await publish(channel, '', queue, 'by name');
  assert.deepEqual(await drain(channel, queue), ['by name']);
};

cases['route/direct'] = (world) => routes(world, 'direct', [{ key: 'red', took: ['red'] }, { key: 'red', took: ['red'] },
  { key: 'blue', took: [] }], ['red', 'Red', '']);

cases['route/fanout'] = (world) => routes(world, 'fanout', [{ key: '', took: ['a', 'b'] }, { key: 'ignored', took: ['a', 'b'] }],
  ['a', 'b']);

cases['route/topic'] = (world) => routes(world, 'topic', [
  { key: 'order.*', took: ['order.new'] }, { key: 'order.#', took: ['order', 'order.new', 'order.new.eu'] },
  { key: '#.eu', took: ['order.new.eu'] }, { key: '*', took: ['order'] }, { key: '#', took: ['order', 'order.new', 'order.new.eu'] },
], ['order', 'order.new', 'order.new.eu']);

const SHAPES = { both: { shape: 'round', size: 3 }, one: { size: 3 }, none: {} };

cases['route/headers-all'] = (world) => routes(world, 'headers',
  [{ arguments: { 'x-match': 'all', shape: 'round', size: 3 }, took: ['both'] }], Object.keys(SHAPES), (key) => SHAPES[key]);

cases['route/headers-any'] = (world) => routes(world, 'headers',
  [{ arguments: { 'x-match': 'any', shape: 'round', size: 3 }, took: ['both', 'one'] }], Object.keys(SHAPES), (key) => SHAPES[key]);

cases['route/alternate-exchange'] = async (world) => {
  const channel = await world.channel();
  const spare = await world.exchange(channel, 'fanout');
  const main = await world.exchange(channel, 'direct', { alternateExchange: spare });
  const queue = await world.queue(channel, { bindTo: spare });
  await publish(channel, main, 'unknown', 'left');
  assert.deepEqual(await drain(channel, queue), ['left']);
};

cases['route/cc-bcc'] = async (world) => {
  const channel = await world.channel();
  const [to, copy, blind] = [await world.queue(channel), await world.queue(channel), await world.queue(channel)];
  await publish(channel, '', to, 'letter', { CC: [copy], BCC: [blind] });
  for (const queue of [to, copy, blind]) {
    const message = await channel.get(queue, { noAck: true });
    assert.deepEqual({ ...message.properties.headers }, { CC: [copy] });
  }
};

refused('route/bad-exchange', 404, "NOT_FOUND - no exchange '%' in vhost '/'", (world) => {
  const name = world.name('missing');
  return { values: [name], act: (channel) => channel.publish(name, '', Buffer.from('')) };
});

cases['basic.return/before-ack'] = async (world) => {
  const channel = await world.channel();
  const events = [];
  channel.on('return', (message) => events.push(`return ${message.fields.replyCode} ${message.content}`));
  for (const number of numbered(3)) {
    channel.publish('', world.name('nowhere'), Buffer.from(number), { mandatory: true }, (error) => events.push(`${error || 'ack'} ${number}`));
  }
  await within(channel.waitForConfirms(), 'confirms');
  for (const number of numbered(3)) {
    const [returned, acked] = [events.indexOf(`return 312 ${number}`), events.indexOf(`ack ${number}`)];
    assert.ok(returned >= 0 && acked > returned, events.join(', '));
  }
};

cases['basic.return/unroutable'] = async (world) => {
  const channel = await world.channel();
  const returned = once(channel, 'return');
  await publish(channel, 'amq.direct', 'nowhere', 'come back', { mandatory: true, messageId: '7' });
  const [message] = await within(returned, 'return');
  const { replyCode, replyText, exchange, routingKey } = message.fields;
  assert.deepEqual([replyCode, replyText, exchange, routingKey], [312, 'NO_ROUTE', 'amq.direct', 'nowhere']);
  assert.deepEqual([message.properties.messageId, message.content.toString()], ['7', 'come back']);
};

cases['confirm/single'] = async (world) => {
  const channel = await world.channel();
  await publish(channel, '', await world.queue(channel), 'one');
};

cases['confirm/batch'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, 100);
  assert.deepEqual(await drain(channel, queue), numbered(100));
};

cases['confirm/unroutable'] = async (world) => publish(await world.channel(), '', world.name('nowhere'), 'lost');

cases['confirm/ten-thousand'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, 10000);
  const inbox = await Inbox.open(channel, queue, { noAck: true });
  assert.deepEqual(await inbox.waitFor(10000), numbered(10000));
};

cases['basic.qos/per-consumer'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await channel.prefetch(3);
  const inboxes = [await Inbox.open(channel, queue), await Inbox.open(channel, queue)];
  await fill(channel, queue, 10);
  for (const inbox of inboxes) await inbox.waitFor(3);
  assert.equal(await ready(channel, queue), 4);
  channel.ack(inboxes[0].messages[0]);
  await inboxes[0].waitFor(4);
  assert.deepEqual([await ready(channel, queue), inboxes[1].messages.length], [3, 3]);
};

cases['basic.qos/per-channel'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await channel.prefetch(3, true);
  const inboxes = [await Inbox.open(channel, queue), await Inbox.open(channel, queue)];
  await fill(channel, queue, 10);
  assert.equal(await ready(channel, queue), 7);
  assert.equal(inboxes[0].messages.length + inboxes[1].messages.length, 3);
};

cases['basic.qos/under-load'] = async (world) => {
  const [channel, publisher] = [await world.channel(), await world.channel()];
  const queue = await world.queue(channel);
  await channel.prefetch(10);
  let [held, most, done] = [0, 0, 0];
  const finished = new Promise((resolve) => {
    channel.consume(queue, (message) => {
      if (message === null) return; // The queue is deleted at the end.
      most = Math.max(most, ++held);
      setImmediate(() => {
        held--;
        channel.ack(message);
        if (++done === 2000) resolve();
      });
    });
  });
  await fill(publisher, queue, 2000);
  await within(finished, '2,000 deliveries');
  assert.ok(most <= 10, `${most} held at once`);
};

cases['basic.consume/order'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  const inbox = await Inbox.open(channel, queue);
  await fill(channel, queue, 500);
  assert.deepEqual(await inbox.waitFor(500), numbered(500));
};

cases['basic.consume/server-named-tag'] = async (world) => {
  const channel = await world.channel();
  const inbox = await Inbox.open(channel, await world.queue(channel));
  assert.ok(inbox.tag.startsWith('amq.ctag-'), inbox.tag);
};

refused('basic.consume/missing-queue', 404, "NOT_FOUND - no queue '%' in vhost '/'", (world) => {
  const name = world.name('missing');
  return { values: [name], act: (channel) => channel.consume(name, () => {}) };
});

refused('basic.consume/exclusive', 403, "ACCESS_REFUSED - queue '%' in vhost '/' in exclusive use", async (world, setup) => {
  const name = await world.queue(setup);
  await Inbox.open(setup, name, { exclusive: true });
  return { values: [name], act: (channel) => channel.consume(name, () => {}) };
});

cases['basic.consume/priority'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await channel.prefetch(3);
  const low = await Inbox.open(channel, queue);
  const high = await Inbox.open(channel, queue, { priority: 10 });
  await fill(channel, queue, 5);
  await Promise.all([high.waitFor(3), low.waitFor(2)]);
  assert.deepEqual([high.bodies, low.bodies], [['0', '1', '2'], ['3', '4']]);
};

cases['basic.consume/competing'] = async (world) => {
  const [channel, publisher] = [await world.channel(), await world.channel()];
  const queue = await world.queue(channel);
  const inboxes = [];
  for (let count = 0; count < 4; count++) inboxes.push(await Inbox.open(channel, queue, { noAck: true }));
  await fill(publisher, queue, 400);
  for (const inbox of inboxes) await inbox.waitFor(100);
  assert.deepEqual(inboxes.flatMap((inbox) => inbox.bodies).sort(), numbered(400).sort());
};

cases['basic.cancel/client'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await channel.prefetch(2);
  const inbox = await Inbox.open(channel, queue);
  await fill(channel, queue, 5);
  await inbox.waitFor(2);
  await channel.cancel(inbox.tag);
  inbox.messages.forEach((message) => channel.ack(message));
  assert.deepEqual([await ready(channel, queue), inbox.messages.length], [3, 2]);
};

cases['basic.cancel/server'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  const inbox = await Inbox.open(channel, queue);
  await (await world.channel()).deleteQueue(queue);
  assert.ok(await within(inbox.cancelled, 'the consumer is told'));
};

cases['basic.get/empty'] = async (world) => {
  const channel = await world.channel();
  assert.equal(await channel.get(await world.queue(channel)), false);
};

cases['basic.get/message-count'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, 2);
  assert.equal((await channel.get(queue)).fields.messageCount, 1);
  assert.equal((await channel.get(queue)).fields.messageCount, 0);
};

cases['basic.ack/multiple'] = async (world) => {
  const [channel, other] = [await world.channel(), await world.channel()];
  const queue = await world.queue(other);
  await fill(other, queue, 5);
  const inbox = await Inbox.open(channel, queue);
  await inbox.waitFor(5);
  channel.ack(inbox.messages[2], true);
  await channel.close();
  assert.deepEqual(await drain(other, queue), ['3', '4']);
};

cases['basic.nack/requeue-order'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, 5);
  const taken = [];
  for (let count = 0; count < 4; count++) taken.push(await channel.get(queue));
  for (const index of [2, 0, 3, 1]) channel.nack(taken[index]);
  assert.deepEqual(await drain(channel, queue), numbered(5));
};

cases['basic.nack/drop'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, 2);
  channel.nack(await channel.get(queue), false, false);
  assert.deepEqual(await drain(channel, queue), ['1']);
};

cases['basic.reject/requeue'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, 1);
  channel.reject(await channel.get(queue), true);
  assert.equal((await channel.get(queue)).fields.redelivered, true);
};

refused('basic.ack/twice', 406, 'PRECONDITION_FAILED - unknown delivery tag 1', async (world, setup) => {
  const queue = await world.queue(setup);
  await fill(setup, queue, 1);
  return {
    act: async (channel) => {
      const message = await channel.get(queue);
      channel.ack(message);
      channel.ack(message);
    },
  };
});

cases['basic.recover/requeue'] = async (world) => {
  const channel = await world.channel();
  const queue = await world.queue(channel);
  await fill(channel, queue, 2);
  await channel.get(queue);
  await channel.recover();
  assert.deepEqual(await drain(channel, queue), ['0', '1']);
};

cases['rpc/direct-reply-to'] = async (world) => {
  const [client, server] = [await world.channel(), await world.channel()];
  const requests = await world.queue(server);
  await server.consume(requests, (message) => {
    server.sendToQueue(message.properties.replyTo, Buffer.from(`answer to ${message.content}`),
      { correlationId: message.properties.correlationId });
  }, { noAck: true });
  const answers = await Inbox.open(client, 'amq.rabbitmq.reply-to', { noAck: true });
  client.sendToQueue(requests, Buffer.from('question'), { replyTo: 'amq.rabbitmq.reply-to', correlationId: '42' });
  assert.deepEqual(await answers.waitFor(1), ['answer to question']);
  assert.equal(answers.messages[0].properties.correlationId, '42');
};

async function through(world, body, options = {}, connection) {
  const channel = await world.channel(connection);
  const queue = await world.queue(channel);
  const inbox = await Inbox.open(channel, queue);
  await publish(channel, '', queue, body, options);
  await inbox.waitFor(1);
  return inbox.messages[0];
}

cases['body/empty'] = async (world) => assert.equal((await through(world, '')).content.length, 0);

cases['body/frame-edges'] = async (world) => {
  for (const frameMax of [4096, 131072]) {
    const payload = frameMax - 8;
    for (const size of [payload - 1, payload, payload + 1, 2 * payload, 2 * payload + 1]) {
      const body = crypto.randomBytes(size);
      assert.ok((await through(world, body, {}, await world.connect({ frameMax }))).content.equals(body), `${size} of ${frameMax}`);
    }
  }
};

cases['body/16MiB'] = async (world) => {
  const body = crypto.randomBytes(16 * 1024 * 1024);
  assert.ok((await through(world, body)).content.equals(body));
};

cases['properties/all'] = async (world) => {
  const sent = {
    contentType: 'application/json', contentEncoding: 'gzip', headers: { one: 1 }, deliveryMode: 2, priority: 9,
    correlationId: 'correlation ü', replyTo: 'reply', expiration: '60000', messageId: 'message', timestamp: 1700000000,
    type: 'type', userId: 'guest', appId: 'app',
  };
  const { properties } = await through(world, '', sent);
  const received = Object.fromEntries(Object.keys(sent).map((name) => [name, properties[name]]));
  received.headers = { ...received.headers };
  assert.deepEqual(received, sent);
};

cases['headers/every-type'] = async (world) => {
  // The left side is what amqplib writes, the right what it reads back, where the two differ.
  const tagged = (type, value) => ({ '!': type, value });
  const same = {
    bool: true, byte: -7, short: -3000, int: -70000, long: 2 ** 40, double: 1.5, text: 'grün ✓', empty: '', void: null,
    array: [1, 'two', [true]], table: { nested: { deeper: {} } }, bytes: Buffer.from([0, 255]), timestamp: tagged('timestamp', 1700000000),
  };
  const typed = {
    int8: -128, uint8: 255, int16: -32768, uint16: 65535, int32: -2147483648, uint32: 4294967295, int64: 2 ** 50, float: 0.5,
  };
  const sent = { ...same, decimal: tagged('decimal', { places: 2, digits: 314 }) };
  for (const [type, value] of Object.entries(typed)) sent[`typed ${type}`] = tagged(type, value);
  const { headers } = (await through(world, '', { headers: sent })).properties;
  for (const [key, value] of Object.entries(same)) assert.deepEqual(plain(headers[key]), value, key);
  for (const [type, value] of Object.entries(typed)) assert.deepEqual(headers[`typed ${type}`], value, type);
  assert.deepEqual(plain(headers.decimal), sent.decimal);
};

/** Tables without the prototype they are read into. */
function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== 'object' || Buffer.isBuffer(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
}

cases['story/checkout'] = async (world) => {
  const shop = await world.channel();
  const exchange = await world.exchange(shop, 'topic');
  const [mail, analytics, warehouse] = [await world.queue(shop, { bindTo: exchange, key: 'order.#' }),
    await world.queue(shop, { bindTo: exchange, key: 'order.#' }), await world.queue(shop, { bindTo: exchange, key: 'order.#' })];
  // Analytics subscribes and then reads its socket no more.
  const hanging = await world.connect();
  await Inbox.open(await world.channel(hanging), analytics);
  hanging.connection.stream.pause();
  const services = [await Inbox.open(await world.channel(), mail, { noAck: true }),
    await Inbox.open(await world.channel(), warehouse, { noAck: true })];
  const orders = numbered(1000);
  const details = Buffer.alloc(16 * 1024, ' ');
  for (const order of orders) shop.publish(exchange, 'order.placed', Buffer.concat([Buffer.from(order), details]));
  await within(shop.waitForConfirms(), 'confirms');
  const seen = (bodies) => bodies.map((body) => body.trim());
  for (const service of services) assert.deepEqual(seen(await service.waitFor(1000)), orders);
  hanging.connection.stream.destroy();
  hanging.closed = true;
  const successor = await Inbox.open(await world.channel(), analytics, { noAck: true });
  assert.deepEqual(seen(await successor.waitFor(1000)), orders);
};

async function main() {
  const [verb, name, url] = process.argv.slice(2);
  if (verb === 'cases') {
    for (const known of Object.keys(cases)) console.log(`case ${known}${NEEDS[known] ? ` needs ${NEEDS[known]}` : ''}`);
    for (const [pattern, reason] of Object.entries(WITHOUT)) console.log(`without ${pattern} ${reason}`);
    return;
  }
  const world = new World(url);
  await cases[name](world);
  await world.end();
}

function fail(problem) {
  console.error(problem.stack);
  console.error(String(problem.message).replace(/\s+/g, ' '));
  process.exit(1);
}

process.on('uncaughtException', fail);
main().then(() => process.exit(0), fail);
