// TLS: who the broker is, and who the client is.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const amqp = require('amqplib');

/** A connection by TLS, by the certificate of this name if there is one, with these options of the socket. */
async function connect(world, authority, own, changes = {}) {
  const file = (name) => fs.readFileSync(path.join(process.env.CONFORMANCE_CERTIFICATES, name));
  const url = new URL(world.url);
  const socket = { ca: [file(authority)], ...changes };
  if (own) Object.assign(socket, { cert: file(`${own}.pem`), key: file(`${own}.key`), credentials: amqp.credentials.external() });
  const connection = await amqp.connect({
    protocol: 'amqps', hostname: 'localhost', port: Number(process.env.CONFORMANCE_TLS_PORT), vhost: '/', heartbeat: 30,
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
  'tls/expired': async (world) => assert.rejects(connect(world, 'ca.pem', 'expired')),
  'tls/wrong-name': async (world) => {
    const named = { servername: 'mq.example.com' };
    await assert.rejects(connect(world, 'ca.pem', undefined, named), (refused) => refused.code === 'ERR_TLS_CERT_ALTNAME_INVALID');
  },
  'tls/old-version': async (world) => {
    // What a library of today no longer says unless it is told to.
    const old = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' };
    await assert.rejects(connect(world, 'ca.pem', undefined, old));
  },
  'tls/plain': async (world) => {
    const url = new URL(world.url);
    url.port = process.env.CONFORMANCE_TLS_PORT;
    await assert.rejects(amqp.connect(url.href, { timeout: 10000 }));
  },
};
