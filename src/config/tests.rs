//! What a person writes, and what they are told.

use crate::config::{Config, LogFormat, LogLevel, Origin, Watermark};

/// The sentence a file is refused with.
fn refused(text: &str) -> String {
    Config::from_toml(text).err().map_or_else(|| "accepted".to_owned(), |error| error.to_string())
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (format!("SLUICEMQ_{name}"), (*value).to_owned())).collect()
}

#[test]
fn nothing_set_is_guest_on_loopback() {
    let config = Config::from_toml("").unwrap();
    assert_eq!(config.listeners, ["127.0.0.1:5672".parse().unwrap()]);
    assert_eq!(config.users[0].name, "guest");
    assert_eq!(config.users[0].password.expose(), b"guest");
    assert_eq!(config.users[0].vhosts, ["/"]);
    assert_eq!(config.loopback_users, ["guest"]);
    assert_eq!(config.limits.frame_max_bytes, 131_072);
    assert_eq!(config.limits.message_bytes_max, 128 << 20);
    assert_eq!(config.memory.watermark, Watermark::Fraction(0.6));
    assert_eq!((&*config.identity.product, &*config.identity.version), ("RabbitMQ", "3.13.7"));
}

#[test]
fn a_whole_file() {
    let config = Config::from_toml(
        r#"
        listeners = ["0.0.0.0:5672", "[::1]:5673"]
        mgmt = "127.0.0.1:15672"
        data_dir = "/tmp/x"
        vhosts = ["/", "orders"]
        loopback_users = []

        [[users]]
        name = "alice"
        password = "s3cret"
        vhosts = ["orders"]
        tags = ["monitoring"]

        [limits]
        frame_max_bytes = "64KiB"
        handshake_timeout_ms = "5s"
        heartbeat_seconds = "2m"
        partial_bodies_fraction = "10%"
        connections_max = 100

        [memory]
        watermark = "400MiB"

        [log]
        level = "debug"
        format = "json"
        "#,
    )
    .unwrap();
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.users.len(), 1);
    assert_eq!(config.users[0].tags, ["monitoring"]);
    assert_eq!(config.limits.frame_max_bytes, 65_536);
    assert_eq!(config.limits.handshake_timeout_ms, 5_000);
    assert_eq!(config.limits.heartbeat_seconds, 120);
    assert!((config.limits.partial_bodies_fraction - 0.1).abs() < 1e-9);
    assert_eq!(config.limits.connections_max, 100);
    assert_eq!(config.memory.watermark, Watermark::Bytes(400 << 20));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Debug, LogFormat::Json));
}

#[test]
fn a_mistake_is_told_with_its_line_and_key() {
    for (text, expected) in [
        ("\nlisten = []", "line 2: listen: unknown key `listen`: the nearest is `listeners`"),
        (
            "[limits]\n\nframes = 1",
            "line 3: limits.frames: unknown key `frames`: the nearest is `frame_max_bytes`",
        ),
        (
            "[limits]\nframe_max_bytes = \"10s\"",
            "line 2: limits.frame_max_bytes: expected a size such as \"64KiB\" or a whole number of bytes, found \"10s\"",
        ),
        (
            "[limits]\nframe_max_bytes = 100",
            "line 2: limits.frame_max_bytes: must be between 4KiB and 16MiB, found 100",
        ),
        (
            "limits.heartbeat_seconds = -1",
            "line 1: limits.heartbeat_seconds: must be between 0 s and 65535 s, found -1",
        ),
        (
            "[limits]\nmessage_bytes_max = \"1GiB\"",
            "line 2: limits.message_bytes_max: must be between 1 byte and 512MiB, found \"1GiB\"",
        ),
        (
            "[limits]\ntx_bytes_max = \"2GiB\"",
            "line 2: limits.tx_bytes_max: must be between 64KiB and 1GiB, found \"2GiB\"",
        ),
        (
            "limits.channel_max = true",
            "line 1: limits.channel_max: invalid type: boolean `true`, expected a whole number",
        ),
        ("limits.channel_max = 0.5", "line 1: limits.channel_max: expected a whole number, found 0.5"),
        (
            "[memory]\nwatermark = \"lots\"",
            "line 2: memory.watermark: expected a share of memory such as 0.6",
        ),
        (
            "[memory]\nwatermark = 1.5",
            "line 2: memory.watermark: a share of memory must be above 0 and at most 1",
        ),
        (
            "[log]\nlevel = \"loud\"",
            "line 2: log.level: expected one of error warn info debug trace, found \"loud\"",
        ),
        ("mgmt = \"15672\"", "line 1: mgmt: expected an address and port such as \"127.0.0.1:5672\""),
        ("listeners = []", "line 1: listeners: expected at least one address and port"),
        ("listeners = [\"[::1]:5673\", \"[::1]:5673\"]", "line 1: listeners[1]: [::1]:5673 is there twice"),
        ("wholly = 1", "line 1: wholly: unknown key `wholly`, expected one of `listeners`"),
        ("\nlisteners = [\n  \"localhost\"]", "line 2: listeners: expected an address and port"),
        (
            "identity.node = \"here\"",
            "line 1: identity.node: expected a name such as \"rabbit@host\", found \"here\"",
        ),
        ("vhosts = []", "line 1: vhosts: expected at least one vhost"),
        ("vhosts = [\"\"]", "line 1: vhosts[0]: a name has 1 to 255 bytes, found 0"),
        ("log = 1\nlog = 2", "line 2: duplicate key"),
        ("[limits\n", "line 1: "),
    ] {
        let told = refused(text);
        assert!(told.starts_with(expected), "{text:?}\n  told:     {told}\n  expected: {expected}");
        assert!(!told.contains('\n'), "one line: {told}");
    }
}

#[test]
fn users_are_checked_and_their_passwords_never_shown() {
    for (text, expected) in [
        (
            "[[users]]\nname = \"a\"\npassword = 12345",
            "line 3: users[0].password: expected a string in quotes",
        ),
        ("users = [\"a:12345\"]", "line 1: users[0]: expected a table with a name and a password"),
        ("[[users]]\nname = \"a\"", "line 1: users[0]: missing key `password`"),
        (
            "[[users]]\nname = \"a\"\npassword = \"\"",
            "line 3: users[0].password: an empty password never logs in",
        ),
        (
            "users = [{ name = \"a\", password = \"12345\" },\n { name = \"a\", password = \"12345\" }]",
            "line 2: users[1].name: user \"a\" is set twice",
        ),
        (
            "[[users]]\nname = \"a\"\npassword = \"12345\"\nvhosts = [\"x\"]",
            "line 4: users[0].vhosts: vhost \"x\" is not one of the vhosts [\"/\"]",
        ),
    ] {
        let told = refused(text);
        assert!(told.starts_with(expected), "{text:?}\n  told:     {told}\n  expected: {expected}");
        assert!(!told.contains("12345"), "{told}");
    }
    let config = Config::from_toml("[[users]]\nname = \"a\"\npassword = \"12345\"").unwrap();
    assert!(!format!("{config:?}").contains("12345"));
    assert!(!config.to_commented_toml().contains("12345"));
}

#[test]
fn the_environment_is_above_the_file() {
    let mut config = Config::from_toml("vhosts = [\"file\"]\nusers = []\nlimits.channel_max = 5").unwrap();
    let unknown = config.overlay(variables(&[
        ("LISTEN", "127.0.0.1:1, [::1]:2"),
        ("LIMITS_CHANNEL_MAX", "7"),
        ("LIMITS_OUTBOX_BYTES", "2MiB"),
        ("USERS", "[{ name = \"a\", password = \"12345\", vhosts = [] }]"),
        ("MEMORY_WATERMARK", "50%"),
        ("LOG_LEVEL", "warn"),
        ("PORT", "tcp://10.0.0.1:5672"),
        ("CONFIG", "/etc/sluicemq.toml"),
    ]));
    assert_eq!(unknown, Ok(vec!["SLUICEMQ_PORT".to_owned()]));
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.limits.channel_max, 7);
    assert_eq!(config.limits.outbox_bytes, 2 << 20);
    assert_eq!(config.users[0].name, "a");
    assert_eq!(config.vhosts, ["file"]);
    assert_eq!(config.log.level, LogLevel::Warn);
}

#[test]
fn a_wrong_variable_is_told_by_name() {
    let told = |name, value| Config::default().overlay(variables(&[(name, value)])).unwrap_err();
    let error = told("LIMITS_HEADER_TIMEOUT_MS", "5KiB");
    assert_eq!(error.origin, Origin::Variable("SLUICEMQ_LIMITS_HEADER_TIMEOUT_MS".to_owned()));
    assert_eq!(
        error.to_string(),
        "environment variable SLUICEMQ_LIMITS_HEADER_TIMEOUT_MS: expected a duration such as \"500ms\" or a whole \
         number of milliseconds, found \"5KiB\""
    );
    for (name, expected) in [
        ("MEMORY_WATERMARKS", "there is no such setting: the nearest is SLUICEMQ_MEMORY_WATERMARK"),
        ("LIMITS_FRAME_MAX", "there is no such setting: the nearest is SLUICEMQ_LIMITS_FRAME_MAX_BYTES"),
        ("XYZ", "there is no such setting: `sluicemq config` prints all there are"),
    ] {
        assert_eq!(told(name, "1").to_string(), format!("environment variable SLUICEMQ_{name}: {expected}"));
    }
    assert_eq!(
        told("MD5_PASSWORDS", "yes").to_string(),
        "environment variable SLUICEMQ_MD5_PASSWORDS: expected true or false, found \"yes\""
    );
    assert_eq!(
        told("DATA_DIR", "").to_string(),
        "environment variable SLUICEMQ_DATA_DIR: expected a directory, found nothing"
    );
    for (text, expected) in [
        (
            "[{ name = \"a\", password = 12345 }]",
            "users[0].password: expected a string in quotes; the form is",
        ),
        ("12345", "users: expected a sequence; the form is"),
        // What is no TOML at all has no key to be told.
        ("x12345", "string values must be quoted"),
        ("[12345", "unclosed array"),
    ] {
        let users = told("USERS", text).to_string();
        let expected = format!("environment variable SLUICEMQ_USERS: {expected}");
        assert!(users.starts_with(&expected) && !users.contains("12345"), "{text}: {users}");
    }
}

#[test]
fn what_is_printed_reads_back_once_the_passwords_are_put_in() {
    let mut config = Config {
        mgmt: "[::1]:15672".parse().unwrap(),
        prometheus: "none".parse().unwrap(),
        data_dir: Some("/tmp/\"odd\" name".into()),
        ..Config::default()
    };
    config.limits.frame_max_bytes = 5_001;
    let printed = config.to_commented_toml();
    assert!(printed.contains("# Largest frame offered to clients, in bytes"), "{printed}");
    assert!(printed.contains("frame_max_bytes = 5001"), "{printed}");
    let told = refused(&printed);
    assert!(told.contains("missing key `password`"), "{told}");
    let filled = printed.replace("# password = \"…\" (set, and not shown)", "password = \"guest\"");
    let read = Config::from_toml(&filled).unwrap();
    assert_eq!(read.to_commented_toml(), printed);
}
