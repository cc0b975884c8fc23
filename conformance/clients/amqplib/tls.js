// TLS: who the broker is, and who the client is.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const amqp = require('amqplib');

/** A connection by TLS, by the certificate of this name if there is one. */
async function connect(world, authority, own) {
  const file = (name) => fs.readFileSync(path.join(process.env.CONFORMANCE_CERTIFICATES, name));
  const url = new URL(world.url);
  const socket = { ca: [file(authority)] };
  if (own) Object.assign(socket, { cert: file(`${own}.pem`), key: file(`${own}.key`), credentials: amqp.credentials.external() });
  const connection = await amqp.connect({
    protocol: 'amqps', hostname: '127.0.0.1', port: Number(process.env.CONFORMANCE_TLS_PORT), vhost: '/', heartbeat: 30,
    username: decodeURIComponent(url.username), password: decodeURIComponent(url.password),
  }, socket);
  connection.on('error', () => {});
  connection.on('close', () => { connection.closed = true; });
  world.connections.push(connection);
  return connection;
}

async function publishAndGet(world, connection) {
  const channel = await connection.createConfirmChannel();
  const queue = await world.queue(channel);
  for (const body of [Buffer.from('small'), Buffer.alloc(1 << 20, 'large')]) {
    channel.sendToQueue(queue, body);
    await channel.waitForConfirms();
    const message = await channel.get(queue, { noAck: true });
    assert(message && message.content.equals(body));
  }
}

module.exports = {
  'tls/server-certificate': async (world) => {
    await publishAndGet(world, await connect(world, 'ca.pem'));
    await assert.rejects(connect(world, 'other.pem'), (refused) => /self.signed|unable to (verify|get)|signature/i.test(refused.message));
  },
  'tls/external': async (world) => publishAndGet(world, await connect(world, 'ca.pem', 'client')),
};
