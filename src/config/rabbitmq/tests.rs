//! What is read of a file that has worked with RabbitMQ.

use std::path::Path;

use crate::config::rabbitmq::Rabbitmq;
use crate::config::tls::{LoginFrom, TlsVersion, Verify};
use crate::config::{Config, LogFormat, LogLevel, Service, Watermark};

fn read(texts: &[&str], variables: &[(&str, &str)]) -> Result<(Config, Vec<String>), String> {
    let mut config = Config::default();
    let mut rabbitmq = Rabbitmq::default();
    for text in texts {
        let variable = |name: &str| (name == "HOST_MEMORY").then(|| "0.3".to_owned());
        rabbitmq.read(&mut config, text, variable).map_err(|error| error.to_string())?;
    }
    let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    rabbitmq.read_variables(&mut config, owned).map_err(|error| error.to_string())?;
    let unread = rabbitmq.finish(&mut config).map_err(|error| error.to_string())?;
    Ok((config, unread.into_iter().collect()))
}

fn shown(endpoints: &[impl ToString]) -> Vec<String> {
    endpoints.iter().map(ToString::to_string).collect()
}

#[test]
fn what_has_a_meaning_here_is_set() {
    let text = "\
        # A broker of a small company.\n\
        listeners.tcp.default = 5673\n\
        listeners.tcp.inside  = 127.0.0.1:5674  ## for tools\n\
        listeners.tcp.six = ::1:5675\n\
        proxy_protocol = true\n\
        default_user = shop\n\
        default_pass = 'has # and = in it'\n\
        default_vhost = orders\n\
        default_user_tags.monitoring = true\n\
        default_user_tags.administrator = false\n\
        default_permissions.configure = .*\n\
        loopback_users.guest = false\n\
        loopback_users.shop = true\n\
        heartbeat = 30\n\
        frame_max = 65536\n\
        max_message_size = 16M\n\
        connection_max = infinity\n\
        vm_memory_high_watermark.relative = $(HOST_MEMORY)\n\
        disk_free_limit.absolute = 2GB\n\
        management.tcp.port = 15673\n\
        prometheus.tcp.ip = 127.0.0.1\n\
        log.console = true\n\
        log.console.level = warning\n\
        log.console.formatter = json\n\
        load_definitions = /etc/rabbitmq/definitions.json\n";
    let (config, unread) = read(&[text], &[]).unwrap();
    assert_eq!(shown(&config.listeners), ["0.0.0.0:5673", "127.0.0.1:5674", "[::1]:5675"]);
    assert_eq!(shown(&config.proxy_protocol_from), ["0.0.0.0/0", "::/0"]);
    let user = &config.users[0];
    assert_eq!((&*user.name, user.password.expose()), ("shop", &b"has # and = in it"[..]));
    assert_eq!(
        (&config.vhosts, &user.vhosts, &user.tags),
        (&vec!["orders".to_owned()], &vec!["orders".to_owned()], &vec!["monitoring".to_owned()])
    );
    assert_eq!(config.loopback_users, ["shop"]);
    let limits = &config.limits;
    assert_eq!(
        (limits.heartbeat_seconds, limits.frame_max_bytes, limits.message_bytes_max),
        (30, 65_536, 16 << 20)
    );
    assert_eq!(limits.connections_max, 0);
    assert_eq!(config.memory.watermark, Watermark::Fraction(0.3));
    assert_eq!(config.storage.disk_free_limit, Some(2_000_000_000));
    assert_eq!(config.mgmt.to_string(), "0.0.0.0:15673");
    assert_eq!(config.prometheus.to_string(), "127.0.0.1:15692");
    assert_eq!((config.log.level, config.log.format), (LogLevel::Warn, LogFormat::Json));
    assert_eq!(config.definitions.as_deref(), Some(Path::new("/etc/rabbitmq/definitions.json")));
    assert_eq!(unread, Vec::<String>::new());
}

#[test]
fn tls_is_what_its_lines_say_together() {
    let own = "ssl_options.certfile = c.pem\nssl_options.keyfile = k.pem\nssl_options.cacertfile = a.pem\n";
    let (config, unread) =
        read(&[own, "listeners.ssl.default = 5671\nssl_options.verify = verify_none"], &[]).unwrap();
    assert_eq!(shown(&config.tls.listeners), ["0.0.0.0:5671"]);
    assert_eq!((config.tls.verify, config.tls.client_ca, unread.len()), (Verify::None, None, 0));
    let none = "listeners.ssl = none\nlisteners.ssl.default = 5671";
    assert_eq!(shown(read(&[own, none], &[]).unwrap().0.tls.amqp()), Vec::<String>::new());
    assert!(!read(&["listeners.ssl = none"], &[]).unwrap().0.tls.is_on());
    let of_mgmt =
        "management.ssl.certfile = m.pem\nmanagement.ssl.keyfile = n.pem\nmanagement.ssl.port = 15671";
    let tls = read(&[of_mgmt], &[]).unwrap().0.tls;
    assert_eq!(
        (tls.certificate.as_deref(), tls.key.as_deref()),
        (Some(Path::new("m.pem")), Some(Path::new("n.pem")))
    );
    assert_eq!((shown(tls.amqp()), tls.mgmt.to_string()), (Vec::<String>::new(), "0.0.0.0:15671".to_owned()));
    assert_eq!(tls.prometheus, Service::Nowhere);
    let told = read(&[own, "ssl_options.fail_if_no_peer_cert = true"], &[]).unwrap_err();
    assert!(told.contains("ssl_options.fail_if_no_peer_cert: nobody is asked"), "{told}");
    let asks = "ssl_options.verify = verify_peer\nssl_options.versions.1 = tlsv1.3\nssl_cert_login_from = common_name\n\
                management.ssl.port = 15672\nanonymous_login_user = none\n";
    let (config, _) = read(&[own, asks], &[]).unwrap();
    let tls = &config.tls;
    assert_eq!(
        (tls.verify, tls.version_min, tls.login_from),
        (Verify::Optional, TlsVersion::V1_3, LoginFrom::CommonName)
    );
    assert_eq!(tls.client_ca.as_deref(), Some(Path::new("a.pem")));
    assert_eq!((tls.mgmt.to_string(), config.anonymous_login_user), ("0.0.0.0:15672".to_owned(), None));
    assert_eq!((config.mgmt, config.prometheus), (Service::Nowhere, Service::Usual));
    let (config, _) = read(&[own, asks, "ssl_options.fail_if_no_peer_cert = true"], &[]).unwrap();
    assert_eq!(config.tls.verify, Verify::Required);
}

#[test]
fn what_has_none_is_told_once() {
    let text = "cluster_formation.peer_discovery_backend = k8s\nqueue_master_locator = min-masters\nlog.console = false\nlog.file.level = error\n";
    let (_, unread) = read(&[text, text], &[]).unwrap();
    assert_eq!(
        unread,
        ["cluster_formation.peer_discovery_backend", "log.console", "log.file.level", "queue_master_locator"]
    );
}

#[test]
fn later_files_are_above_earlier_ones_and_variables_above_all_but_listeners() {
    let (config, _) = read(&["default_user = one\nheartbeat = 10", "default_user = two"], &[]).unwrap();
    assert_eq!((&*config.users[0].name, config.limits.heartbeat_seconds), ("two", 10));
    let variables = [
        ("RABBITMQ_DEFAULT_USER", "three"),
        ("RABBITMQ_DEFAULT_PASS", "secret"),
        ("RABBITMQ_NODE_PORT", "5680"),
        ("RABBITMQ_NODENAME", "shop"),
        ("RABBITMQ_ERLANG_COOKIE", "biscuit"),
    ];
    let (config, _) = read(&["default_user = one\nlisteners.tcp.default = 5673"], &variables).unwrap();
    assert_eq!((&*config.users[0].name, config.users[0].password.expose()), ("three", &b"secret"[..]));
    assert_eq!(shown(&config.listeners), ["0.0.0.0:5673"]);
    let (config, _) = read(&["default_user = one"], &variables).unwrap();
    assert_eq!(shown(&config.listeners), ["0.0.0.0:5680"]);
    assert!(config.identity.node_name().starts_with("shop@"));
}

#[test]
fn some_lines_count_in_whatever_order_they_come() {
    let (one, other) =
        ("vm_memory_high_watermark.relative = 0.5", "vm_memory_high_watermark.absolute = 2GiB");
    for texts in [[one, other], [other, one]] {
        assert_eq!(read(&texts, &[]).unwrap().0.memory.watermark, Watermark::Fraction(0.5));
    }
    assert_eq!(read(&[other], &[]).unwrap().0.memory.watermark, Watermark::Bytes(2 << 30));
    let (one, other) = ("loopback_users = none", "loopback_users.guest = true");
    for texts in [[one, other], [other, one]] {
        assert_eq!(read(&texts, &[]).unwrap().0.loopback_users, Vec::<String>::new());
    }
    let (config, _) = read(&["frame_max = 0\nchannel_max = 0\nlisteners.tcp.1 = :::5672"], &[]).unwrap();
    assert_eq!((config.limits.frame_max_bytes, config.limits.channel_max), (16 << 20, 65_535));
    assert_eq!(shown(&config.listeners), ["[::]:5672"]);
}

#[test]
fn nothing_said_is_nothing_changed() {
    let (config, _) = read(&["# nothing\n\n"], &[]).unwrap();
    assert_eq!(config.to_commented_toml(), Config::default().to_commented_toml());
}

#[test]
fn a_mistake_is_named_by_its_line_and_never_tells_a_password() {
    for (text, told) in [
        ("\nheartbeat = often", "line 2: heartbeat: expected a duration"),
        ("heartbeat 60", "line 1: expected a line such as key = value"),
        ("frame_max = 1", "line 1: frame_max: must be between 4KiB and 16MiB"),
        ("listeners.tcp.default = 99999", "line 1: listeners.tcp.default: "),
        ("loopback_users.guest = maybe", "line 1: loopback_users.guest: expected true or false"),
        ("default_permissions.read = ^amq", "line 1: default_permissions.read: expected .*"),
        ("default_pass = encrypted:c2VjcmV0", "line 1: default_pass: encrypted values"),
        ("default_pass = 'secret", "line 1: default_pass: expected a quote"),
        ("default_pass = $(NOWHERE)", "line 1: default_pass: there is no environment variable NOWHERE"),
        ("listeners.tcp = none", "listeners: expected at least one"),
        ("default_pass = ", "users[0].password: an empty password"),
        ("log.console.level = loud", "line 1: log.console.level: expected one of"),
        (
            "vm_memory_high_watermark.absolute = much",
            "line 1: vm_memory_high_watermark.absolute: expected a size",
        ),
    ] {
        let error = read(&[text], &[]).unwrap_err();
        assert!(error.contains(told), "{text}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
