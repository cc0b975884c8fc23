//! The grammar of the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::bench;
use crate::config::{Endpoint, LocalSocket, Service, environment};

const AFTER_HELP: &str = "\
`sluicemq config` prints every setting with its default and what it means. Each can be set in the file of \
--config, and by a variable SLUICEMQ_ and its name in capitals, such as SLUICEMQ_LIMITS_FRAME_MAX_BYTES=\"64KiB\". \
A flag is above the environment, and that is above the file.";

const AFTER_FSCK_HELP: &str = "\
Exit code 0: everything is whole, or was repaired. 1: something is damaged. 2: the directory is in use, or there is \
none. 74: the disk does not do what it is asked.";

/// A message broker for AMQP 0-9-1 clients.
#[derive(Debug, Parser)]
#[command(name = "sluicemq", version, args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    #[command(flatten)]
    pub(super) settings: Settings,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs the broker; the same as no command at all
    #[command(after_help = AFTER_HELP)]
    Serve(Settings),
    /// Prints the configuration in effect as commented TOML
    #[command(after_help = AFTER_HELP)]
    Config(Settings),
    /// Checks everything in the data directory of a broker that is stopped
    #[command(after_help = AFTER_FSCK_HELP)]
    Fsck(FsckArgs),
    /// Administers a running broker, by rabbitmqctl's verbs: `sluicemq ctl help`
    #[command(disable_help_flag = true)]
    Ctl {
        /// A verb, and what it takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Loads an AMQP 0-9-1 broker, measures it and checks what comes back
    Bench(bench::Args),
    /// Prints what a shell completes this command line with
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Prints the manual page, in roff
    Man,
}

/// What flags can set.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Settings {
    /// Serve AMQP here, at an address or a host's name; may be given more than once
    /// [env: SLUICEMQ_LISTEN, comma-separated] [default: 127.0.0.1:5672]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) listen: Vec<Endpoint>,

    /// Serve the management API here, or "none" [env: SLUICEMQ_MGMT] [default: 127.0.0.1:15672, if it is free]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) mgmt: Option<Service>,

    /// Serve metrics here, without a password, or "none" [env: SLUICEMQ_PROMETHEUS]
    /// [default: 127.0.0.1:15692, if it is free]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) prometheus: Option<Service>,

    /// Let this machine's administrator in by this socket, or "none" [env: SLUICEMQ_SOCKET]
    /// [default: ctl.sock in the data directory]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<LocalSocket>,

    /// Keep everything durable in this directory [env: SLUICEMQ_DATA_DIR]
    /// [default: $XDG_STATE_HOME/sluicemq, or ~/.local/state/sluicemq]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,

    /// Read settings from this TOML file, or from a rabbitmq.conf and the conf.d beside it [default: no file]
    #[arg(long, visible_alias = "from", value_name = "FILE", env = environment::CONFIG_FILE, hide_env_values = true)]
    pub(super) config: Option<PathBuf>,
}

/// What `fsck` is told.
#[derive(Debug, clap::Args)]
pub(super) struct FsckArgs {
    /// Check this directory [env: SLUICEMQ_DATA_DIR]
    /// [default: $XDG_STATE_HOME/sluicemq, or ~/.local/state/sluicemq]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,

    /// Take the directory from this TOML file [default: no file]
    #[arg(long, value_name = "FILE", env = environment::CONFIG_FILE, hide_env_values = true)]
    pub(super) config: Option<PathBuf>,

    /// Set what is damaged aside, in the directory's corrupt/, so that the broker starts with everything else
    #[arg(long)]
    pub(super) repair: bool,
}
