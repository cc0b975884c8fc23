// What a dead letter says.
'use strict';

/** Queue, reason and count of each death, the newest first. */
const story = (message) => message.properties.headers['x-death'].map(({ queue, reason, count }) => [queue, reason, count]);

/** How often it was delivered before; nothing is said of it the first time. */
const deliveryCount = (message) => message.properties.headers['x-delivery-count'] || 0;

module.exports = { story, deliveryCount };
