// @cloudamqp/amqp-client by WebSocket, as browsers have it. RabbitMQ 3.10 has no AMQP by WebSocket: it is left out there.
//
// needs:    node npm
// apt:      nodejs npm
// install:  npm install --silent --no-audit --no-fund --no-save --prefix "$WORK" @cloudamqp/amqp-client@4 ws@8
// run:      NODE_PATH="$WORK/node_modules" node "$FILE"
// seconds:  60
'use strict';

const assert = require('node:assert/strict');
const WebSocket = require('ws');

globalThis.WebSocket = WebSocket;
const { AMQPWebSocketClient } = require('@cloudamqp/amqp-client');

const MESSAGES = 1000;

/** Log in at the broker's WebSocket. */
async function connect(more = {}) {
  const url = process.env.CONFORMANCE_WEBSOCKET;
  const client = new AMQPWebSocketClient({ url, vhost: '/', username: 'guest', password: 'guest', ...more });
  return client.connect();
}

const cases = {
  'websocket/round-trip': async () => {
    const connection = await connect({ heartbeat: 5 });
    const channel = await connection.channel();
    await channel.confirmSelect();
    const queue = await channel.queueDeclare('', { exclusive: true });
    const large = new Uint8Array(2_000_000).map((_, at) => at % 251);
    const bodies = [...Array.from({ length: MESSAGES }, (_, at) => Buffer.from(`message ${at}`)), large, new Uint8Array(0)];
    const received = new Promise((resolve, reject) => {
      const seen = [];
      channel.basicConsume(queue.name, { noAck: false }, async (message) => {
        seen.push(Buffer.from(message.body ?? []));
        await channel.basicAck(message.deliveryTag);
        if (seen.length === bodies.length) resolve(seen);
      }).catch(reject);
    });
    await Promise.all(bodies.map((body) => channel.basicPublish('', queue.name, body)));
    const seen = await received;
    bodies.forEach((body, at) => assert.ok(Buffer.from(body).equals(seen[at]), `message ${at} differs`));
    await connection.close();
  },

  'websocket/refused': async () => {
    await assert.rejects(connect({ password: 'wrong' }), /ACCESS_REFUSED|closed/i);
    const connection = await connect();
    const channel = await connection.channel();
    await assert.rejects(channel.queueDeclare('websocket-nowhere', { passive: true }), /NOT_FOUND|404/);
    const other = await connection.channel();
    await other.queueDeclare('', { exclusive: true });
    await connection.close();
  },

  'websocket/foreign-page': async () => {
    const socket = new WebSocket(process.env.CONFORMANCE_WEBSOCKET, 'amqp', { origin: 'https://elsewhere.example' });
    const status = await new Promise((resolve) => {
      socket.on('unexpected-response', (_, response) => resolve(response.statusCode));
      socket.on('open', () => resolve('open'));
      socket.on('error', (error) => resolve(error.message));
    });
    assert.equal(status, 403);
  },
};

async function main([verb, name]) {
  if (verb === 'cases') {
    Object.keys(cases).forEach((known) => console.log(`case ${known} needs websocket`));
    return;
  }
  await cases[name]();
}

main(process.argv.slice(2)).then(() => process.exit(0), (error) => {
  console.error(`${error.message ?? error}`.split('\n').join(' '));
  process.exit(1);
});
