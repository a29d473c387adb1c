// Chat tabs with Java's own java.net.http.WebSocket: do all of them hear each other?

import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Client {
    static final String USAGE = "Client.java --url ws://HOST:PORT/ws?chat=ID [--tabs N] [--say TEXT] "
        + "[--limit SECONDS] [--ca FILE]";

    // Java has no JSON. These are fields of the protocol whose values have nothing to unescape here.
    static final Pattern TYPE = Pattern.compile("\"type\":\\s*\"(\\w+)\"");
    static final Pattern REPLICA = Pattern.compile("\"replica\":\\s*\"([^\"\\\\]*)\"");
    static final Pattern TEXT = Pattern.compile("\"text\":\\s*\"((?:[^\"\\\\]|\\\\u[0-9a-f]{4})*)\"");
    static final Pattern ESCAPE = Pattern.compile("\\\\u([0-9a-f]{4})");

    static class Tab implements WebSocket.Listener {
        final CompletableFuture<String> replica = new CompletableFuture<>();
        final CompletableFuture<Void> heardAll = new CompletableFuture<>();
        final CompletableFuture<Void> closed = new CompletableFuture<>();
        final Set<String> missing;
        final StringBuilder frame = new StringBuilder();

        Tab(List<String> texts) {
            missing = new HashSet<>(texts);
        }

        @Override
        public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
            frame.append(part);
            if (last) {
                heard(frame.toString());
                frame.setLength(0);
            }
            return WebSocket.Listener.super.onText(socket, part, last);
        }

        void heard(String message) {
            switch (find(TYPE, message)) {
                case "hello" -> replica.complete(find(REPLICA, message));
                case "message" -> {
                    String text = ESCAPE.matcher(find(TEXT, message)).replaceAll(escape ->
                        Matcher.quoteReplacement("" + (char) Integer.parseInt(escape.group(1), 16)));
                    synchronized (missing) {
                        missing.remove(text);
                        if (missing.isEmpty()) heardAll.complete(null);
                    }
                }
                default -> { }
            }
        }

        int received(int all) {
            synchronized (missing) {
                return all - missing.size();
            }
        }

        @Override
        public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
            closed.complete(null);
            return null;
        }

        @Override
        public void onError(WebSocket socket, Throwable error) {
            replica.completeExceptionally(error);
            heardAll.completeExceptionally(error);
            closed.completeExceptionally(error);
        }
    }

    static String find(Pattern field, String message) {
        Matcher found = field.matcher(message);
        return found.find() ? found.group(1) : "";
    }

    static SSLContext believing(String file) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (FileInputStream pem = new FileInputStream(file)) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    public static void main(String[] args) throws Exception {
        Map<String, String> given = new HashMap<>(Map.of("--tabs", "3", "--say", "hello", "--limit", "5"));
        for (int at = 0; at + 1 < args.length; at += 2) given.put(args[at], args[at + 1]);
        if (!given.containsKey("--url") || args.length % 2 == 1) {
            System.err.println("usage: " + USAGE);
            System.exit(2);
        }
        int count = Integer.parseInt(given.get("--tabs"));
        HttpClient.Builder builder = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10));
        if (given.containsKey("--ca")) builder.sslContext(believing(given.get("--ca")));
        HttpClient client = builder.build();
        List<String> texts = new ArrayList<>();
        for (int number = 0; number < count; number++) texts.add(given.get("--say") + " " + number);

        List<Tab> tabs = new ArrayList<>();
        List<WebSocket> sockets = new ArrayList<>();
        List<String> replicas = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            Tab tab = new Tab(texts);
            sockets.add(client.newWebSocketBuilder().buildAsync(URI.create(given.get("--url")), tab)
                .get(10, TimeUnit.SECONDS));
            replicas.add('"' + tab.replica.get(10, TimeUnit.SECONDS) + '"');
            tabs.add(tab);
        }
        for (int number = 0; number < count; number++) {
            String say = "{\"type\":\"say\",\"text\":\"" + texts.get(number) + "\"}";
            sockets.get(number).sendText(say, true).get(10, TimeUnit.SECONDS);
        }
        CompletableFuture<?>[] all = tabs.stream().map(tab -> tab.heardAll).toArray(CompletableFuture[]::new);
        try {
            long limit = (long) (1000 * Double.parseDouble(given.get("--limit")));
            CompletableFuture.allOf(all).get(limit, TimeUnit.MILLISECONDS);
        } catch (Exception late) {
            // What was not heard in time is in the report.
        }
        List<Integer> received = tabs.stream().map(tab -> tab.received(count)).collect(Collectors.toList());
        System.out.println("{\"replicas\": " + replicas + ", \"received\": " + received + "}");
        for (WebSocket socket : sockets) {
            socket.sendClose(WebSocket.NORMAL_CLOSURE, "").get(10, TimeUnit.SECONDS);
        }
        for (Tab tab : tabs) tab.closed.get(10, TimeUnit.SECONDS);
        System.exit(received.stream().allMatch(heard -> heard == count) ? 0 : 1);
    }
}
