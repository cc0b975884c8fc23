// One case's view of the broker: connections, names of its own, cleaning up, and waiting with a deadline.
#pragma once

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdbool.h>
#include <sys/time.h>

enum { DEADLINE_SECONDS = 20, CHANNEL = 1, NAME_SIZE = 64 };

typedef amqp_connection_state_t Connection;
typedef amqp_table_entry_t Entry;

typedef struct {
  char text[NAME_SIZE];
} Name;

// What a message was, kept until the case ends.
typedef struct {
  bool is_there, redelivered;
  uint64_t tag;
  char exchange[256], key[256], body[256];
  amqp_basic_properties_t properties;
} Message;

extern const char *broker_url;

// Ends the case: it has failed.
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void equal(const char *what, const char *actual, const char *expected);
void equal_number(const char *what, long actual, long expected);

Connection connect_to_broker(void);
Connection connect_with_confirms(void);

Entry integer(const char *key, int value);
Entry string(const char *key, const char *value);
Entry flag(const char *key, bool value);
#define RULES(...) rules((Entry[]){__VA_ARGS__}, sizeof((Entry[]){__VA_ARGS__}) / sizeof(Entry))
#define DEAD_LETTERS_TO(queue) string("x-dead-letter-exchange", ""), string("x-dead-letter-routing-key", (queue).text)
amqp_table_t rules(const Entry *entries, int count);

Name new_name(const char *hint);
Name declare(Connection connection, bool durable, amqp_table_t arguments);
Name declare_plain(Connection connection);
Name declare_exchange(Connection connection, const char *kind, amqp_table_t arguments);
void bind_to(Connection connection, Name queue, Name exchange, const char *key);
// The last method must have been refused: its channel closed with this code and text.
void refused(Connection connection, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

// Publishes; how it was confirmed.
typedef enum { ACKED, NACKED, RETURNED } Confirm;
Confirm publish(Connection connection, const char *exchange, const char *key, const char *body,
                const amqp_basic_properties_t *properties);
void put(Connection connection, Name queue, const char *body);

Message get(Connection connection, Name queue, bool no_ack);
void equal_drained(Connection connection, Name queue, const char *expected);
void consume(Connection connection, Name queue, bool no_ack);
Message take(Connection connection);
long ready(Connection connection, Name queue);

const amqp_field_value_t *lookup(const amqp_table_t *table, const char *key);
// Queue, reason and count of each death, the newest first.
const char *story(const Message *message);
const amqp_table_t *newest_death(const Message *message);
void equal_field(const amqp_table_t *table, const char *key, const char *expected);

void clean_up(void);
