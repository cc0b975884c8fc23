import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultSaslConfig;
import com.rabbitmq.client.GetResponse;
import java.io.IOException;
import java.io.InputStream;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.Security;
import java.security.cert.CertificateFactory;
import java.util.List;
import java.util.Map;
import javax.net.ssl.KeyManager;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SNIHostName;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLHandshakeException;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/** TLS: who the broker is, and who the client is. */
final class Tls {
    private static final char[] PASSWORD = "conformance".toCharArray();

    static void addTo(Map<String, Case> cases) {
        cases.put("tls/server-certificate", world -> {
            publishAndGet(world, world.connect(factory(world, "ca.pem", null)));
            try {
                factory(world, "other.pem", null).newConnection();
            } catch (SSLHandshakeException refused) {
                Check.that(refused.getMessage().contains("unable to find valid certification path")
                    || refused.getMessage().contains("signature check failed"), refused.getMessage());
                return;
            }
            throw new AssertionError("an authority that signed nothing was believed");
        });
        cases.put("tls/external", world -> {
            ConnectionFactory factory = factory(world, "ca.pem", "client.p12");
            factory.setSaslConfig(DefaultSaslConfig.EXTERNAL);
            publishAndGet(world, world.connect(factory));
        });
        cases.put("tls/expired", world -> {
            ConnectionFactory factory = factory(world, "ca.pem", "expired.p12");
            factory.setSaslConfig(DefaultSaslConfig.EXTERNAL);
            refused(factory, IOException.class);
        });
        cases.put("tls/wrong-name", world -> {
            ConnectionFactory factory = factory(world, "ca.pem", null);
            factory.setSocketConfigurator(socket -> expect("mq.example.com", socket));
            refused(factory, SSLHandshakeException.class);
        });
        cases.put("tls/old-version", world -> {
            // What a library of today no longer says unless it is told to.
            Security.setProperty("jdk.tls.disabledAlgorithms", "");
            ConnectionFactory factory = factory(world, "ca.pem", null);
            factory.setSocketConfigurator(socket -> ((SSLSocket) socket).setEnabledProtocols(new String[] {"TLSv1.1"}));
            refused(factory, SSLHandshakeException.class);
        });
        cases.put("tls/plain", world -> {
            ConnectionFactory factory = world.factory();
            factory.setHost("127.0.0.1");
            factory.setPort(Integer.parseInt(System.getenv("CONFORMANCE_TLS_PORT")));
            refused(factory, IOException.class);
        });
    }

    private static void refused(ConnectionFactory factory, Class<? extends Exception> expected) throws Exception {
        try {
            factory.newConnection();
        } catch (Exception refused) {
            Check.that(expected.isInstance(refused), refused.toString());
            return;
        }
        throw new AssertionError("it was let in");
    }

    private static ConnectionFactory factory(World world, String authority, String own) throws Exception {
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(own == null ? null : keys(file(own)), trust(file(authority)).getTrustManagers(), null);
        ConnectionFactory factory = world.factory();
        factory.setHost("127.0.0.1");
        factory.setPort(Integer.parseInt(System.getenv("CONFORMANCE_TLS_PORT")));
        factory.useSslProtocol(context);
        factory.setSocketConfigurator(socket -> expect("localhost", socket));
        return factory;
    }

    /** Debian's release has no word of its own for it. */
    private static void expect(String name, Socket socket) throws IOException {
        socket.setTcpNoDelay(true);
        SSLSocket secured = (SSLSocket) socket;
        SSLParameters parameters = secured.getSSLParameters();
        parameters.setServerNames(List.of(new SNIHostName(name)));
        parameters.setEndpointIdentificationAlgorithm("HTTPS");
        secured.setSSLParameters(parameters);
    }

    private static Path file(String name) {
        return Path.of(System.getenv("CONFORMANCE_CERTIFICATES"), name);
    }

    private static TrustManagerFactory trust(Path authority) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream read = Files.newInputStream(authority)) {
            store.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(read));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        return trust;
    }

    private static KeyManager[] keys(Path own) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (InputStream read = Files.newInputStream(own)) {
            store.load(read, PASSWORD);
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(store, PASSWORD);
        return keys.getKeyManagers();
    }

    private static void publishAndGet(World world, Connection connection) throws Exception {
        Channel channel = world.channel(connection);
        String queue = world.queue(channel);
        for (String body : new String[] {"small", "large".repeat(200_000)}) {
            World.put(channel, queue, body);
            GetResponse got = channel.basicGet(queue, true);
            Check.equal(body, new String(got.getBody(), "UTF-8"));
        }
    }
}
