// Queues with rules: what expires, what is too much, what nobody wants, and who comes first.
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cases.h"
#include "world.h"

static const amqp_basic_properties_t *expiring(const char *milliseconds) {
  static amqp_basic_properties_t properties;
  properties = (amqp_basic_properties_t){._flags = AMQP_BASIC_EXPIRATION_FLAG, .expiration = amqp_cstring_bytes(milliseconds)};
  return &properties;
}

static void equal_story(const Message *message, Name queue, const char *reason) {
  char expected[256];
  snprintf(expected, sizeof expected, "%s %s 1", queue.text, reason);
  equal("x-death", story(message), expected);
}

// The next message of a queue, through a consumer of its own.
static Message next(Name queue) {
  Connection connection = connect_to_broker();
  consume(connection, queue, true);
  return take(connection);
}

static void put_numbered(Connection connection, Name queue, int count) {
  for (int number = 0; number < count; number++) {
    char body[16];
    snprintf(body, sizeof body, "%d", number);
    put(connection, queue, body);
  }
}

static void rejected(void) {
  Connection connection = connect_with_confirms();
  Name dead = declare_plain(connection);
  Name queue = declare(connection, false, RULES(DEAD_LETTERS_TO(dead)));
  put(connection, queue, "unwanted");
  amqp_basic_reject(connection, CHANNEL, get(connection, queue, false).tag, 0);
  Message letter = next(dead);
  equal("body", letter.body, "unwanted");
  equal("exchange", letter.exchange, "");
  equal("routing key", letter.key, dead.text);
  equal_story(&letter, queue, "rejected");
  const amqp_table_t *death = newest_death(&letter);
  equal_field(death, "exchange", "");
  const amqp_field_value_t *keys = lookup(death, "routing-keys"), *time_of_death = lookup(death, "time");
  if (!keys || keys->kind != AMQP_FIELD_KIND_ARRAY || keys->value.array.num_entries != 1) fail("not one routing key");
  if (!time_of_death || time_of_death->kind != AMQP_FIELD_KIND_TIMESTAMP) fail("the time is no timestamp");
  equal_field(&letter.properties.headers, "x-first-death-queue", queue.text);
  equal_field(&letter.properties.headers, "x-first-death-reason", "rejected");
}

static void message_ttl(void) {
  Connection connection = connect_with_confirms();
  Name dead = declare_plain(connection);
  Name queue = declare(connection, false, RULES(DEAD_LETTERS_TO(dead), integer("x-message-ttl", 100)));
  put(connection, queue, "too late");
  Message letter = next(dead);
  equal("body", letter.body, "too late");
  equal_story(&letter, queue, "expired");
  equal_number("left", ready(connection, queue), 0);
}

static void expiration(void) {
  Connection connection = connect_with_confirms();
  Name dead = declare_plain(connection);
  Name queue = declare(connection, false, RULES(DEAD_LETTERS_TO(dead), integer("x-message-ttl", 600000)));
  if (publish(connection, "", queue.text, "short", expiring("50")) != ACKED) fail("not acked");
  Message letter = next(dead);
  if (letter.properties._flags & AMQP_BASIC_EXPIRATION_FLAG) fail("it still has an expiration");
  equal_field(newest_death(&letter), "original-expiration", "50");
}

static void expires(void) {
  Connection connection = connect_with_confirms();
  Name queue = declare(connection, false, RULES(integer("x-expires", 200)));
  // Anything else that asks for it would be use.
  time_t deadline = time(NULL) + DEADLINE_SECONDS;
  while (publish(connection, "", queue.text, "", NULL) != RETURNED)
    if (time(NULL) > deadline) fail("the queue is still there");
}

static void max_length(void) {
  Connection connection = connect_with_confirms();
  Name dead = declare_plain(connection);
  Name queue = declare(connection, false, RULES(DEAD_LETTERS_TO(dead), integer("x-max-length", 3)));
  put_numbered(connection, queue, 10);
  Connection reader = connect_to_broker();
  consume(reader, dead, true);
  for (int number = 0; number < 7; number++) {
    char expected[16];
    snprintf(expected, sizeof expected, "%d", number);
    Message letter = take(reader);
    equal("body", letter.body, expected);
    equal_story(&letter, queue, "maxlen");
  }
  equal_drained(connection, queue, "7 8 9");
}

static void reject_publish(void) {
  Connection connection = connect_with_confirms();
  Name queue = declare(connection, false, RULES(integer("x-max-length", 2), string("x-overflow", "reject-publish")));
  put_numbered(connection, queue, 2);
  equal_number("the third", publish(connection, "", queue.text, "2", NULL), NACKED);
  equal_number("the fourth", publish(connection, "", queue.text, "3", NULL), NACKED);
  get(connection, queue, true);
  put(connection, queue, "4");
  equal_drained(connection, queue, "1 4");
}

static void reject_publish_dlx(void) {
  Connection connection = connect_with_confirms();
  Name dead = declare_plain(connection);
  Name queue = declare(connection, false, RULES(DEAD_LETTERS_TO(dead), integer("x-max-length", 1),
                                                string("x-overflow", "reject-publish-dlx")));
  put(connection, queue, "0");
  equal_number("the second", publish(connection, "", queue.text, "1", NULL), NACKED);
  Message letter = next(dead);
  equal("body", letter.body, "1");
  equal_story(&letter, queue, "maxlen");
  equal_drained(connection, queue, "0");
}

static void priorities(void) {
  Connection connection = connect_with_confirms();
  Name queue = declare(connection, true, RULES(integer("x-max-priority", 5)));
  static const int PRIORITIES[] = {0, 3, -1, 9, 1, 5, 3};
  for (int number = 0; number < 7; number++) {
    amqp_basic_properties_t properties = {0};
    if (PRIORITIES[number] >= 0)
      properties = (amqp_basic_properties_t){._flags = AMQP_BASIC_PRIORITY_FLAG, .priority = PRIORITIES[number]};
    char body[16];
    snprintf(body, sizeof body, "%d", number);
    if (publish(connection, "", queue.text, body, &properties) != ACKED) fail("not acked");
  }
  equal_drained(connection, queue, "3 5 1 6 4 0 2");
}

static void single_active_consumer(void) {
  Connection connection = connect_with_confirms(), first = connect_to_broker(), second = connect_to_broker();
  Name queue = declare(connection, false, RULES(flag("x-single-active-consumer", true)));
  consume(first, queue, true);
  consume(second, queue, true);
  put_numbered(connection, queue, 2);
  equal("first", take(first).body, "0");
  equal("first", take(first).body, "1");
  amqp_connection_close(first, AMQP_REPLY_SUCCESS);
  put(connection, queue, "next");
  equal("second", take(second).body, "next");
}

static void delivery_limit(void) {
  Connection connection = connect_with_confirms(), worker = connect_to_broker();
  Name dead = declare_plain(connection);
  Name queue = declare(connection, true, RULES(DEAD_LETTERS_TO(dead), string("x-queue-type", "quorum"), integer("x-delivery-limit", 2)));
  put(connection, queue, "poison");
  consume(worker, queue, false);
  for (int count = 0; count <= 2; count++) {
    Message poison = take(worker);
    // Nothing is said of it the first time.
    const amqp_field_value_t *told = lookup(&poison.properties.headers, "x-delivery-count");
    equal_number("x-delivery-count", told ? told->value.i64 : 0, count);
    amqp_basic_nack(worker, CHANNEL, poison.tag, 0, 1);
  }
  Message letter = next(dead);
  equal("body", letter.body, "poison");
  equal_story(&letter, queue, "delivery_limit");
}

static void consumer_timeout(void) {
  Connection connection = connect_with_confirms(), holder = connect_to_broker();
  Name queue = declare(connection, true, RULES(integer("x-consumer-timeout", 1000)));
  put(connection, queue, "held too long");
  consume(holder, queue, false);
  take(holder);
  amqp_frame_t frame;
  struct timeval patience = {DEADLINE_SECONDS, 0};
  if (amqp_simple_wait_frame_noblock(holder, &frame, &patience) != AMQP_STATUS_OK) fail("the channel is not closed");
  if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_CHANNEL_CLOSE_METHOD) fail("no channel.close");
  amqp_channel_close_t *close = frame.payload.method.decoded;
  char text[512];
  snprintf(text, sizeof text, "%d %.*s", close->reply_code, (int)close->reply_text.len, (char *)close->reply_text.bytes);
  equal("reason", text,
        "406 PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1000 ms. This timeout "
        "value can be configured, see consumers doc guide to learn more");
  Message again = get(connection, queue, true);
  equal("body", again.body, "held too long");
  equal_number("redelivered", again.redelivered, true);
}

const Case RULE_CASES[] = {
    {"queue.rules/rejected-dead-letter", rejected},
    {"queue.rules/message-ttl", message_ttl},
    {"queue.rules/expiration", expiration},
    {"queue.rules/expires", expires},
    {"queue.rules/max-length", max_length},
    {"queue.rules/reject-publish", reject_publish},
    {"queue.rules/reject-publish-dlx", reject_publish_dlx},
    {"queue.rules/priorities", priorities},
    {"queue.rules/single-active-consumer", single_active_consumer},
    {"queue.rules/delivery-limit", delivery_limit},
    {"queue.rules/consumer-timeout", consumer_timeout, "short-consumer-timeout"},
    {0},
};
