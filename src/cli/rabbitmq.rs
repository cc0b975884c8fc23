//! Variables of RabbitMQ's own and of its container image: they are not read yet, and whoever sets one is told what is.

const OURS: [(&str, &str); 12] = [
    ("RABBITMQ_DEFAULT_USER", "[[users]] in the file of --config, or SLUICEMQ_USERS"),
    ("RABBITMQ_DEFAULT_PASS", "[[users]] in the file of --config, or SLUICEMQ_USERS"),
    ("RABBITMQ_DEFAULT_USER_FILE", "[[users]] in the file of --config, or SLUICEMQ_USERS"),
    ("RABBITMQ_DEFAULT_PASS_FILE", "[[users]] in the file of --config, or SLUICEMQ_USERS"),
    ("RABBITMQ_DEFAULT_VHOST", "vhosts in the file of --config, or SLUICEMQ_VHOSTS"),
    ("RABBITMQ_NODE_IP_ADDRESS", "--listen, or SLUICEMQ_LISTEN"),
    ("RABBITMQ_NODE_PORT", "--listen, or SLUICEMQ_LISTEN"),
    ("RABBITMQ_MNESIA_BASE", "--data-dir, or SLUICEMQ_DATA_DIR"),
    ("RABBITMQ_MNESIA_DIR", "--data-dir, or SLUICEMQ_DATA_DIR"),
    (
        "RABBITMQ_VM_MEMORY_HIGH_WATERMARK",
        "watermark below [memory] in the file of --config, or SLUICEMQ_MEMORY_WATERMARK",
    ),
    ("RABBITMQ_CONFIG_FILE", "--config with a file in the form that `sluicemq config` prints"),
    ("RABBITMQ_CONFIG_FILES", "--config with a file in the form that `sluicemq config` prints"),
];

/// A sentence for each that is set.
pub(super) fn unread() -> impl Iterator<Item = String> {
    let is_set = |(name, _): &(&str, &str)| std::env::var_os(name).is_some();
    OURS.into_iter().filter(is_set).map(|(name, ours)| format!("{name} is not read yet: set {ours}"))
}
