import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Delivery;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Orders in a quorum queue: what fails is tried again at once, what is given up waits in a retry queue and comes back, and
 * what fails too often is parked for a person. One dead-letter exchange tells the last two apart by the reason.
 */
final class QuorumRetry {
    private static final int LIMIT = 2;
    private static final Map<String, Object> QUORUM = Map.of("x-queue-type", "quorum");

    static void run(World world) throws Exception {
        Channel channel = world.channel();
        String dead = world.exchange(channel, "headers");
        String work = world.queue(channel, true,
            with("x-delivery-limit", LIMIT, "x-dead-letter-exchange", dead, "x-dead-letter-routing-key", "given-up"));
        String later = world.queue(channel, true,
            with("x-message-ttl", 50, "x-dead-letter-exchange", "", "x-dead-letter-routing-key", work));
        String parked = world.queue(channel, true, QUORUM);
        channel.queueBind(later, dead, "", Map.of("x-match", "all-with-x", "x-first-death-reason", "rejected"));
        channel.queueBind(parked, dead, "", Map.of("x-match", "all-with-x", "x-first-death-reason", "delivery_limit"));
        for (String order : List.of("good", "flaky", "busy", "poison")) {
            World.publish(channel, "", work, new AMQP.BasicProperties.Builder().deliveryMode(2).build(), order);
        }

        Channel working = world.connect().createChannel();
        working.basicQos(1);
        Inbox worker = new Inbox(working, work);
        Inbox parking = new Inbox(channel, parked);
        Map<String, Integer> attempts = new HashMap<>();
        Map<String, AMQP.BasicProperties> done = new HashMap<>();
        while (done.size() < 3 || attempts.getOrDefault("poison", 0) <= LIMIT) {
            Delivery order = worker.take();
            String body = new String(order.getBody());
            AMQP.BasicProperties properties = order.getProperties();
            long tag = order.getEnvelope().getDeliveryTag();
            int attempt = attempts.merge(body, 1, Integer::sum);
            long count = Rules.deliveryCount(properties);
            if (body.equals("busy") && attempt == 1) {
                working.basicReject(tag, false);
            } else if (body.equals("poison") || body.equals("flaky") && attempt <= LIMIT) {
                Check.equal(attempt - 1L, count);
                working.basicNack(tag, false, true);
            } else {
                Check.equal(body.equals("flaky") ? 2L : 0L, count);
                done.put(body, properties);
                working.basicAck(tag, false);
            }
        }
        Check.equal(Map.of("good", 1, "flaky", 3, "busy", 2, "poison", 3), attempts);
        Check.equal(List.of(later + " expired 1", work + " rejected 1"), Rules.story(done.get("busy")));

        Delivery letter = parking.take();
        Check.equal("poison", new String(letter.getBody()));
        Check.equal(List.of(dead, "given-up"), List.of(letter.getEnvelope().getExchange(), letter.getEnvelope().getRoutingKey()));
        Check.equal(List.of(work + " delivery_limit 1"), Rules.story(letter.getProperties()));
        Map<String, Object> death = Rules.deaths(letter.getProperties()).get(0);
        Check.equal(List.of("", "[" + work + "]"),
            List.of(death.get("exchange").toString(), death.get("routing-keys").toString()));
        Map<String, Object> headers = letter.getProperties().getHeaders();
        Check.equal(List.of(work, "delivery_limit", ""), List.of(headers.get("x-first-death-queue").toString(),
            headers.get("x-first-death-reason").toString(), headers.get("x-first-death-exchange").toString()));
        working.close();
        Check.equal(List.of(0L, 0L), List.of(channel.messageCount(work), channel.messageCount(later)));
    }

    private static Map<String, Object> with(Object... pairs) {
        Map<String, Object> arguments = new HashMap<>(QUORUM);
        for (int index = 0; index < pairs.length; index += 2) {
            arguments.put((String) pairs[index], pairs[index + 1]);
        }
        return arguments;
    }
}
