// Exchanges behind exchanges, and queues that cannot be.
#include <stdio.h>

#include "cases.h"
#include "world.h"

static void exchange_to_exchange(void) {
  Connection connection = connect_with_confirms();
  Name source = declare_exchange(connection, "direct", amqp_empty_table);
  Name target = declare_exchange(connection, "fanout", amqp_empty_table);
  Name queue = declare_plain(connection);
  bind_to(connection, queue, target, "");
  amqp_bytes_t names[] = {amqp_cstring_bytes(target.text), amqp_cstring_bytes(source.text)};
  amqp_exchange_bind(connection, CHANNEL, names[0], names[1], amqp_cstring_bytes("key"), amqp_empty_table);
  equal_number("bound", publish(connection, source.text, "key", "bound", NULL), ACKED);
  amqp_exchange_unbind(connection, CHANNEL, names[0], names[1], amqp_cstring_bytes("key"), amqp_empty_table);
  equal_number("unbound", publish(connection, source.text, "key", "unbound", NULL), RETURNED);
  equal_drained(connection, queue, "bound");
}

static void alternate_exchange(void) {
  Connection connection = connect_with_confirms();
  Name spare = declare_exchange(connection, "fanout", amqp_empty_table);
  Name main = declare_exchange(connection, "direct", RULES(string("alternate-exchange", spare.text)));
  Name known = declare_plain(connection), rest = declare_plain(connection);
  bind_to(connection, known, main, "known");
  bind_to(connection, rest, spare, "");
  equal_number("taken", publish(connection, main.text, "known", "taken", NULL), ACKED);
  equal_number("left", publish(connection, main.text, "unknown", "left", NULL), ACKED);
  equal_drained(connection, known, "taken");
  equal_drained(connection, rest, "left");
}

static void again(Connection connection, Name queue, bool durable, amqp_table_t arguments) {
  amqp_queue_declare(connection, CHANNEL, amqp_cstring_bytes(queue.text), 0, durable, 0, 0, arguments);
}

static void inequivalent(void) {
  Connection connection = connect_to_broker();
  Name queue = declare(connection, false, RULES(integer("x-max-length", 5), string("x-overflow", "drop-head")));
  const char *start = "PRECONDITION_FAILED - inequivalent arg";
  again(connection, queue, false, RULES(integer("x-max-length", 6), string("x-overflow", "drop-head")));
  refused(connection, 406, "%s 'x-max-length' for queue '%s' in vhost '/': received '6' but current is '5'", start, queue.text);
  again(connection, queue, false, RULES(integer("x-max-length", 5), string("x-overflow", "reject-publish")));
  refused(connection, 406, "%s 'x-overflow' for queue '%s' in vhost '/': received 'reject-publish' but current is 'drop-head'",
          start, queue.text);
  again(connection, queue, false, RULES(string("x-overflow", "drop-head")));
  refused(connection, 406,
          "%s 'x-max-length' for queue '%s' in vhost '/': received none but current is the value '5' of type 'signedint'", start,
          queue.text);
}

static void quorum_refusals(void) {
  Connection connection = connect_to_broker();
  Name queue = new_name("quorum");
  again(connection, queue, false, RULES(string("x-queue-type", "quorum")));
  refused(connection, 406, "PRECONDITION_FAILED - invalid property 'non-durable' for queue '%s' in vhost '/'", queue.text);
  again(connection, queue, true, RULES(string("x-queue-type", "quorum"), integer("x-max-priority", 5)));
  refused(connection, 406,
          "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue '%s' in vhost '/' of queue type rabbit_quorum_queue",
          queue.text);
}

const Case TOPOLOGY_CASES[] = {
    {"exchange.bind/unbind", exchange_to_exchange},
    {"route/alternate-exchange", alternate_exchange},
    {"queue.declare/inequivalent-argument", inequivalent},
    {"queue.declare/quorum-refusals", quorum_refusals},
    {0},
};
