import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import java.util.HashMap;
import java.util.Map;

/** Queues that cannot be: arguments of a wrong value, of another kind of queue, or not those the queue has. */
final class Refusals {
    private static final Map<String, Object> QUORUM = Map.of("x-queue-type", "quorum");

    static void addTo(Map<String, Case> cases) {
        cases.put("queue.declare/inequivalent-argument", Refusals::inequivalent);
        cases.put("queue.declare/equivalent-argument", world -> {
            Channel channel = world.channel();
            String queue = world.queue(channel, false, Map.of("x-max-length", 5));
            for (Object same : new Object[] {(byte) 5, (short) 5, 5L}) {
                channel.queueDeclare(queue, false, false, false, Map.of("x-max-length", same, "x-queue-type", "classic"));
            }
        });
        cases.put("queue.declare/invalid-rule", world -> {
            Connection connection = world.connect();
            invalid(world, connection, Map.of("x-message-ttl", "60000"), "x-message-ttl", "\"expected integer, got longstr\"");
            invalid(world, connection, Map.of("x-message-ttl", 1.5), "x-message-ttl", "\"expected integer, got double\"");
            invalid(world, connection, Map.of("x-message-ttl", 400_000_000_000L), "x-message-ttl", "{value_too_large,400000000000}");
            invalid(world, connection, Map.of("x-expires", 0), "x-expires", "{value_zero,0}");
            invalid(world, connection, Map.of("x-max-length", -1), "x-max-length", "{value_negative,-1}");
            invalid(world, connection, Map.of("x-max-priority", 256), "x-max-priority", "{max_value_exceeded,256}");
            invalid(world, connection, Map.of("x-overflow", "spill"), "x-overflow", "invalid_overflow");
            invalid(world, connection, Map.of("x-dead-letter-routing-key", "key"), "x-dead-letter-routing-key",
                "routing_key_but_no_dlx_defined");
            invalid(world, connection, Map.of("x-queue-type", "heap"), "x-queue-type", "\"unsupported queue type 'heap'\"");
        });
        cases.put("queue.declare/quorum-refusals", Refusals::quorum);
    }

    private static void invalid(World world, Connection connection, Map<String, Object> arguments, String argument, String reason)
            throws Exception {
        String name = world.name("invalid");
        world.refused(connection, 406, "PRECONDITION_FAILED - invalid arg '" + argument + "' for queue '" + name
            + Driver.IN_VHOST + ": " + reason, channel -> channel.queueDeclare(name, true, false, false, arguments));
    }

    private static void inequivalent(World world) throws Exception {
        Map<String, Object> current = Map.of("x-message-ttl", 60_000, "x-max-length", 5, "x-overflow", "drop-head",
            "x-dead-letter-exchange", "one", "x-max-priority", 3);
        Connection connection = world.connect();
        String queue = world.queue(connection.createChannel(), false, current);
        String start = "PRECONDITION_FAILED - inequivalent arg '";
        String where = "' for queue '" + queue + Driver.IN_VHOST + ": received ";
        Map<String, Object> others = Map.of("x-message-ttl", 50_000, "x-max-length", 6, "x-overflow", "reject-publish",
            "x-dead-letter-exchange", "two", "x-max-priority", 4);
        for (String name : others.keySet()) {
            Map<String, Object> changed = new HashMap<>(current);
            changed.put(name, others.get(name));
            world.refused(connection, 406,
                start + name + where + "'" + others.get(name) + "' but current is '" + current.get(name) + "'",
                channel -> channel.queueDeclare(queue, false, false, false, changed));
        }
        Map<String, Object> without = new HashMap<>(current);
        without.remove("x-message-ttl");
        world.refused(connection, 406,
            start + "x-message-ttl" + where + "none but current is the value '60000' of type 'signedint'",
            channel -> channel.queueDeclare(queue, false, false, false, without));
        Map<String, Object> more = new HashMap<>(current);
        more.put("x-expires", 600_000L);
        world.refused(connection, 406, start + "x-expires" + where + "the value '600000' of type 'long' but current is none",
            channel -> channel.queueDeclare(queue, false, false, false, more));
    }

    private static void quorum(World world) throws Exception {
        Connection connection = world.connect();
        String name = world.name("quorum");
        String where = "' for queue '" + name + Driver.IN_VHOST;
        String property = "PRECONDITION_FAILED - invalid property '";
        world.refused(connection, 406, property + "non-durable" + where,
            channel -> channel.queueDeclare(name, false, false, false, QUORUM));
        world.refused(connection, 406, property + "exclusive-owner" + where,
            channel -> channel.queueDeclare(name, true, true, false, QUORUM));
        world.refused(connection, 406, property + "auto-delete" + where,
            channel -> channel.queueDeclare(name, true, false, true, QUORUM));
        String argument = "PRECONDITION_FAILED - invalid arg '";
        world.refused(connection, 406, argument + "x-max-priority" + where + " of queue type rabbit_quorum_queue",
            channel -> channel.queueDeclare(name, true, false, false, Map.of("x-queue-type", "quorum", "x-max-priority", 5)));
        world.refused(connection, 406, argument + "x-delivery-limit" + where + " of queue type rabbit_classic_queue",
            channel -> channel.queueDeclare(name, true, false, false, Map.of("x-delivery-limit", 5)));
    }
}
