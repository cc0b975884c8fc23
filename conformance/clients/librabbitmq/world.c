#include "world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_NAMES = 32, MOST_ENTRIES = 16 };

const char *broker_url;

static Name queues[MOST_NAMES], exchanges[MOST_NAMES];
static int queue_count, exchange_count;

void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  exit(1);
}

void equal(const char *what, const char *actual, const char *expected) {
  if (strcmp(actual, expected) != 0) fail("%s: expected '%s', got '%s'", what, expected, actual);
}

void equal_number(const char *what, long actual, long expected) {
  if (actual != expected) fail("%s: expected %ld, got %ld", what, expected, actual);
}

static void copy(char *to, size_t size, amqp_bytes_t from) {
  snprintf(to, size, "%.*s", (int)from.len, (const char *)from.bytes);
}

// Why the last method failed; code 0 when it did not.
static int refusal(Connection connection, char *text, size_t size) {
  amqp_rpc_reply_t reply = amqp_get_rpc_reply(connection);
  text[0] = 0;
  if (reply.reply_type == AMQP_RESPONSE_NORMAL) return 0;
  if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
    amqp_channel_close_t *close = reply.reply.decoded;
    copy(text, size, close->reply_text);
    return close->reply_code;
  }
  if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
    amqp_connection_close_t *close = reply.reply.decoded;
    fail("the connection was closed: %.*s", (int)close->reply_text.len, (const char *)close->reply_text.bytes);
  }
  fail("%s", amqp_error_string2(reply.library_error));
}

static void succeeded(Connection connection, const char *what) {
  char text[256];
  int code = refusal(connection, text, sizeof text);
  if (code != 0) fail("%s was refused: %d %s", what, code, text);
}

void refused(Connection connection, int code, const char *format, ...) {
  char expected[512], text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(expected, sizeof expected, format, arguments);
  int said = refusal(connection, text, sizeof text);
  if (said == 0) fail("expected %d %s, nothing was refused", code, expected);
  equal_number(text, said, code);
  equal("reason", text, expected);
  // The connection must be fit for work.
  amqp_channel_close_ok_t ok = {0};
  amqp_send_method(connection, CHANNEL, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
  amqp_channel_open(connection, CHANNEL);
  succeeded(connection, "opening the channel again");
}

Connection connect_to_broker(void) {
  struct amqp_connection_info info;
  char *url = strdup(broker_url);
  if (amqp_parse_url(url, &info) != AMQP_STATUS_OK) fail("cannot read %s", broker_url);
  Connection connection = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(connection);
  struct timeval patience = {DEADLINE_SECONDS, 0};
  if (amqp_socket_open(socket, info.host, info.port) != AMQP_STATUS_OK) fail("cannot connect to %s", info.host);
  amqp_set_rpc_timeout(connection, &patience);
  amqp_rpc_reply_t reply =
      amqp_login(connection, "/", 0, AMQP_DEFAULT_FRAME_SIZE, 0, AMQP_SASL_METHOD_PLAIN, info.user, info.password);
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail("cannot log in");
  amqp_channel_open(connection, CHANNEL);
  succeeded(connection, "channel.open");
  return connection;
}

Connection connect_with_confirms(void) {
  Connection connection = connect_to_broker();
  amqp_confirm_select(connection, CHANNEL);
  succeeded(connection, "confirm.select");
  return connection;
}

Entry integer(const char *key, int value) {
  return (Entry){amqp_cstring_bytes(key), {.kind = AMQP_FIELD_KIND_I32, .value.i32 = value}};
}

Entry string(const char *key, const char *value) {
  return (Entry){amqp_cstring_bytes(key), {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(value)}};
}

Entry flag(const char *key, bool value) {
  return (Entry){amqp_cstring_bytes(key), {.kind = AMQP_FIELD_KIND_BOOLEAN, .value.boolean = value}};
}

amqp_table_t rules(const Entry *entries, int count) {
  static Entry kept[MOST_ENTRIES];
  memcpy(kept, entries, count * sizeof *entries);
  return (amqp_table_t){count, kept};
}

Name new_name(const char *hint) {
  static int number;
  Name name;
  snprintf(name.text, NAME_SIZE, "%s-%d-%d", hint, getpid(), number++);
  return name;
}

Name declare(Connection connection, bool durable, amqp_table_t arguments) {
  Name name = queues[queue_count++] = new_name("queue");
  amqp_queue_declare(connection, CHANNEL, amqp_cstring_bytes(name.text), 0, durable, 0, 0, arguments);
  succeeded(connection, "queue.declare");
  return name;
}

Name declare_plain(Connection connection) { return declare(connection, false, amqp_empty_table); }

Name declare_exchange(Connection connection, const char *kind, amqp_table_t arguments) {
  Name name = exchanges[exchange_count++] = new_name(kind);
  amqp_exchange_declare(connection, CHANNEL, amqp_cstring_bytes(name.text), amqp_cstring_bytes(kind), 0, 0, 0, 0, arguments);
  succeeded(connection, "exchange.declare");
  return name;
}

void bind_to(Connection connection, Name queue, Name exchange, const char *key) {
  amqp_queue_bind(connection, CHANNEL, amqp_cstring_bytes(queue.text), amqp_cstring_bytes(exchange.text),
                  amqp_cstring_bytes(key), amqp_empty_table);
  succeeded(connection, "queue.bind");
}

Confirm publish(Connection connection, const char *exchange, const char *key, const char *body,
                const amqp_basic_properties_t *properties) {
  if (amqp_basic_publish(connection, CHANNEL, amqp_cstring_bytes(exchange), amqp_cstring_bytes(key), 1, 0, properties,
                         amqp_cstring_bytes(body)) != AMQP_STATUS_OK)
    fail("cannot publish");
  bool is_returned = false;
  for (;;) {
    amqp_frame_t frame;
    struct timeval patience = {DEADLINE_SECONDS, 0};
    if (amqp_simple_wait_frame_noblock(connection, &frame, &patience) != AMQP_STATUS_OK) fail("no confirm");
    if (frame.frame_type != AMQP_FRAME_METHOD) continue;  // The message that came back.
    is_returned |= frame.payload.method.id == AMQP_BASIC_RETURN_METHOD;
    if (frame.payload.method.id == AMQP_BASIC_ACK_METHOD) return is_returned ? RETURNED : ACKED;
    if (frame.payload.method.id == AMQP_BASIC_NACK_METHOD) return NACKED;
  }
}

void put(Connection connection, Name queue, const char *body) {
  if (publish(connection, "", queue.text, body, NULL) != ACKED) fail("%s was not acked", body);
}

static void read_body(Message *message, const amqp_message_t *from) {
  message->properties = from->properties;
  copy(message->body, sizeof message->body, from->body);
}

Message get(Connection connection, Name queue, bool no_ack) {
  Message message = {0};
  amqp_rpc_reply_t reply = amqp_basic_get(connection, CHANNEL, amqp_cstring_bytes(queue.text), no_ack);
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) succeeded(connection, "basic.get");
  if (reply.reply.id != AMQP_BASIC_GET_OK_METHOD) return message;
  amqp_basic_get_ok_t *ok = reply.reply.decoded;
  message = (Message){.is_there = true, .redelivered = ok->redelivered, .tag = ok->delivery_tag};
  copy(message.exchange, sizeof message.exchange, ok->exchange);
  copy(message.key, sizeof message.key, ok->routing_key);
  amqp_message_t body;
  if (amqp_read_message(connection, CHANNEL, &body, 0).reply_type != AMQP_RESPONSE_NORMAL) fail("the message is cut off");
  read_body(&message, &body);
  return message;
}

void equal_drained(Connection connection, Name queue, const char *expected) {
  char drained[256] = "";
  Message message;
  while ((message = get(connection, queue, true)).is_there) {
    if (drained[0]) strncat(drained, " ", sizeof drained - strlen(drained) - 1);
    strncat(drained, message.body, sizeof drained - strlen(drained) - 1);
  }
  equal("what is in the queue", drained, expected);
}

void consume(Connection connection, Name queue, bool no_ack) {
  amqp_basic_consume(connection, CHANNEL, amqp_cstring_bytes(queue.text), amqp_empty_bytes, 0, no_ack, 0, amqp_empty_table);
  succeeded(connection, "basic.consume");
}

Message take(Connection connection) {
  amqp_envelope_t envelope;
  struct timeval patience = {DEADLINE_SECONDS, 0};
  amqp_rpc_reply_t reply = amqp_consume_message(connection, &envelope, &patience, 0);
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail("no delivery: %s", amqp_error_string2(reply.library_error));
  Message message = {.is_there = true, .redelivered = envelope.redelivered, .tag = envelope.delivery_tag};
  copy(message.exchange, sizeof message.exchange, envelope.exchange);
  copy(message.key, sizeof message.key, envelope.routing_key);
  read_body(&message, &envelope.message);
  return message;
}

long ready(Connection connection, Name queue) {
  amqp_queue_declare_ok_t *ok = amqp_queue_declare(connection, CHANNEL, amqp_cstring_bytes(queue.text), 1, 0, 0, 0, amqp_empty_table);
  succeeded(connection, "queue.declare passive");
  return ok->message_count;
}

const amqp_field_value_t *lookup(const amqp_table_t *table, const char *key) {
  for (int index = 0; index < table->num_entries; index++) {
    amqp_bytes_t found = table->entries[index].key;
    if (found.len == strlen(key) && memcmp(found.bytes, key, found.len) == 0) return &table->entries[index].value;
  }
  return NULL;
}

static const amqp_array_t *deaths(const Message *message) {
  const amqp_field_value_t *deaths = lookup(&message->properties.headers, "x-death");
  if (!deaths || deaths->kind != AMQP_FIELD_KIND_ARRAY) fail("no x-death");
  return &deaths->value.array;
}

const amqp_table_t *newest_death(const Message *message) { return &deaths(message)->entries[0].value.table; }

static amqp_bytes_t bytes_of(const amqp_table_t *table, const char *key) {
  const amqp_field_value_t *value = lookup(table, key);
  if (!value || value->kind != AMQP_FIELD_KIND_UTF8) fail("no string %s", key);
  return value->value.bytes;
}

const char *story(const Message *message) {
  static char told[512];
  told[0] = 0;
  for (int index = 0; index < deaths(message)->num_entries; index++) {
    const amqp_table_t *death = &deaths(message)->entries[index].value.table;
    const amqp_field_value_t *count = lookup(death, "count");
    if (!count || count->kind != AMQP_FIELD_KIND_I64) fail("the count is no long");
    amqp_bytes_t queue = bytes_of(death, "queue"), reason = bytes_of(death, "reason");
    size_t used = strlen(told);
    snprintf(told + used, sizeof told - used, "%s%.*s %.*s %ld", index ? ", " : "", (int)queue.len, (char *)queue.bytes,
             (int)reason.len, (char *)reason.bytes, (long)count->value.i64);
  }
  return told;
}

void equal_field(const amqp_table_t *table, const char *key, const char *expected) {
  char actual[256];
  copy(actual, sizeof actual, bytes_of(table, key));
  equal(key, actual, expected);
}

void clean_up(void) {
  Connection connection = connect_to_broker();
  for (int index = 0; index < queue_count; index++) {
    amqp_queue_delete(connection, CHANNEL, amqp_cstring_bytes(queues[index].text), 0, 0);
    succeeded(connection, "queue.delete");
  }
  for (int index = 0; index < exchange_count; index++) {
    amqp_exchange_delete(connection, CHANNEL, amqp_cstring_bytes(exchanges[index].text), 0);
    succeeded(connection, "exchange.delete");
  }
}
